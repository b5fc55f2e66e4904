// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <utility>

#include "kvbm/core/error.hpp"
#include "transfer/executors.hpp"
#include "transfer/memory_copy.hpp"
#include "transfer/trace_range.hpp"
#include "transfer/transfer_job.hpp"

namespace kvbm::transfer {
namespace {

/// Between two looks at a deadline or token: some milliseconds of copying.
constexpr std::uint64_t kStoppableBatchBytes = std::uint64_t{32} << 20U;

void run_copy(TransferJob& job, Strategy strategy) {
  TraceRange const range("copy", strategy, job.state());
  MemoryCopy const& copy = *job.state().copy;
  TransferOptions const& options = job.state().options;
  std::size_t const num_blocks = job.src_blocks().size();
  std::size_t batch = num_blocks;
  if (job.can_stop()) {
    batch = std::max<std::size_t>(1, kStoppableBatchBytes / copy.bytes_per_block());
  }
  std::size_t done = 0;
  while (done < num_blocks && !job.should_stop()) {
    std::size_t const count = std::min(batch, num_blocks - done);
    copy.run(job.context().copy_engine_, job.src_blocks().subspan(done, count),
             job.dst_blocks().subspan(done, count), options.priority, options.spare);
    done += count;
  }
  job.finish(done, {});
}

device::StreamPtr stream_for(TransferContext::Impl& context, PreparedTransfer::State const& state) {
  return state.device_copy
             ? state.device_copy->acquire_stream(context)
             : context.acquire_stream(context.first_device(), LinkDirection::DeviceToDevice);
}

}  // namespace

TransferCompleteNotification execute_host_copy(TransferContext::Impl& context,
                                               SharedState const& state,
                                               std::span<BlockId const> src_blocks,
                                               std::span<BlockId const> dst_blocks,
                                               SharedRecord record) {
  TransferOptions const& options = state->options;
  if (!state->ends_in_call(Strategy::HostCopy)) {
    auto const job =
        TransferJob::create(context, state, src_blocks, dst_blocks, std::move(record), true);
    if (job->begin()) { run_copy(*job, Strategy::HostCopy); }
    return job->notification();
  }
  LayoutUseLease const src_use(state->src_use);
  LayoutUseLease const dst_use(state->dst_use);
  state->copy->run(context.copy_engine_, src_blocks, dst_blocks, options.priority, options.spare);
  return TransferCompleteNotification::completed();
}

TransferCompleteNotification execute_stream_copy(TransferContext::Impl& context,
                                                 SharedState const& state,
                                                 std::span<BlockId const> src_blocks,
                                                 std::span<BlockId const> dst_blocks,
                                                 SharedRecord record) {
  TransferOptions const& options = state->options;
  bool const callers = options.cuda_stream != nullptr;
  auto const stream = callers ? options.cuda_stream : stream_for(context, *state);
  auto job =
      TransferJob::create(context, state, src_blocks, dst_blocks, std::move(record), !callers);
  TransferCompleteNotification const notification = job->notification();

  for (auto const& event : options.wait_for) {
    stream->wait(event);
  }
  stream->enqueue([job] {
    if (job->begin()) { run_copy(*job, Strategy::StreamCopy); }
  });
  if (!options.record_on.empty()) {
    auto const done = context.options_.devices.front()->create_event();
    stream->record(done);
    for (auto const& waiting : options.record_on) {
      waiting->wait(done);
    }
  }
  return notification;
}

}  // namespace kvbm::transfer
