// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "kvbm/core/error.hpp"
#include "kvbm/transfer/event_system.hpp"
#include "kvbm/transfer/notification.hpp"

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <vector>

namespace kvbm::transfer {

class EventCore;

/// The exception that throw_error() would throw. Never fails: without memory it is bad_alloc's.
std::exception_ptr make_error(ErrorCode code, std::string_view subject,
                              std::string_view what) noexcept;
/// The message of any exception, for log lines and joined messages.
std::string describe(std::exception_ptr const& error);
/// Calls `callback(error)`; an exception out of it is logged and dropped.
void run_guarded(std::function<void(std::exception_ptr)> const& callback,
                 std::exception_ptr const& error) noexcept;

/// Where the parts of an aggregate meet: the last one to end completes the target.
///
/// Parts hold the join and the join holds the target: no cycle, and whatever is pending has a
/// Completion that ends it, so a join always ends.
class CompletionJoin {
 public:
  /// @param offsets  of each part's block list in the concatenated one; all 0 where unknown
  CompletionJoin(std::shared_ptr<CompletionState> target, std::vector<std::size_t> offsets);

  /// Notes the end of part `index` (null: it succeeded without a state).
  /// @return whether it was the last, so that the caller has to complete target() by outcome()
  bool part_ended(std::size_t index, std::shared_ptr<CompletionState const> part) noexcept;

  struct Outcome {
    std::exception_ptr error;
    std::vector<FailedBlock> failed_blocks;
  };
  /// Of all parts together; valid after the last one ended.
  [[nodiscard]] Outcome outcome() const noexcept;
  [[nodiscard]] CompletionState& target() const noexcept { return *target_; }

 private:
  friend class CompletionState;
  [[nodiscard]] Outcome join_failures() const;

  std::shared_ptr<CompletionState> const target_;
  std::vector<std::size_t> const offsets_;
  std::vector<std::shared_ptr<CompletionState const>> failed_;  // by part; null: did not fail
  std::atomic<std::size_t> remaining_;
  std::shared_ptr<CompletionJoin> next_ended_;  // links the joins that one completion ended
};

/// The outcome that a Completion, notifications and callbacks share.
///
/// Locks    mutex_ is a leaf: nothing else is locked and no foreign code runs while it is held.
/// Lifetime refers to the event system weakly. While it is pending its Completion holds it, or for
/// an
///          aggregate a part's.
class CompletionState : public std::enable_shared_from_this<CompletionState> {
 public:
  using Callback = std::function<void(std::exception_ptr)>;
  using TimePoint = std::chrono::steady_clock::time_point;

  /// An event with a slot of `core`.
  CompletionState(std::weak_ptr<EventCore> core, EventHandle handle, std::string description,
                  std::size_t num_blocks, TimePoint created);
  /// An aggregate: no slot; `core`, where there is one, runs its callbacks.
  CompletionState(std::weak_ptr<EventCore> core, std::size_t num_blocks);
  /// Gives the slot back.
  ~CompletionState();
  CompletionState(CompletionState const&) = delete;
  CompletionState& operator=(CompletionState const&) = delete;

  [[nodiscard]] bool is_ready() const noexcept {
    return status_.load(std::memory_order_acquire) != Status::Pending;
  }
  [[nodiscard]] bool has_failed() const noexcept {
    return status_.load(std::memory_order_acquire) == Status::Failed;
  }
  void wait() const;
  [[nodiscard]] bool wait_for(std::chrono::nanoseconds timeout) const;
  [[nodiscard]] std::exception_ptr error() const noexcept;
  /// Empty unless failed.
  [[nodiscard]] std::vector<FailedBlock> failed_blocks() const;

  /// Takes the right to complete on behalf of the Completion; false if it was taken before.
  [[nodiscard]] bool claim() noexcept { return !claimed_.exchange(true); }
  /// Publishes the outcome, wakes waiters, ends aggregates, hands callbacks to the event system.
  /// @return false, and nothing happened, if there was an outcome already
  bool complete(std::exception_ptr error, std::vector<FailedBlock> failed_blocks = {}) noexcept;

  /// Takes `callback` while pending; else returns false and leaves it alone.
  [[nodiscard]] bool add_callback(Callback& callback);
  /// Registers part `index` of `join` while pending; else returns false.
  [[nodiscard]] bool add_dependent(std::shared_ptr<CompletionJoin> const& join, std::size_t index);
  /// Runs and destroys the callbacks; called once, after completion, without locks.
  void run_callbacks() noexcept;

  [[nodiscard]] EventHandle handle() const noexcept { return handle_; }
  /// The description, or words for its absence: the subject of messages.
  [[nodiscard]] std::string_view name() const noexcept {
    return description_.empty() ? "an event without a description" : std::string_view(description_);
  }
  [[nodiscard]] std::size_t num_blocks() const noexcept { return num_blocks_; }
  [[nodiscard]] std::weak_ptr<EventCore> const& core() const noexcept { return core_; }

 private:
  friend class EventCore;
  enum class Status : std::uint8_t { Pending, Succeeded, Failed };
  struct Dependent {
    std::shared_ptr<CompletionJoin> join;
    std::size_t index;
  };
  bool settle(std::exception_ptr error, std::vector<FailedBlock> failed_blocks,
              std::shared_ptr<CompletionJoin>& ended) noexcept;

  std::weak_ptr<EventCore> const core_;
  EventHandle const handle_;  // generation 0: no slot
  std::string const description_;
  std::size_t const num_blocks_;

  mutable std::mutex mutex_;
  mutable std::condition_variable ready_;
  std::atomic<Status> status_{Status::Pending};
  std::atomic<bool> claimed_{false};
  std::exception_ptr error_;                // written once, before status_
  std::vector<FailedBlock> failed_blocks_;  // likewise
  std::vector<Callback> callbacks_;         // guarded by mutex_
  std::vector<Dependent> dependents_;       // guarded by mutex_

  // The event core's: link of its queue, and when the event counts as pending for too long.
  std::shared_ptr<CompletionState> next_queued_;
  TimePoint const created_{};
  TimePoint log_at_{};
};

}  // namespace kvbm::transfer
