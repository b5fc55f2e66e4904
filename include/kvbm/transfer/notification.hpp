// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <coroutine>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <utility>
#include <vector>

namespace kvbm::transfer {

class CompletionState;

/// A block of a transfer that did not arrive.
struct FailedBlock {
  std::size_t position = 0;  ///< index into the transfer's block lists
  std::exception_ptr error;  ///< why; never null
};

/// The outcome of a transfer, now or later. A cheap handle: copies look at the same outcome.
///
/// Ready without allocation where the work was synchronous (could_yield() is false exactly then);
/// otherwise completed exactly once, with success or an error. Dropping it neither blocks nor
/// cancels nor leaks.
///
/// Threads  safe to use from several threads at once. The thread that completes wakes waiters
///          itself; callbacks and coroutines follow one after the other on the event system's
///          thread, so none of them may block for long, nor wait for what only that thread would
///          complete.
/// Lifetime independent of the event system: the outcome stays readable after it is gone, and what
///          would have run on its thread then runs in the thread that completes or asks.
class TransferCompleteNotification {
 public:
  /// Ready, successful.
  TransferCompleteNotification() noexcept = default;
  /// Ready, successful, without allocation.
  static TransferCompleteNotification completed() noexcept { return {}; }
  /// The waiting side of a state that an event system made; null is ready and successful.
  explicit TransferCompleteNotification(std::shared_ptr<CompletionState> state) noexcept
      : state_(std::move(state)) {}

  /// Whether the outcome is known.
  [[nodiscard]] bool is_ready() const noexcept;
  /// Whether waiting may block or suspend at all: false exactly for the allocation-free ready
  /// state.
  [[nodiscard]] bool could_yield() const noexcept { return state_ != nullptr; }

  /// Blocks until the outcome is known; rethrows the error of a failed transfer.
  void wait() const;
  /// Blocks for at most `timeout` (zero or less: not at all; any large value is safe).
  /// @return whether the outcome is known; an error is rethrown
  [[nodiscard]] bool wait_for(std::chrono::nanoseconds timeout) const;
  /// The error of a failed transfer; null while pending and after success.
  [[nodiscard]] std::exception_ptr error() const noexcept;
  /// Blocks that did not arrive, in list order; empty while pending and after success. After a
  /// failure every block that is not listed arrived completely.
  [[nodiscard]] std::vector<FailedBlock> failed_blocks() const;

  /// Calls `callback(error)` once when the outcome is known (null error: success), on the event
  /// system's thread; in the calling thread where it is known already. Callbacks that were added
  /// while it was pending run in the order in which they were added, and each is destroyed right
  /// after it ran. It must not throw: an exception is logged and dropped.
  /// @throws Error(InvalidArgument) empty callback
  void then(std::function<void(std::exception_ptr)> callback) const;

  /// One notification for many: of none: completed(); of one: that one; all ready without error:
  /// completed(); else one that completes after all ended and fails with every failure in its
  /// message, joined by "; " in list order. An error among ready ones is kept. A single failure is
  /// passed on as the same exception; of several, the code is that of the first in the list.
  ///
  /// Positions of failed_blocks() are those of the concatenated block lists where every part states
  /// its size, else of the part alone (an allocation-free ready part states none).
  static TransferCompleteNotification aggregate(
      std::vector<TransferCompleteNotification> const& notifications);

  /// co_await: resumes on the event system's thread, or goes on at once where ready; throws the
  /// error of a failed transfer. A coroutine must not be destroyed while it is suspended here.
  class Awaiter {
   public:
    /// Keeps the outcome alive for as long as the coroutine is suspended.
    explicit Awaiter(TransferCompleteNotification const& notification) noexcept
        : state_(notification.state_) {}
    /// Whether the outcome is known already, so that nothing suspends.
    [[nodiscard]] bool await_ready() const noexcept;
    /// Registers the resumption; false where the outcome became known meanwhile.
    [[nodiscard]] bool await_suspend(std::coroutine_handle<> coroutine) const;
    /// @throws the error of a failed transfer
    void await_resume() const;

   private:
    std::shared_ptr<CompletionState> state_;
  };
  /// What `co_await notification` uses.
  Awaiter operator co_await() const noexcept { return Awaiter(*this); }

 private:
  std::shared_ptr<CompletionState> state_;
};

}  // namespace kvbm::transfer
