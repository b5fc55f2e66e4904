// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <stdexcept>
#include <string>
#include <string_view>

namespace kvbm {

/// What kind of failure happened; callers decide on this, people read the message.
enum class ErrorCode {
  InvalidArgument,  ///< a value that can never be right (page size 3, inner_dim % num_heads != 0)
  OutOfRange,       ///< an index or range beyond what the object has (block 71 of 64)
  Overflow,         ///< a size or address computation left the 64-bit range
  Unsupported,      ///< correct request that this build, machine or strategy cannot serve
  NotFound,         ///< a handle, file or device that does not exist (any more)
  AlreadyExists,    ///< a name, file or registration that is taken
  Busy,             ///< the object is in use and the call would pull it away
  Corrupt,          ///< stored or received bytes fail their checksum or structure
  VersionMismatch,  ///< written by a version that this one does not read
  OutOfMemory,      ///< an allocation or a pool limit was exceeded
  Io,               ///< the operating system refused an I/O operation; see native_code() for errno
  Device,           ///< a device runtime reported an error; see native_code()
  Timeout,          ///< the deadline passed before the work ended
  Cancelled,        ///< the caller asked to stop
  ShuttingDown,     ///< the owner is being destroyed
  PeerLost,         ///< a remote worker died, was stopped, or disconnected
  Internal,         ///< a broken invariant of kvbm itself
};

/// The enumerator's name, for messages and bindings.
std::string_view to_string(ErrorCode code) noexcept;

/// Base of every exception kvbm throws. Value type: copying shares nothing mutable.
class Error : public std::runtime_error {
 public:
  /// @param native_code  errno or a device runtime's code; 0 where there is none
  Error(ErrorCode code, std::string const& message, int native_code = 0);

  [[nodiscard]] ErrorCode code() const noexcept { return code_; }
  /// errno or the device runtime's own code; 0 where there is none.
  [[nodiscard]] int native_code() const noexcept { return native_code_; }
  /// Whether the same call may succeed later without a change by the caller.
  [[nodiscard]] bool retryable() const noexcept;

 private:
  ErrorCode code_;
  int native_code_;
};

/// Thrown where a caller would want to catch stored data that failed verification apart.
class CorruptError : public Error {
 public:
  explicit CorruptError(std::string const& message) : Error(ErrorCode::Corrupt, message) {}
};

/// Thrown when a deadline passed.
class TimeoutError : public Error {
 public:
  explicit TimeoutError(std::string const& message) : Error(ErrorCode::Timeout, message) {}
};

/// Thrown when the caller's stop token asked to stop.
class CancelledError : public Error {
 public:
  explicit CancelledError(std::string const& message) : Error(ErrorCode::Cancelled, message) {}
};

/// Thrown for what this build or machine cannot do, with the reason.
class UnsupportedError : public Error {
 public:
  explicit UnsupportedError(std::string const& message) : Error(ErrorCode::Unsupported, message) {}
};

/// Thrown when a remote worker died, was stopped, or disconnected: it may come back.
class PeerError : public Error {
 public:
  explicit PeerError(std::string const& message) : Error(ErrorCode::PeerLost, message) {}
};

/// Throws the subclass that belongs to `code` (CorruptError, TimeoutError, ...), else Error.
[[noreturn]] void throw_error(ErrorCode code, std::string const& message, int native_code = 0);

/// Message of errno `code` in words plus its number ("No space left on device (28)").
std::string describe_errno(int code);

}  // namespace kvbm

/// Throws kvbm::Error of `code` unless `condition`; the message is built only on failure.
#define KVBM_EXPECTS(condition, code, message)                                                \
  do {                                                                                        \
    if (!(condition)) [[unlikely]] { ::kvbm::throw_error(::kvbm::ErrorCode::code, message); } \
  } while (false)
