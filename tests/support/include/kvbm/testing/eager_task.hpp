// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <condition_variable>
#include <coroutine>
#include <exception>
#include <memory>
#include <mutex>
#include <thread>

namespace kvbm::testing {

/// A coroutine that starts at once and whose end an ordinary thread can wait for.
///
/// Threads  join() may be called from any thread, ended_on() after it.
class EagerTask {
  struct Shared {
    std::mutex mutex;
    std::condition_variable ended;
    bool has_ended = false;
    std::exception_ptr error;
    std::thread::id thread;
  };

 public:
  struct promise_type {  // NOLINT(readability-identifier-naming): the language asks for this name
    std::shared_ptr<Shared> shared = std::make_shared<Shared>();

    EagerTask get_return_object() { return EagerTask(shared); }
    std::suspend_never initial_suspend() noexcept { return {}; }
    std::suspend_never final_suspend() noexcept { return {}; }
    void return_void() { end(nullptr); }
    void unhandled_exception() { end(std::current_exception()); }

   private:
    void end(std::exception_ptr error) {
      {
        std::lock_guard const lock(shared->mutex);
        shared->error = std::move(error);
        shared->thread = std::this_thread::get_id();
        shared->has_ended = true;
      }
      shared->ended.notify_all();
    }
  };

  /// Waits for the end of the coroutine; rethrows what it threw.
  void join() const {
    std::unique_lock lock(shared_->mutex);
    shared_->ended.wait(lock, [this] { return shared_->has_ended; });
    if (shared_->error) { std::rethrow_exception(shared_->error); }
  }
  /// Whether the coroutine has ended.
  [[nodiscard]] bool has_ended() const {
    std::lock_guard const lock(shared_->mutex);
    return shared_->has_ended;
  }
  /// The thread on which the coroutine ended.
  [[nodiscard]] std::thread::id ended_on() const {
    std::lock_guard const lock(shared_->mutex);
    return shared_->thread;
  }

 private:
  explicit EagerTask(std::shared_ptr<Shared> shared) : shared_(std::move(shared)) {}
  std::shared_ptr<Shared> shared_;
};

}  // namespace kvbm::testing
