// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <exception>
#include <string>
#include <string_view>

#include "kvbm/object/s3_client.hpp"

namespace kvbm::object {

/// How an attempt failed.
struct S3Fault {
  S3ErrorKind kind = S3ErrorKind::Refused;
  int http_status = 0;
  int native_code = 0;  ///< errno, where kind leaves it open
  std::string reason;   ///< what follows "PUT URL: "
};

/// Whether another attempt may end better.
bool is_transient(S3Fault const& fault) noexcept;

/// The class and code that belong to the kind, with S3Failure.
std::exception_ptr make_s3_error(S3Fault const& fault, std::string const& message,
                                 std::uint32_t attempts);

/// The same failure with `context` and ": " in front of its message; others as they are.
std::exception_ptr with_context(std::exception_ptr const& error, std::string const& context);

/// Kind of a failed request; nullopt: the error is none of S3Client's.
std::optional<S3ErrorKind> kind_of(std::exception_ptr const& error);

/// What an answer that is no success means. @param is_bucket  the request named no key
S3Fault fault_of_answer(int http_status, std::string_view body, bool is_bucket);

}  // namespace kvbm::object
