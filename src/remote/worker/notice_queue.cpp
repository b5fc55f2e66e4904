// SPDX-License-Identifier: Apache-2.0
#include "remote/worker/notice_queue.hpp"

#include <pthread.h>

#include <algorithm>
#include <string>
#include <utility>

#include "kvbm/core/error.hpp"
#include "kvbm/core/log.hpp"

namespace kvbm::remote {

WriteNotices::Queue::~Queue() {
  {
    std::lock_guard const lock(shared_->mutex_);
    shared_->closed_ = true;
    shared_->abandoned_ = true;
  }
  shared_->changed_.notify_all();
  if (!thread_.joinable()) { return; }
  if (thread_.get_id() == std::this_thread::get_id()) {
    thread_.detach();  // it ends behind the callback that brought it here
  } else {
    thread_.join();
  }
}

void WriteNotices::Queue::Shared::push(WriteNotification const& notification) {
  {
    std::lock_guard const lock(mutex_);
    if (closed_) { return; }
    waiting_.push_back(notification);
  }
  changed_.notify_all();  // one of them may only wait for the end
}

void WriteNotices::Queue::Shared::close() {
  {
    std::lock_guard const lock(mutex_);
    closed_ = true;
  }
  changed_.notify_all();
}

std::optional<WriteNotification> WriteNotices::Queue::next(std::chrono::nanoseconds timeout) {
  // A deadline far in the future would wrap.
  auto const bounded = std::min<std::chrono::nanoseconds>(timeout, std::chrono::hours(24 * 365));
  auto const deadline = std::chrono::steady_clock::now() + bounded;
  std::unique_lock lock(shared_->mutex_);
  auto const has_any = [this] { return !shared_->has_callback_ && !shared_->waiting_.empty(); };
  shared_->changed_.wait_until(lock, deadline, [&] { return has_any() || shared_->closed_; });
  if (!has_any()) { return std::nullopt; }
  auto const first = shared_->waiting_.front();
  shared_->waiting_.pop_front();
  return first;
}

void WriteNotices::Queue::on_each(std::function<void(WriteNotification const&)> callback) {
  std::lock_guard const lock(shared_->mutex_);
  KVBM_EXPECTS(!shared_->has_callback_, InvalidArgument,
               "on_each: this subscription has a callback already");
  thread_ =
      std::thread([shared = shared_, callback = std::move(callback)] { run(*shared, callback); });
  shared_->has_callback_ = true;
}

void WriteNotices::Queue::run(Shared& shared,
                              std::function<void(WriteNotification const&)> const& callback) {
  pthread_setname_np(pthread_self(), "kvbm-notices");
  std::unique_lock lock(shared.mutex_);
  while (true) {
    shared.changed_.wait(lock, [&] { return !shared.waiting_.empty() || shared.closed_; });
    if (shared.abandoned_ || shared.waiting_.empty()) { return; }
    auto const notification = shared.waiting_.front();
    shared.waiting_.pop_front();
    lock.unlock();
    try {
      callback(notification);
    } catch (std::exception const& error) {
      log::write(log::Level::Error,
                 std::string("a subscriber of write notifications threw: ") + error.what());
    } catch (...) {
      log::write(log::Level::Error, "a subscriber of write notifications threw no std::exception");
    }
    lock.lock();
  }
}

WriteNotices NoticeBoard::subscribe() {
  auto queue = std::make_shared<WriteNotices::Queue>();
  std::lock_guard const lock(mutex_);
  for (auto const& notification : std::exchange(unclaimed_, {})) {
    queue->shared()->push(notification);
  }
  had_subscriber_ = true;
  if (closed_) { queue->shared()->close(); }
  queues_.push_back(queue->shared());
  return WriteNotices(std::move(queue));
}

bool NoticeBoard::push(WriteNotification const& notification) {
  std::lock_guard const lock(mutex_);
  if (!had_subscriber_) {
    unclaimed_.push_back(notification);
    if (unclaimed_.size() <= kMaxUnclaimed) { return false; }
    unclaimed_.pop_front();
    return true;
  }
  std::erase_if(queues_, [](auto const& queue) { return queue.expired(); });
  for (auto const& weak : queues_) {
    if (auto const queue = weak.lock()) { queue->push(notification); }
  }
  return false;
}

void NoticeBoard::close() {
  std::lock_guard const lock(mutex_);
  closed_ = true;
  for (auto const& weak : queues_) {
    if (auto const queue = weak.lock()) { queue->close(); }
  }
}

}  // namespace kvbm::remote
