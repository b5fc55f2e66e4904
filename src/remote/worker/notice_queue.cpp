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
    std::lock_guard const lock(shared_->mutex);
    shared_->closed = true;
    shared_->abandoned = true;
  }
  shared_->changed.notify_all();
  if (!thread_.joinable()) { return; }
  if (thread_.get_id() == std::this_thread::get_id()) {
    thread_.detach();  // it ends behind the callback that brought it here
  } else {
    thread_.join();
  }
}

void WriteNotices::Queue::push(WriteNotification const& notification) {
  {
    std::lock_guard const lock(shared_->mutex);
    if (shared_->closed) { return; }
    shared_->waiting.push_back(notification);
  }
  shared_->changed.notify_one();
}

void WriteNotices::Queue::close() {
  {
    std::lock_guard const lock(shared_->mutex);
    shared_->closed = true;
  }
  shared_->changed.notify_all();
}

std::optional<WriteNotification> WriteNotices::Queue::next(std::chrono::nanoseconds timeout) {
  // A deadline far in the future would wrap.
  auto const bounded = std::min<std::chrono::nanoseconds>(timeout, std::chrono::hours(24 * 365));
  auto const deadline = std::chrono::steady_clock::now() + bounded;
  std::unique_lock lock(shared_->mutex);
  shared_->changed.wait_until(lock, deadline,
                              [this] { return !shared_->waiting.empty() || shared_->closed; });
  if (shared_->waiting.empty()) { return std::nullopt; }
  auto const first = shared_->waiting.front();
  shared_->waiting.pop_front();
  return first;
}

void WriteNotices::Queue::on_each(std::function<void(WriteNotification const&)> callback) {
  std::lock_guard const lock(shared_->mutex);
  KVBM_EXPECTS(!shared_->has_callback, InvalidArgument,
               "on_each: this subscription has a callback already");
  shared_->has_callback = true;
  thread_ =
      std::thread([shared = shared_, callback = std::move(callback)] { run(shared, callback); });
}

void WriteNotices::Queue::run(std::shared_ptr<Shared> const& shared,
                              std::function<void(WriteNotification const&)> const& callback) {
  pthread_setname_np(pthread_self(), "kvbm-notices");
  std::unique_lock lock(shared->mutex);
  while (true) {
    shared->changed.wait(lock, [&] { return !shared->waiting.empty() || shared->closed; });
    if (shared->abandoned || shared->waiting.empty()) { return; }
    auto const notification = shared->waiting.front();
    shared->waiting.pop_front();
    lock.unlock();
    try {
      callback(notification);
    } catch (std::exception const& error) {
      log::write(log::Level::Error,
                 std::string("a subscriber of write notifications threw: ") + error.what());
    }
    lock.lock();
  }
}

WriteNotices NoticeBoard::subscribe() {
  auto queue = std::make_shared<WriteNotices::Queue>();
  std::lock_guard const lock(mutex_);
  for (auto const& notification : std::exchange(unclaimed_, {})) {
    queue->push(notification);
  }
  had_subscriber_ = true;
  if (closed_) { queue->close(); }
  queues_.push_back(queue);
  return WriteNotices(std::move(queue));
}

bool NoticeBoard::push(WriteNotification const& notification) {
  // Declared before the lock: the last reference to a queue may end here, and its callback's
  // thread with it, which may be waiting for the lock.
  std::vector<std::shared_ptr<WriteNotices::Queue>> queues;
  std::lock_guard const lock(mutex_);
  if (!had_subscriber_) {
    unclaimed_.push_back(notification);
    if (unclaimed_.size() <= kMaxUnclaimed) { return false; }
    unclaimed_.pop_front();
    return true;
  }
  std::erase_if(queues_, [](auto const& queue) { return queue.expired(); });
  for (auto const& weak : queues_) {
    if (auto queue = weak.lock()) {
      queue->push(notification);
      queues.push_back(std::move(queue));
    }
  }
  return false;
}

void NoticeBoard::close() {
  std::vector<std::shared_ptr<WriteNotices::Queue>> queues;  // before the lock: see push()
  std::lock_guard const lock(mutex_);
  closed_ = true;
  for (auto const& weak : queues_) {
    if (auto queue = weak.lock()) {
      queue->close();
      queues.push_back(std::move(queue));
    }
  }
}

}  // namespace kvbm::remote
