// SPDX-License-Identifier: Apache-2.0
#include "kvbm/core/error.hpp"

#include <fmt/format.h>

#include <system_error>

namespace kvbm {

std::string_view to_string(ErrorCode code) noexcept {
  switch (code) {
    case ErrorCode::InvalidArgument: return "InvalidArgument";
    case ErrorCode::OutOfRange: return "OutOfRange";
    case ErrorCode::Overflow: return "Overflow";
    case ErrorCode::Unsupported: return "Unsupported";
    case ErrorCode::NotFound: return "NotFound";
    case ErrorCode::AlreadyExists: return "AlreadyExists";
    case ErrorCode::Busy: return "Busy";
    case ErrorCode::Corrupt: return "Corrupt";
    case ErrorCode::VersionMismatch: return "VersionMismatch";
    case ErrorCode::OutOfMemory: return "OutOfMemory";
    case ErrorCode::Io: return "Io";
    case ErrorCode::Device: return "Device";
    case ErrorCode::Timeout: return "Timeout";
    case ErrorCode::Cancelled: return "Cancelled";
    case ErrorCode::ShuttingDown: return "ShuttingDown";
    case ErrorCode::PeerLost: return "PeerLost";
    case ErrorCode::Internal: return "Internal";
  }
  return "Unknown";
}

Error::Error(ErrorCode code, std::string const& message, int native_code)
    : std::runtime_error(message), code_(code), native_code_(native_code) {}

bool Error::retryable() const noexcept {
  return code_ == ErrorCode::Busy || code_ == ErrorCode::Timeout ||
         code_ == ErrorCode::OutOfMemory || code_ == ErrorCode::PeerLost;
}

void throw_error(ErrorCode code, std::string const& message, int native_code) {
  switch (code) {
    case ErrorCode::Corrupt: throw CorruptError(message);
    case ErrorCode::Timeout: throw TimeoutError(message);
    case ErrorCode::Cancelled: throw CancelledError(message);
    case ErrorCode::Unsupported: throw UnsupportedError(message);
    case ErrorCode::PeerLost: throw PeerError(message);
    default: throw Error(code, message, native_code);
  }
}

std::string describe_errno(int code) {
  return fmt::format("{} (errno {})", std::generic_category().message(code), code);
}

}  // namespace kvbm
