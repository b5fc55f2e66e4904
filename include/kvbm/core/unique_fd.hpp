// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <unistd.h>

#include <utility>

namespace kvbm {

/// A file descriptor that is owned: closed at the end.
/// Threads  as an int: one at a time.
class UniqueFd {
 public:
  /// None.
  UniqueFd() = default;
  /// Takes over what the kernel just gave; negative: none.
  explicit UniqueFd(int fd) noexcept : fd_(fd) {}
  ~UniqueFd() { reset(); }
  UniqueFd(UniqueFd&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  UniqueFd& operator=(UniqueFd&& other) noexcept {
    if (this != &other) { reset(std::exchange(other.fd_, -1)); }
    return *this;
  }
  UniqueFd(UniqueFd const&) = delete;
  UniqueFd& operator=(UniqueFd const&) = delete;

  [[nodiscard]] int get() const noexcept { return fd_; }
  [[nodiscard]] explicit operator bool() const noexcept { return fd_ >= 0; }
  /// Closes the present one; errors of close(2) are not told.
  void reset(int fd = -1) noexcept {
    if (fd_ >= 0) { ::close(fd_); }
    fd_ = fd;
  }
  /// Gives it away: whoever takes it closes it.
  [[nodiscard]] int release() noexcept { return std::exchange(fd_, -1); }

 private:
  int fd_ = -1;
};

}  // namespace kvbm
