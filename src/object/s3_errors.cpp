// SPDX-License-Identifier: Apache-2.0
#include "object/s3_errors.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <utility>

#include "object/text.hpp"

namespace kvbm::object {

namespace {

/// An error of the class that callers catch, which also says what S3 said.
template <typename Base>
class Failed final : public Base, public S3Failure {
 public:
  template <typename... Arguments>
  explicit Failed(S3Failure const& failure, Arguments&&... arguments)
      : Base(std::forward<Arguments>(arguments)...), S3Failure(failure) {}
};

std::exception_ptr make(S3Failure const& failure, ErrorCode code, std::string const& message,
                        int native_code) {
  switch (code) {
    case ErrorCode::Corrupt: return std::make_exception_ptr(Failed<CorruptError>(failure, message));
    case ErrorCode::Timeout: return std::make_exception_ptr(Failed<TimeoutError>(failure, message));
    default: return std::make_exception_ptr(Failed<Error>(failure, code, message, native_code));
  }
}

constexpr bool contains(std::initializer_list<std::string_view> names, std::string_view name) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

}  // namespace

std::string_view to_string(S3ErrorKind kind) noexcept {
  switch (kind) {
    case S3ErrorKind::NoSuchKey: return "NoSuchKey";
    case S3ErrorKind::NoSuchBucket: return "NoSuchBucket";
    case S3ErrorKind::AccessDenied: return "AccessDenied";
    case S3ErrorKind::Unreachable: return "Unreachable";
    case S3ErrorKind::Silent: return "Silent";
    case S3ErrorKind::Interrupted: return "Interrupted";
    case S3ErrorKind::Truncated: return "Truncated";
    case S3ErrorKind::WrongSize: return "WrongSize";
    case S3ErrorKind::Throttled: return "Throttled";
    case S3ErrorKind::Server: return "Server";
    case S3ErrorKind::Refused: return "Refused";
    case S3ErrorKind::Cancelled: return "Cancelled";
  }
  return "Unknown";
}

S3Failure const* s3_failure(Error const& error) noexcept {
  return dynamic_cast<S3Failure const*>(&error);
}

bool is_transient(S3Fault const& fault) noexcept {
  switch (fault.kind) {
    case S3ErrorKind::Unreachable:
      // A certificate that does not fit will not fit the next time.
      return fault.native_code != EPROTO;
    case S3ErrorKind::Silent:
    case S3ErrorKind::Interrupted:
    case S3ErrorKind::Truncated:
    case S3ErrorKind::Throttled:
    case S3ErrorKind::Server: return true;
    default: return false;
  }
}

std::exception_ptr make_s3_error(S3Fault const& fault, std::string const& message,
                                 std::uint32_t attempts) {
  S3Failure const failure(fault.kind, fault.http_status, attempts);
  switch (fault.kind) {
    case S3ErrorKind::NoSuchKey:
    case S3ErrorKind::NoSuchBucket: return make(failure, ErrorCode::NotFound, message, 0);
    case S3ErrorKind::AccessDenied: return make(failure, ErrorCode::Io, message, EACCES);
    case S3ErrorKind::Unreachable: return make(failure, ErrorCode::Io, message, fault.native_code);
    case S3ErrorKind::Silent: return make(failure, ErrorCode::Timeout, message, 0);
    case S3ErrorKind::Interrupted: return make(failure, ErrorCode::Io, message, ECONNRESET);
    case S3ErrorKind::Truncated:
    case S3ErrorKind::WrongSize: return make(failure, ErrorCode::Corrupt, message, 0);
    case S3ErrorKind::Throttled: return make(failure, ErrorCode::Busy, message, 0);
    case S3ErrorKind::Server: return make(failure, ErrorCode::Io, message, EIO);
    case S3ErrorKind::Refused: return make(failure, ErrorCode::Io, message, EPROTO);
    case S3ErrorKind::Cancelled: return make(failure, ErrorCode::ShuttingDown, message, 0);
  }
  return make(failure, ErrorCode::Internal, message, 0);
}

std::exception_ptr with_context(std::exception_ptr const& error, std::string const& context) {
  try {
    std::rethrow_exception(error);
  } catch (Error const& failed) {
    std::string const message = context + ": " + failed.what();
    if (auto const* const failure = s3_failure(failed)) {
      return make(*failure, failed.code(), message, failed.native_code());
    }
    try {
      throw_error(failed.code(), message, failed.native_code());
    } catch (...) { return std::current_exception(); }
  } catch (...) { return error; }
}

std::optional<S3ErrorKind> kind_of(std::exception_ptr const& error) {
  if (error == nullptr) { return std::nullopt; }
  try {
    std::rethrow_exception(error);
  } catch (S3Failure const& failure) { return failure.kind(); } catch (...) {
    return std::nullopt;
  }
}

S3Fault fault_of_answer(int http_status, std::string_view body, bool is_bucket) {
  std::string const code = printable(xml_text(body, "Code").value_or(""), 64);
  std::string const message = printable(xml_text(body, "Message").value_or(""), 300);
  S3Fault fault;
  fault.http_status = http_status;
  fault.reason = fmt::format("status {}{}{}{}{}", http_status, code.empty() ? "" : " ", code,
                             message.empty() ? "" : ": ", message);
  if (http_status == 404) {
    bool const no_bucket = code == "NoSuchBucket" || (code.empty() && is_bucket);
    fault.kind = no_bucket ? S3ErrorKind::NoSuchBucket : S3ErrorKind::NoSuchKey;
    fault.reason += no_bucket ? "; there is no such bucket: create it or name another"
                              : "; there is no such object";
  } else if (http_status == 401 || http_status == 403 ||
             contains({"InvalidAccessKeyId", "InvalidToken", "ExpiredToken", "InvalidSecurity",
                       "AuthorizationHeaderMalformed", "SignatureDoesNotMatch"},
                      code)) {
    fault.kind = S3ErrorKind::AccessDenied;
    fault.reason +=
        "; the server does not accept the credentials for this: check the access key, "
        "its secret, the region, the clock, and what the key may do with the bucket";
  } else if (http_status == 429 || http_status == 503 || code == "SlowDown") {
    fault.kind = S3ErrorKind::Throttled;
  } else if (http_status == 500 || http_status == 502 || http_status == 504 ||
             code == "RequestTimeout") {
    fault.kind = S3ErrorKind::Server;
  } else if (http_status == 416) {
    fault.kind = S3ErrorKind::WrongSize;
    fault.reason += "; the object is shorter than what was to be read";
  } else {
    fault.kind = S3ErrorKind::Refused;
  }
  return fault;
}

}  // namespace kvbm::object
