// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "object/request.hpp"
#include "object/s3_errors.hpp"

namespace kvbm::object {

/// Takes the answer to one attempt apart: headers, then the body to where the request wants it.
class Response {
 public:
  explicit Response(Request const& request) : request_(request) {}

  /// One line of the head, the status line first.
  void take_header(std::string_view line);
  /// @return whether to go on; where not, fault() says why
  bool take_body(char const* data, std::size_t bytes);
  /// After everything came.
  void finish();

  [[nodiscard]] std::optional<S3Fault> const& fault() const noexcept { return fault_; }
  /// 0: not even a status line came.
  [[nodiscard]] int status() const noexcept { return status_; }
  [[nodiscard]] std::uint64_t received() const noexcept { return received_; }
  [[nodiscard]] S3Object take_object() { return std::move(object_); }
  [[nodiscard]] std::string take_text() { return std::move(text_); }

 private:
  [[nodiscard]] bool is_success() const noexcept { return status_ >= 200 && status_ < 300; }
  void check_head();
  bool scatter(char const* data, std::size_t bytes);
  void fail(S3ErrorKind kind, std::string reason);

  Request const& request_;
  int status_ = 0;
  bool is_head_checked_ = false;
  std::optional<std::uint64_t> content_length_;
  std::string content_range_;
  std::string region_;
  S3Object object_;
  std::string text_;  // of the answer where it is wanted, or of an error
  std::uint64_t received_ = 0;
  std::size_t piece_ = 0;
  std::uint64_t piece_done_ = 0;
  std::optional<S3Fault> fault_;
};

}  // namespace kvbm::object
