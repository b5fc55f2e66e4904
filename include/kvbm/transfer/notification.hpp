// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <coroutine>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
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
/// Threads  safe to use from several threads at once.
class TransferCompleteNotification {
 public:
  /// Ready, successful.
  TransferCompleteNotification() noexcept = default;
  static TransferCompleteNotification completed() noexcept { return {}; }
  explicit TransferCompleteNotification(std::shared_ptr<CompletionState> state) noexcept
      : state_(std::move(state)) {}

  /// Whether the outcome is known.
  [[nodiscard]] bool is_ready() const noexcept;
  /// Whether waiting may block or suspend at all: false exactly for the allocation-free ready state.
  [[nodiscard]] bool could_yield() const noexcept { return state_ != nullptr; }

  /// Blocks until the outcome is known; rethrows the error of a failed transfer.
  void wait() const;
  /// Blocks for at most `timeout`; true if the outcome is known (an error is rethrown).
  bool wait_for(std::chrono::nanoseconds timeout) const;
  /// The error of a failed transfer; null while pending and after success.
  [[nodiscard]] std::exception_ptr error() const noexcept;
  /// Blocks that did not arrive, in list order; empty while pending and after success. After a
  /// failure every block that is not listed arrived completely.
  [[nodiscard]] std::vector<FailedBlock> failed_blocks() const;

  /// Calls `callback(error)` once when the outcome is known (null error: success), on the event
  /// system's thread; in the calling thread where it is known already. It must not throw: an
  /// exception is logged and dropped.
  void then(std::function<void(std::exception_ptr)> callback) const;

  /// One notification for many: of none: completed(); of one: that one; all ready without error:
  /// completed(); else one that completes after all ended and fails with every failure in its message,
  /// joined by "; ". An error among ready ones is kept. Positions of failed_blocks() are those of
  /// the concatenated block lists where every part states its size, else of the part alone.
  static TransferCompleteNotification aggregate(
      std::vector<TransferCompleteNotification> const& notifications);

  /// co_await: resumes on the event system's thread, or goes on at once where ready; throws the
  /// error of a failed transfer.
  class Awaiter {
   public:
    explicit Awaiter(TransferCompleteNotification const& notification) noexcept
        : state_(notification.state_) {}
    [[nodiscard]] bool await_ready() const noexcept;
    bool await_suspend(std::coroutine_handle<> coroutine) const;
    void await_resume() const;

   private:
    std::shared_ptr<CompletionState> state_;
  };
  Awaiter operator co_await() const noexcept { return Awaiter(*this); }

 private:
  std::shared_ptr<CompletionState> state_;
};

}  // namespace kvbm::transfer
