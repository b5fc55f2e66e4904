// SPDX-License-Identifier: Apache-2.0
#include "transfer/wire_queue.hpp"

#include <pthread.h>

#include <utility>

namespace kvbm::transfer {

WireQueue::~WireQueue() {
  {
    std::lock_guard const lock(mutex_);
    stopping_ = true;
  }
  changed_.notify_all();
  if (thread_.joinable()) { thread_.join(); }
}

void WireQueue::start(std::function<void()> work) {
  {
    std::lock_guard const lock(mutex_);
    if (!thread_.joinable()) {  // first: where it does not start, nothing is under way
      thread_ = std::thread([this] { run(); });
    }
    work_ = std::move(work);
    is_running_ = true;
  }
  changed_.notify_all();
}

void WireQueue::finish() {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [this] { return !is_running_; });
  if (auto const error = std::exchange(error_, nullptr)) { std::rethrow_exception(error); }
}

void WireQueue::run() {
  pthread_setname_np(pthread_self(), "kvbm-wire");
  std::unique_lock lock(mutex_);
  while (true) {
    changed_.wait(lock, [this] { return stopping_ || work_; });
    if (!work_) { return; }
    auto work = std::exchange(work_, nullptr);
    lock.unlock();
    std::exception_ptr error;
    try {
      work();
    } catch (...) { error = std::current_exception(); }
    work = nullptr;
    lock.lock();
    error_ = error;
    is_running_ = false;
    changed_.notify_all();
  }
}

}  // namespace kvbm::transfer
