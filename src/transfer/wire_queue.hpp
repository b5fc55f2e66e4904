// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <condition_variable>
#include <exception>
#include <functional>
#include <mutex>
#include <thread>

namespace kvbm::transfer {

/// Runs one piece of work at a time on a thread of its own, which starts with the first.
///
/// Moving over a wire copies in the thread that asks for it (over CMA all of it), so a pipeline
/// that wants to fill one slot of its staging while another one moves needs a second thread.
/// Threads  for one user; the destructor waits for the work under way.
class WireQueue {
 public:
  WireQueue() = default;
  ~WireQueue();
  WireQueue(WireQueue const&) = delete;
  WireQueue& operator=(WireQueue const&) = delete;

  /// @pre  finish() was called for what was started before
  void start(std::function<void()> work);
  /// Waits for what was started. @throws what it threw; nothing where nothing was started
  void finish();

 private:
  void run();

  std::mutex mutex_;
  std::condition_variable changed_;
  std::function<void()> work_;  ///< empty: idle
  bool is_running_ = false;
  bool stopping_ = false;
  std::exception_ptr error_;
  std::thread thread_;
};

}  // namespace kvbm::transfer
