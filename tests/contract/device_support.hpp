// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <gtest/gtest.h>

#include <chrono>
#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>

#include "kvbm/core/error.hpp"

/// What the tests of devices share.
namespace kvbm::device::contract {

/// Opened once. Waiting is bounded, so that a bug shows as a failure and not as a hang.
class Latch {
 public:
  void open() {
    std::lock_guard const lock(mutex_);
    open_ = true;
    opened_.notify_all();
  }
  /// @return whether it was opened before the watchdog barked
  [[nodiscard]] bool wait() {
    std::unique_lock lock(mutex_);
    return opened_.wait_for(lock, std::chrono::seconds(60), [this] { return open_; });
  }
  [[nodiscard]] bool is_open() {
    std::lock_guard const lock(mutex_);
    return open_;
  }

 private:
  std::mutex mutex_;
  std::condition_variable opened_;
  bool open_ = false;
};
using LatchPtr = std::shared_ptr<Latch>;

/// The code of the kvbm::Error that `action` throws; a failure if it throws none.
inline ErrorCode code_of(std::function<void()> const& action) {
  try {
    action();
  } catch (Error const& error) { return error.code(); }
  ADD_FAILURE() << "nothing was thrown";
  return ErrorCode::Internal;
}

}  // namespace kvbm::device::contract
