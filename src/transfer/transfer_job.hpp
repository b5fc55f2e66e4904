// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <cstddef>
#include <exception>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <stop_token>
#include <string>
#include <vector>

#include "kvbm/core/types.hpp"
#include "kvbm/transfer/event_system.hpp"
#include "transfer/context_impl.hpp"
#include "transfer/layout_use.hpp"
#include "transfer/prepared_state.hpp"
#include "transfer/transfer_counters.hpp"

namespace kvbm::transfer {

/// One asynchronous submission: its ids, its deadline and token, and its one completion.
///
/// States: queued -> running -> finished, or queued -> finished when stopped before it began; then
/// whoever still holds it finds begin() false and touches nothing.
class TransferJob : public std::enable_shared_from_this<TransferJob> {
 public:
  /// @param record  ended by what becomes of the job, but not where create() throws
  /// @param wants_notification  false for a caller's stream: failures then end in the log
  static std::shared_ptr<TransferJob> create(TransferContext::Impl& context,
                                             std::shared_ptr<PreparedTransfer::State const> state,
                                             std::span<BlockId const> src_blocks,
                                             std::span<BlockId const> dst_blocks,
                                             std::shared_ptr<TransferRecord> record,
                                             bool wants_notification);
  ~TransferJob();
  TransferJob(TransferJob const&) = delete;
  TransferJob& operator=(TransferJob const&) = delete;

  [[nodiscard]] TransferCompleteNotification notification() const;
  /// @pre begin() was true and finish() was not called
  [[nodiscard]] PreparedTransfer::State const& state() const noexcept { return *state_; }
  [[nodiscard]] TransferContext::Impl& context() const noexcept { return context_; }
  [[nodiscard]] std::string const& description() const noexcept { return description_; }
  [[nodiscard]] std::span<BlockId const> src_blocks() const noexcept { return src_blocks_; }
  [[nodiscard]] std::span<BlockId const> dst_blocks() const noexcept { return dst_blocks_; }

  /// Whether the work may begin; false if it was stopped before.
  [[nodiscard]] bool begin() noexcept;
  /// Whether the work should end at the next batch.
  [[nodiscard]] bool should_stop() const noexcept { return stop_error_set_.load(); }
  /// Why. @pre should_stop()
  [[nodiscard]] std::exception_ptr stop_error() const noexcept { return stop_error_; }
  /// Whether should_stop() can ever become true: then work goes in batches.
  [[nodiscard]] bool can_stop() const noexcept;

  /// Lets go of the layouts, then tells the outcome: what the caller still holds is what keeps them
  /// alive, so that a file can be opened again as soon as it is known.
  /// Ends a job that began: blocks [0, num_done) went through, but for `failed`; the others did
  /// not. Without a stop num_done is all of them.
  void finish(std::size_t num_done, std::vector<FailedBlock> failed) noexcept;
  /// Ends a job that began: everything from `num_done` on failed with `error`.
  void finish(std::size_t num_done, std::vector<FailedBlock> failed,
              std::exception_ptr const& error) noexcept;

 private:
  enum class Phase { Queued, Running, Finished };

  TransferJob(TransferContext::Impl& context, std::shared_ptr<PreparedTransfer::State const> state,
              std::span<BlockId const> src_blocks, std::span<BlockId const> dst_blocks,
              std::shared_ptr<TransferRecord> record);
  void arm(TransferOptions const& options);
  void stop(std::exception_ptr error) noexcept;
  void complete(std::vector<FailedBlock> failed) noexcept;

  TransferContext::Impl& context_;
  std::shared_ptr<PreparedTransfer::State const> state_;  ///< null once finished
  std::shared_ptr<TransferRecord> record_;
  std::string const description_;
  std::vector<BlockId> src_blocks_;
  std::vector<BlockId> dst_blocks_;
  LayoutUseLease src_use_;
  LayoutUseLease dst_use_;
  LayoutUseLease bounce_use_;
  std::optional<Completion> completion_;
  TransferCompleteNotification notification_;
  std::atomic<Phase> phase_{Phase::Queued};
  std::exception_ptr stop_error_;  ///< written once, before stop_error_set_
  std::atomic<bool> stop_claimed_{false};
  std::atomic<bool> stop_error_set_{false};
  // Both go with the job, not with its end: they may be running while it ends.
  EventSystem::Timer timer_;
  std::optional<std::stop_callback<std::function<void()>>> stop_callback_;
};

}  // namespace kvbm::transfer
