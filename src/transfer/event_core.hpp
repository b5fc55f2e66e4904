// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "kvbm/transfer/event_system.hpp"
#include "transfer/completion_state.hpp"

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

namespace kvbm::transfer {

/// What tests replace so that they need not wait.
struct EventCoreOptions {
  using TimePoint = std::chrono::steady_clock::time_point;

  std::function<TimePoint()> now{};                    ///< empty: steady_clock
  std::chrono::nanoseconds log_after{60'000'000'000};  ///< pending for so long: logged
  std::chrono::nanoseconds log_again{30'000'000'000};  ///< and again after each of these
  std::chrono::nanoseconds log_pause{1'000'000'000};   ///< shortest time between two looks
  std::size_t log_lines = 16;  ///< most lines of one look; the rest is counted
};

/// A call of the future. Everything but `core` is guarded by the core's mutex_.
struct TimerEntry {
  enum class Status : std::uint8_t { Waiting, Running, Done };
  using Queue = std::multimap<std::chrono::steady_clock::time_point, std::shared_ptr<TimerEntry>>;

  std::weak_ptr<EventCore> core;
  std::function<void()> callback;
  Status status = Status::Waiting;
  Queue::iterator position{};  ///< valid while Waiting
};

/// What EventSystem, its thread, its events and its timers share.
///
/// Its thread holds it, so it lives until the thread has ended; states and timers refer to it
/// weakly.
///
/// Locks  slots_mutex_ guards the table of events, mutex_ the thread's work. Neither is held while
///        the other or a state's mutex is taken, nor while foreign code runs; dropping the last
///        reference to a state takes slots_mutex_, so that happens outside both.
class EventCore : public std::enable_shared_from_this<EventCore> {
 public:
  using TimePoint = std::chrono::steady_clock::time_point;

  explicit EventCore(EventCoreOptions options);

  [[nodiscard]] std::uint64_t worker_id() const noexcept { return worker_id_; }
  [[nodiscard]] std::size_t num_pending() const noexcept { return num_pending_.load(); }

  [[nodiscard]] std::shared_ptr<CompletionState> create(std::string description,
                                                        std::size_t num_blocks);
  [[nodiscard]] std::shared_ptr<CompletionState> find(EventHandle handle) const;
  /// Makes the slot of a state that is being destroyed free for reuse.
  void release(EventHandle handle) noexcept;
  /// Counts an event as no longer pending.
  void count_completed() noexcept { num_pending_.fetch_sub(1); }
  /// Queues the callbacks of a completed state. Allocates nothing.
  /// @return false if the thread has ended: the caller runs them
  [[nodiscard]] bool post(std::shared_ptr<CompletionState> state) noexcept;

  [[nodiscard]] std::shared_ptr<TimerEntry> add_timer(TimePoint when,
                                                      std::function<void()> callback);
  void cancel(TimerEntry& entry) noexcept;

  /// Ends the thread as the destructor of EventSystem promises.
  void shut_down() noexcept;
  /// Makes the thread look at the clock and the queue once more.
  void wake() noexcept;

 private:
  struct Slot {
    std::uint32_t generation = 0;
    std::weak_ptr<CompletionState> state;
  };
  struct Queue {
    std::shared_ptr<CompletionState> head;
    CompletionState* tail = nullptr;
  };

  [[nodiscard]] TimePoint now() const;
  void ensure_running();
  void arm_pending_log();
  void run() noexcept;
  bool run_due_timers(std::unique_lock<std::mutex>& lock, TimePoint until);
  bool run_queue(Queue queue) noexcept;
  void sleep(std::unique_lock<std::mutex>& lock);
  /// Logs what is pending for too long. @return when to look again; max(): nothing is pending
  TimePoint log_pending(TimePoint at) noexcept;
  void fail_pending() noexcept;
  [[nodiscard]] std::shared_ptr<CompletionState> state_of_slot(std::size_t slot) const noexcept;

  EventCoreOptions const options_;
  std::uint64_t const worker_id_;
  std::atomic<std::size_t> num_pending_{0};
  std::atomic<bool> running_{false};
  std::atomic<bool> log_armed_{false};  // whether log_at_ is set

  mutable std::mutex slots_mutex_;
  std::vector<Slot> slots_;
  std::vector<std::uint32_t> free_slots_;  // capacity of slots_, so that release() cannot fail
  bool refuses_events_ = false;

  std::mutex mutex_;
  std::condition_variable wake_;
  std::condition_variable timer_ended_;
  std::thread thread_;
  std::thread::id thread_id_;
  Queue queue_;
  TimerEntry::Queue timers_;
  TimePoint log_at_ = TimePoint::max();
  bool woken_ = false;     // there may be new work since the thread last looked
  bool stopping_ = false;  // the EventSystem is going away
  bool ended_ = false;     // the thread takes no more work
};

/// The door for tests and for rooms that need a system with another clock.
struct EventSystemAccess {
  static std::shared_ptr<EventSystem> create(EventCoreOptions options);
  static EventCore& core(EventSystem& system) noexcept { return *system.core_; }
};

}  // namespace kvbm::transfer
