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
#include <vector>

#include "kvbm/transfer/notification.hpp"

namespace kvbm::transfer {

class EventSystem;

/// Names an event of one event system: stale and foreign handles are recognised.
struct EventHandle {
  std::uint64_t worker_id = 0;   ///< of the event system that made it
  std::uint32_t slot = 0;
  std::uint32_t generation = 0;  ///< counts the uses of the slot
  friend bool operator==(EventHandle const&, EventHandle const&) = default;
};

/// The side that completes an event: move-only; completes it exactly once. Dropped without, the
/// event fails with Error(Internal) "abandoned", so that nobody waits for ever.
class Completion {
 public:
  Completion() noexcept = default;
  Completion(Completion&&) noexcept = default;
  Completion& operator=(Completion&&) noexcept;
  Completion(Completion const&) = delete;
  Completion& operator=(Completion const&) = delete;
  ~Completion();

  /// Success. Wakes waiters before it returns; callbacks run on the event system's thread.
  /// @throws Error(InvalidArgument) completed already or empty
  void trigger();
  /// Failure. @param error  not null  @throws Error(InvalidArgument) completed already or empty
  void poison(std::exception_ptr error, std::vector<FailedBlock> failed_blocks = {});

  /// The waiting side; any number of times.
  [[nodiscard]] TransferCompleteNotification notification() const;
  [[nodiscard]] EventHandle handle() const;
  /// Whether it still waits for trigger() or poison().
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
///          pending then fail with Error(ShuttingDown).
class EventSystem : public std::enable_shared_from_this<EventSystem> {
 public:
  static std::shared_ptr<EventSystem> create();
  ~EventSystem();
  EventSystem(EventSystem const&) = delete;
  EventSystem& operator=(EventSystem const&) = delete;

  /// Random, never 0, unique per event system and process instance.
  [[nodiscard]] std::uint64_t worker_id() const noexcept;

  /// A new pending event. @param description  shown when it stays pending ("Device->Disk, 64 blocks")
  /// @param num_blocks  length of the transfer's block lists, 0 where it has none
  [[nodiscard]] Completion create_event(std::string description = {}, std::size_t num_blocks = 0);

  /// The waiting side of a handle's event.
  /// @throws Error(InvalidArgument) another system's handle; Error(NotFound) stale generation
  [[nodiscard]] TransferCompleteNotification awaiter(EventHandle handle) const;

  /// An event that completes when all of `handles` have: aggregate() by handle. @throws like awaiter
  [[nodiscard]] TransferCompleteNotification merge(std::span<EventHandle const> handles) const;

  /// Events that are pending.
  [[nodiscard]] std::size_t num_pending() const;

  /// Cancels the call when destroyed or reset; blocks while the call is running on another thread.
  class Timer {
   public:
    Timer() noexcept = default;
    Timer(Timer&&) noexcept = default;
    Timer& operator=(Timer&&) noexcept;
    ~Timer();
    void reset() noexcept;

   private:
    friend class EventSystem;
    struct Entry;
    Timer(std::weak_ptr<EventSystem> system, std::shared_ptr<Entry> entry)
        : system_(std::move(system)), entry_(std::move(entry)) {}
    std::weak_ptr<EventSystem> system_;
    std::shared_ptr<Entry> entry_;
  };
  /// Calls `callback` once at `when` on the event system's thread, unless the Timer is gone.
  [[nodiscard]] Timer call_at(std::chrono::steady_clock::time_point when,
                              std::function<void()> callback);

 private:
  friend class CompletionState;
  class Impl;
  EventSystem();
  std::unique_ptr<Impl> impl_;
};

}  // namespace kvbm::transfer
