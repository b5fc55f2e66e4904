// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <limits>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>

namespace kvbm::device {

class StreamState;

/// A point in a stream's work: all of its first `ticket` pieces. Without a stream: the past.
struct Point {
  std::shared_ptr<StreamState> stream;
  std::uint64_t ticket = 0;

  [[nodiscard]] bool is_complete() const noexcept;
};

/// The queue and the thread of one host stream. Outlives the stream as long as its thread or
/// somebody's Point needs it.
///
/// A piece of work has a ticket, its ordinal from 1; since pieces end in order, one counter says
/// which have ended, and an event is a number instead of an entry in the queue.
/// One lock, which is never held while work runs or is destroyed.
class StreamState : public std::enable_shared_from_this<StreamState> {
 public:
  /// @param spin  whether waiting starts with a few microseconds of polling, which saves a wake-up
  ///              by the kernel where there are CPUs to spare
  StreamState(std::string name, bool spin);

  [[nodiscard]] std::string const& name() const noexcept { return name_; }

  /// Starts the thread if this is the first piece. @throws Error(Device) that failed
  void enqueue(std::function<void()> work);
  /// What follows waits for `point`.
  void enqueue_wait(Point point);
  /// As enqueue(), also after close(), unless no thread runs (any more) because there is nothing to
  /// wait for. @return whether it was enqueued
  bool try_enqueue(std::function<void()> work);

  /// The present end.
  [[nodiscard]] Point end();
  /// Calls `then` when the first `ticket` pieces have ended: on the stream's thread, or right here
  /// if they have. It must be short and must not throw.
  void when_ended(std::uint64_t ticket, std::function<void()> then);
  /// Blocks until the first `ticket` pieces have ended.
  /// @throws Error(InvalidArgument) on the stream's own thread, if they have not
  void wait_for(std::uint64_t ticket);
  [[nodiscard]] std::uint64_t num_ended() const noexcept {
    return ended_.load(std::memory_order_acquire);
  }
  [[nodiscard]] std::uint64_t num_enqueued() const noexcept {
    return enqueued_.load(std::memory_order_acquire);
  }
  [[nodiscard]] bool is_idle() const noexcept { return num_ended() >= num_enqueued(); }
  [[nodiscard]] bool on_own_thread() const;
  /// Whether the thread has nothing more to do and was told so.
  [[nodiscard]] bool is_finished() const noexcept {
    return finished_.load(std::memory_order_acquire);
  }

  /// Ends the thread once the queue is empty and hands it over for joining (not joinable if it
  /// never started). Nothing may be enqueued by the owner afterwards.
  [[nodiscard]] std::thread close();

 private:
  // Work, or a point to wait for.
  struct Item {
    std::function<void()> work;
    Point point;
  };

  void push(std::unique_lock<std::mutex>& lock, Item item);
  void run();
  // Tells whoever waits for tickets up to `ended`.
  void announce(std::unique_lock<std::mutex>& lock, std::uint64_t ended);
  void execute(Item& item) const noexcept;
  void poll_for_work() const noexcept;

  std::string const name_;
  bool const spin_;

  mutable std::mutex mutex_;
  std::condition_variable work_added_;
  std::condition_variable work_ended_;
  std::deque<Item> queue_;
  bool closing_ = false;
  std::thread thread_;
  std::thread::id thread_id_;
  std::multimap<std::uint64_t, std::function<void()>> continuations_;  // by ticket
  // Lowest ticket that somebody sleeps for or continues after, so that other pieces end without a
  // wake-up.
  std::uint64_t awaited_ticket_ = std::numeric_limits<std::uint64_t>::max();
  // Written under the lock, read without.
  std::atomic<std::uint64_t> enqueued_{0};
  std::atomic<std::uint64_t> ended_{0};
  std::atomic<bool> stop_polling_{false};
  std::atomic<bool> finished_{false};
};

inline bool Point::is_complete() const noexcept {
  return stream == nullptr || stream->num_ended() >= ticket;
}

/// Whether this process may use more than two CPUs: below that, a thread that polls keeps from
/// running what it polls for.
[[nodiscard]] bool has_cpus_to_spare() noexcept;

}  // namespace kvbm::device
