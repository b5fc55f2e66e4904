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
  Queue() = default;
  Queue(Queue const&) = delete;
  Queue& operator=(Queue const&) = delete;
  /// Ends the callback's thread, unless it is that thread which drops the last reference.
  ~Queue();

  void push(WriteNotification const& notification);
  /// Nothing more will come.
  void close();
  std::optional<WriteNotification> next(std::chrono::nanoseconds timeout);
  void on_each(std::function<void(WriteNotification const&)> callback);

 private:
  /// Lives as long as the callback's thread, which may outlive the queue by one callback.
  struct Shared {
    std::mutex mutex;
    std::condition_variable changed;
    std::deque<WriteNotification> waiting;
    bool closed = false;     ///< nothing more will come
    bool abandoned = false;  ///< nobody wants what is left
    bool has_callback = false;
  };
  static void run(std::shared_ptr<Shared> const& shared,
                  std::function<void(WriteNotification const&)> const& callback);

  std::shared_ptr<Shared> shared_ = std::make_shared<Shared>();
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
  std::vector<std::weak_ptr<WriteNotices::Queue>> queues_;
  std::deque<WriteNotification> unclaimed_;  ///< came before the first subscriber
  bool had_subscriber_ = false;
  bool closed_ = false;
};

}  // namespace kvbm::remote
