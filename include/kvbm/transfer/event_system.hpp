// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "kvbm/transfer/notification.hpp"

namespace kvbm::transfer {

class EventCore;
class EventSystem;
struct TimerEntry;

/// Names an event of one event system: stale and foreign handles are recognised. Good for as long
/// as the event's Completion or any notification of it lives; its slot is used again after that.
struct EventHandle {
  std::uint64_t worker_id = 0;   ///< of the event system that made it
  std::uint32_t slot = 0;        ///< index among the event system's events
  std::uint32_t generation = 0;  ///< counts the uses of the slot, from 1
  /// Same event of the same event system.
  friend bool operator==(EventHandle const&, EventHandle const&) = default;
};

/// The side that completes an event: move-only; completes it exactly once. Dropped without, the
/// event fails with Error(Internal) "abandoned", so that nobody waits for ever.
///
/// Threads  trigger() and poison() may race: one of them wins, the other throws. An event that the
///          event system's destructor has failed already stays so; completing it then does nothing.
/// Lifetime keeps the outcome, not the event system; may outlive it.
class Completion {
 public:
  /// Empty: stands for no event.
  Completion() noexcept = default;
  Completion(Completion&&) noexcept = default;
  Completion& operator=(Completion&&) noexcept;
  Completion(Completion const&) = delete;
  Completion& operator=(Completion const&) = delete;
  ~Completion();

  /// Success. Wakes waiters before it returns; callbacks run on the event system's thread.
  /// @throws Error(InvalidArgument) completed already or empty
  void trigger();
  /// Failure. Wakes waiters like trigger().
  /// @param error          not null
  /// @param failed_blocks  positions in the transfer's block lists, in any order; one without an
  /// error
  ///                       of its own gets `error`
  /// @throws Error(InvalidArgument) completed already or empty, or null error
  void poison(std::exception_ptr error, std::vector<FailedBlock> failed_blocks = {});

  /// The waiting side; any number of times, also after completion.
  /// @throws Error(InvalidArgument) empty
  [[nodiscard]] TransferCompleteNotification notification() const;
  /// The event's name within its event system.  @throws Error(InvalidArgument) empty
  [[nodiscard]] EventHandle handle() const;
  /// Whether it still waits for trigger() or poison(); false where empty.
  [[nodiscard]] bool is_pending() const noexcept;

 private:
  friend class EventSystem;
  explicit Completion(std::shared_ptr<CompletionState> state) : state_(std::move(state)) {}
  std::shared_ptr<CompletionState> state_;
};

/// Makes events, runs callbacks and deadlines on one thread that sleeps when there is nothing to
/// do (it starts with the first need), and logs what is pending for over 60 s, again every 30 s.
///
/// Threads  all methods may be called concurrently.
/// Lifetime the destructor stops the thread after the callbacks that are due; events that are still
///          pending then fail with Error(ShuttingDown), and their callbacks run; timers that are
///          not due never run. It returns when all of that is done; where a callback drops the last
///          reference, all of that follows as soon as the callback returns.
class EventSystem : public std::enable_shared_from_this<EventSystem> {
 public:
  /// A new event system with its own worker id. Its thread starts with the first event or timer.
  static std::shared_ptr<EventSystem> create();
  ~EventSystem();
  EventSystem(EventSystem const&) = delete;
  EventSystem& operator=(EventSystem const&) = delete;

  /// Random, never 0, unique per event system and process instance.
  [[nodiscard]] std::uint64_t worker_id() const noexcept;

  /// A new pending event.
  /// @param description  shown when it stays pending ("Device->Disk, 64 blocks")
  /// @param num_blocks   length of the transfer's block lists, 0 where it has none
  /// @throws Error(ShuttingDown) during destruction; Error(OutOfMemory) the thread cannot be
  /// started
  [[nodiscard]] Completion create_event(std::string description = {}, std::size_t num_blocks = 0);

  /// The waiting side of a handle's event.
  /// @throws Error(InvalidArgument) another system's handle; Error(NotFound) stale handle
  [[nodiscard]] TransferCompleteNotification awaiter(EventHandle handle) const;

  /// An event that completes when all of `handles` have: aggregate() by handle. @throws like
  /// awaiter
  [[nodiscard]] TransferCompleteNotification merge(std::span<EventHandle const> handles) const;

  /// Events that are pending.
  [[nodiscard]] std::size_t num_pending() const;

  /// Cancels the call when destroyed or reset; blocks while the call is running on another thread,
  /// so hold no lock then that the callback takes. Within the callback itself it returns at once.
  class Timer {
   public:
    /// Empty: nothing to cancel.
    Timer() noexcept = default;
    Timer(Timer&&) noexcept = default;
    Timer& operator=(Timer&&) noexcept;
    Timer(Timer const&) = delete;
    Timer& operator=(Timer const&) = delete;
    ~Timer();
    /// Cancels the call; afterwards it neither runs nor will run, and its captures are destroyed.
    void reset() noexcept;

   private:
    friend class EventSystem;
    explicit Timer(std::shared_ptr<TimerEntry> entry) noexcept : entry_(std::move(entry)) {}
    std::shared_ptr<TimerEntry> entry_;
  };
  /// Calls `callback` once at `when` on the event system's thread, unless the Timer is gone. An
  /// exception out of it is logged and dropped.
  /// @throws Error(InvalidArgument) empty callback; else like create_event()
  [[nodiscard]] Timer call_at(std::chrono::steady_clock::time_point when,
                              std::function<void()> callback);

 private:
  friend struct EventSystemAccess;
  explicit EventSystem(std::shared_ptr<EventCore> core) noexcept : core_(std::move(core)) {}
  std::shared_ptr<EventCore> core_;
};

}  // namespace kvbm::transfer
