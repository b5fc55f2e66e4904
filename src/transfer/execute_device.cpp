// SPDX-License-Identifier: Apache-2.0
#include <exception>
#include <memory>
#include <utility>

#include "transfer/executors.hpp"
#include "transfer/trace_range.hpp"
#include "transfer/transfer_job.hpp"

namespace kvbm::transfer {
namespace {

/// Up to here a transfer is enqueued as a whole even if it can be stopped: about a millisecond.
constexpr std::uint64_t kStoppableBatchBytes = std::uint64_t{64} << 20U;

/// A transfer that may have to stop must not be in the device's queues when that happens.
bool needs_batches(PreparedTransfer::State const& state, std::size_t num_blocks) {
  return state.can_stop() &&
         (state.plan.bytes_per_block * num_blocks > kStoppableBatchBytes || state.must_wait());
}

void enqueue(TransferContext::Impl& context, PreparedTransfer::State const& state,
             device::StreamPtr const& stream, std::span<BlockId const> src_blocks,
             std::span<BlockId const> dst_blocks, Strategy strategy) {
  TraceRange const range("enqueue", strategy, state);
  TransferOptions const& options = state.options;
  DeviceCopy const& copy = *state.device_copy;
  for (auto const& event : options.wait_for) {
    stream->wait(event);
  }
  copy.enqueue(
      context, stream, src_blocks, dst_blocks,
      {strategy, choose_max_ctas(strategy, copy.direction(), options.spare, options.max_sms)});
}

/// @param done  recorded behind the transfer
void let_wait(TransferOptions const& options, device::EventPtr const& done) {
  for (auto const& waiting : options.record_on) {
    waiting->wait(done);
  }
}

}  // namespace

TransferCompleteNotification execute_device_copy(TransferContext::Impl& context,
                                                 SharedState const& state,
                                                 std::span<BlockId const> src_blocks,
                                                 std::span<BlockId const> dst_blocks,
                                                 SharedRecord record, Strategy strategy) {
  TransferOptions const& options = state->options;
  DeviceCopy const& copy = *state->device_copy;
  if (options.cuda_stream) {
    LayoutUseLease const src_use(state->src_use);
    LayoutUseLease const dst_use(state->dst_use);
    enqueue(context, *state, options.cuda_stream, src_blocks, dst_blocks, strategy);
    if (!options.record_on.empty()) {
      auto const done = copy.device().create_event();
      options.cuda_stream->record(done);
      let_wait(options, done);
    }
    return TransferCompleteNotification::completed();
  }
  if (needs_batches(*state, src_blocks.size())) {
    return execute_pipeline(context, state, src_blocks, dst_blocks, std::move(record), strategy);
  }
  auto const job =
      TransferJob::create(context, state, src_blocks, dst_blocks, std::move(record), true);
  auto notification = job->notification();
  if (!job->begin()) { return notification; }  // stopped already
  auto const stream = copy.acquire_stream(context);
  auto const done = copy.device().create_event();
  std::exception_ptr failed;
  try {
    enqueue(context, *state, stream, src_blocks, dst_blocks, strategy);
  } catch (...) { failed = std::current_exception(); }
  try {
    // A failed submission too: what was enqueued before it has to end before anybody is told.
    stream->record(done);
    let_wait(options, done);
    copy.device().when_complete(done, [job, failed](std::exception_ptr const& error) {
      if (failed == nullptr && error == nullptr) {
        job->finish(job->src_blocks().size(), {});
      } else {
        job->finish(0, {}, failed != nullptr ? failed : error);
      }
    });
  } catch (...) { job->finish(0, {}, failed != nullptr ? failed : std::current_exception()); }
  return notification;
}

}  // namespace kvbm::transfer
