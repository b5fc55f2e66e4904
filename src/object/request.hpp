// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "kvbm/object/s3_client.hpp"

namespace kvbm::object {

enum class Method { Get, Put, Head, Delete };

constexpr char const* to_string(Method method) noexcept {
  switch (method) {
    case Method::Get: return "GET";
    case Method::Put: return "PUT";
    case Method::Head: return "HEAD";
    case Method::Delete: return "DELETE";
  }
  return "";
}

/// Is told how a request ended, on a thread of the client. Outlives the request.
class RequestSink {
 public:
  RequestSink() = default;
  virtual ~RequestSink() = default;
  RequestSink(RequestSink const&) = delete;
  RequestSink& operator=(RequestSink const&) = delete;
  virtual void done(std::size_t index, S3Outcome&& outcome, std::string&& text) noexcept = 0;
};

/// A request with all its attempts.
struct Request {
  Method method = Method::Get;
  std::string key;  ///< empty: the bucket
  std::vector<std::pair<std::string, std::string>> query;

  // PUT
  std::vector<std::span<std::byte const>> body;
  std::uint64_t body_bytes = 0;
  S3Metadata metadata;
  std::string payload_hash;  ///< what the signature covers
  /// The key of an object of the bucket that is copied on the server; empty: the body is put.
  std::string copy_source;

  // GET: into pieces, or as text
  std::uint64_t offset = 0;
  std::vector<S3Piece> into;
  std::uint64_t into_bytes = 0;
  std::optional<std::uint64_t> object_bytes;
  bool is_text = false;
  std::uint64_t max_text_bytes = 0;

  std::uint32_t max_retries = 0;
  /// Off: an endpoint that cannot be reached or is silent is not asked again.
  bool retries_connection = true;
  std::chrono::milliseconds deadline{0};

  RequestSink* sink = nullptr;
  std::size_t index = 0;

  /// Whether the answer has only a part of the object.
  [[nodiscard]] bool has_range() const noexcept {
    return method == Method::Get && !is_text &&
           (offset != 0 || !object_bytes || *object_bytes != into_bytes);
  }
};

}  // namespace kvbm::object
