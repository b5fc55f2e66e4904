// SPDX-License-Identifier: Apache-2.0
#include "transfer/transfer_job.hpp"

#include <fmt/format.h>

#include <chrono>
#include <string>
#include <utility>

#include "kvbm/core/error.hpp"
#include "kvbm/core/log.hpp"

namespace kvbm::transfer {
namespace {

std::string message_of(std::exception_ptr const& error) {
  try {
    std::rethrow_exception(error);
  } catch (std::exception const& e) { return e.what(); } catch (...) {
    return "unknown error";
  }
}

/// One exception for a transfer: the first failure's type, and how many blocks share its fate.
std::exception_ptr summarize(std::vector<FailedBlock> const& failed, std::size_t num_blocks) {
  try {
    std::rethrow_exception(failed.front().error);
  } catch (Error const& error) {
    if (failed.size() == 1 && num_blocks == 1) { return failed.front().error; }
    try {
      throw_error(error.code(),
                  fmt::format("{} of {} blocks did not arrive; first, at position {}: {}",
                              failed.size(), num_blocks, failed.front().position, error.what()),
                  error.native_code());
    } catch (...) { return std::current_exception(); }
  } catch (...) { return failed.front().error; }
}

}  // namespace

TransferJob::TransferJob(TransferContext::Impl& context,
                         std::shared_ptr<PreparedTransfer::State const> state,
                         std::span<BlockId const> src_blocks, std::span<BlockId const> dst_blocks,
                         std::shared_ptr<TransferRecord> record)
    : context_(context),
      state_(std::move(state)),
      record_(std::move(record)),
      description_(state_->description),
      src_blocks_(src_blocks.begin(), src_blocks.end()),
      dst_blocks_(dst_blocks.begin(), dst_blocks.end()),
      src_use_(state_->src_use),
      dst_use_(state_->dst_use),
      bounce_use_(state_->bounce ? state_->bounce->endpoint.use : nullptr) {
  context_.begin_work();
}

std::shared_ptr<TransferJob> TransferJob::create(
    TransferContext::Impl& context, std::shared_ptr<PreparedTransfer::State const> state,
    std::span<BlockId const> src_blocks, std::span<BlockId const> dst_blocks,
    std::shared_ptr<TransferRecord> record, bool wants_notification) {
  struct Constructible : TransferJob {
    Constructible(TransferContext::Impl& c, std::shared_ptr<PreparedTransfer::State const> s,
                  std::span<BlockId const> a, std::span<BlockId const> b,
                  std::shared_ptr<TransferRecord> r)
        : TransferJob(c, std::move(s), a, b, std::move(r)) {}
  };
  auto job = std::make_shared<Constructible>(context, std::move(state), src_blocks, dst_blocks,
                                             std::move(record));
  if (wants_notification) {
    job->completion_ =
        context.options_.event_system->create_event(job->description_, src_blocks.size());
    job->notification_ = job->completion_->notification();
    job->arm(job->state_->options);
  }
  return job;
}

TransferJob::~TransferJob() {
  // Reached only with the phase Finished, or when the submission itself threw.
  if (phase_.load() != Phase::Finished) {
    record_.reset();  // submit() has it as well, and knows the error
    context_.end_work();
  }
}

TransferCompleteNotification TransferJob::notification() const { return notification_; }

void TransferJob::arm(TransferOptions const& options) {
  std::weak_ptr<TransferJob> const weak = weak_from_this();
  if (options.timeout) {
    auto const timeout = *options.timeout;
    timer_ = context_.options_.event_system->call_at(
        std::chrono::steady_clock::now() + timeout, [weak, timeout] {
          if (auto const job = weak.lock()) {
            job->stop(std::make_exception_ptr(TimeoutError(
                fmt::format("{}: not done within {} ms", job->description_,
                            std::chrono::duration<double, std::milli>(timeout).count()))));
          }
        });
  }
  if (options.cancellation.stop_possible()) {
    stop_callback_.emplace(options.cancellation, [weak] {
      if (auto const job = weak.lock()) {
        job->stop(std::make_exception_ptr(
            CancelledError(job->description_ + ": cancelled by the caller")));
      }
    });
  }
}

bool TransferJob::can_stop() const noexcept { return state_->can_stop(); }

bool TransferJob::begin() noexcept {
  Phase expected = Phase::Queued;
  return phase_.compare_exchange_strong(expected, Phase::Running);
}

void TransferJob::stop(std::exception_ptr error) noexcept {
  if (stop_claimed_.exchange(true)) { return; }
  stop_error_ = std::move(error);
  stop_error_set_.store(true);
  Phase expected = Phase::Queued;
  if (!phase_.compare_exchange_strong(expected, Phase::Running)) { return; }
  finish(0, {});  // it never began: nothing will touch its memory any more
}

void TransferJob::finish(std::size_t num_done, std::vector<FailedBlock> failed) noexcept {
  std::exception_ptr error;
  if (num_done < src_blocks_.size()) {
    error = stop_error_set_.load()
                ? stop_error_
                : std::make_exception_ptr(Error(ErrorCode::Internal, "a transfer ended early"));
  }
  finish(num_done, std::move(failed), error);
}

void TransferJob::finish(std::size_t num_done, std::vector<FailedBlock> failed,
                         std::exception_ptr const& error) noexcept {
  for (std::size_t position = num_done; position < src_blocks_.size(); ++position) {
    failed.push_back({position, error});
  }
  complete(std::move(failed));
}

void TransferJob::complete(std::vector<FailedBlock> failed) noexcept {
  phase_.store(Phase::Finished);
  std::exception_ptr not_told;
  if (failed.empty()) {
    try {
      notify_peer(*state_);
    } catch (...) { not_told = std::current_exception(); }
  }
  record_->end(failed.size(), failed.empty() ? not_told : failed.front().error);
  // Before anybody is woken, so that a waiter can unregister the layouts or reopen a file at once.
  state_.reset();
  src_use_.reset();
  dst_use_.reset();
  bounce_use_.reset();
  try {
    if (not_told != nullptr) {
      if (completion_) { completion_->poison(not_told); }
    } else if (!completion_) {
      if (!failed.empty()) {
        log::write(log::Level::Error, description_ + " on a caller's stream failed: " +
                                          message_of(failed.front().error));
      }
    } else if (failed.empty()) {
      completion_->trigger();
    } else {
      auto const error = summarize(failed, src_blocks_.size());
      completion_->poison(error, std::move(failed));
    }
  } catch (std::exception const& e) {
    log::write(log::Level::Error, std::string("completing a transfer failed: ") + e.what());
  }
  context_.end_work();
}

}  // namespace kvbm::transfer
