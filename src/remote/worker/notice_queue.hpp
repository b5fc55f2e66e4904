// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <condition_variable>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <thread>
#include <vector>

#include "kvbm/remote/notices.hpp"

namespace kvbm::remote {

/// What one subscriber has not taken yet.
class WriteNotices::Queue {
 public:
  /// What the subscriber, the board and the callback's thread share. Only the subscriber holds the
  /// queue itself, so that nobody else ever waits for its callback.
  class Shared {
   public:
    void push(WriteNotification const& notification);
    /// Nothing more will come.
    void close();

   private:
    friend class Queue;
    std::mutex mutex_;
    std::condition_variable changed_;
    std::deque<WriteNotification> waiting_;
    bool closed_ = false;     ///< nothing more will come
    bool abandoned_ = false;  ///< nobody wants what is left
    bool has_callback_ = false;
  };

  Queue() = default;
  Queue(Queue const&) = delete;
  Queue& operator=(Queue const&) = delete;
  /// Ends the callback's thread, unless it is that thread which drops the last reference.
  ~Queue();

  [[nodiscard]] std::shared_ptr<Shared> const& shared() const noexcept { return shared_; }
  std::optional<WriteNotification> next(std::chrono::nanoseconds timeout);
  void on_each(std::function<void(WriteNotification const&)> callback);

 private:
  static void run(Shared& shared, std::function<void(WriteNotification const&)> const& callback);

  std::shared_ptr<Shared> const shared_ = std::make_shared<Shared>();
  std::thread thread_;
};

/// All subscribers of a worker.
class NoticeBoard {
 public:
  NoticeBoard() = default;
  NoticeBoard(NoticeBoard const&) = delete;
  NoticeBoard& operator=(NoticeBoard const&) = delete;
  ~NoticeBoard() { close(); }

  [[nodiscard]] WriteNotices subscribe();
  /// @return whether nobody will ever receive some notification, because too many came first
  bool push(WriteNotification const& notification);
  void close();

 private:
  static constexpr std::size_t kMaxUnclaimed = 65536;

  std::mutex mutex_;
  std::vector<std::weak_ptr<WriteNotices::Queue::Shared>> queues_;
  std::deque<WriteNotification> unclaimed_;  ///< came before the first subscriber
  bool had_subscriber_ = false;
  bool closed_ = false;
};

}  // namespace kvbm::remote
