// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <exception>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "kvbm/core/log.hpp"
#include "transfer/block_leases.hpp"
#include "transfer/executors.hpp"
#include "transfer/file_geometry.hpp"
#include "transfer/pipeline.hpp"
#include "transfer/trace_range.hpp"
#include "transfer/transfer_job.hpp"
#include "transfer/when_all_complete.hpp"

namespace kvbm::transfer {
namespace {

/// Blocks that the transfer has to have for itself while it runs.
std::vector<BlockLeases::Key> keys_of(PreparedTransfer::State const& state,
                                      std::span<BlockId const> dst_blocks, Strategy strategy) {
  auto const& pair = state.pair;
  auto const& bounce = state.bounce;
  std::vector<BlockLeases::Key> keys;
  if (bounce && (strategy == Strategy::StagedFile || strategy == Strategy::StagedRemote)) {
    BlockLeases::append_keys(keys, bounce->endpoint.layout, bounce->block_ids);
  }
  if (memory::is_store(pair.dst.storage_kind()) &&
      is_partial(pair.dst, pair.selection.layers, pair.selection.dst_heads)) {
    BlockLeases::append_keys(keys, pair.dst, dst_blocks);
  }
  return keys;
}

void run_pipeline(TransferJob& job, PipelineResources& resources, Strategy strategy,
                  BlockLeases::Lease lease) {
  if (!job.begin()) { return; }
  std::optional<TraceRange> range(std::in_place, "run", strategy, job.state());
  std::size_t num_done = 0;
  std::vector<FailedBlock> failed;
  std::exception_ptr error;
  {
    // All of this ends before the job does: whoever waits for it may take file and blocks at once.
    BlockLeases::Lease const held = std::move(lease);
    std::optional<Pipeline> pipeline;
    try {
      pipeline.emplace(job, resources, strategy);
      pipeline->run();
    } catch (...) {
      resources.drain();
      error = job.should_stop() ? job.stop_error() : std::current_exception();
    }
    if (pipeline) {
      num_done = pipeline->num_done();
      failed = pipeline->take_failed();
    }
  }
  range.reset();  // before anybody is told, who may take the layouts
  if (error != nullptr) {
    std::erase_if(failed, [num_done](auto const& block) { return block.position >= num_done; });
    job.finish(num_done, std::move(failed), error);
  } else {
    job.finish(num_done, std::move(failed));
  }
}

/// Whose threads run it.
Lane lane_of(PreparedTransfer::State const& state) {
  if (state.remote) { return {Lane::Kind::Peer, state.remote->peer->worker_id()}; }
  bool const has_objects = state.pair.src.storage_kind() == memory::StorageKind::Object ||
                           state.pair.dst.storage_kind() == memory::StorageKind::Object;
  return {has_objects ? Lane::Kind::Objects : Lane::Kind::Local, 0};
}

/// What a stream does that waits for a transfer: it goes on whatever happened.
void wait_for_end(TransferCompleteNotification const& notification) {
  try {
    notification.wait();
  } catch (std::exception const& e) {
    log::write(log::Level::Error, fmt::format("a stream waited for a transfer: {}", e.what()));
  }
}

}  // namespace

TransferCompleteNotification execute_pipeline(TransferContext::Impl& context,
                                              SharedState const& state,
                                              std::span<BlockId const> src_blocks,
                                              std::span<BlockId const> dst_blocks,
                                              SharedRecord record, Strategy strategy) {
  TransferOptions const& options = state->options;
  auto job = TransferJob::create(context, state, src_blocks, dst_blocks, std::move(record), true);
  auto const notification = job->notification();
  auto post = [&context, job, keys = keys_of(*state, dst_blocks, strategy), strategy,
               priority = options.priority,
               lane = lane_of(*state)](std::exception_ptr const& error) mutable {
    if (error != nullptr) {
      if (job->begin()) { job->finish(0, {}, error); }
      return;
    }
    context.block_leases_.request(
        std::move(keys), [&context, job, strategy, priority, lane](BlockLeases::Lease lease) {
          auto const shared = std::make_shared<BlockLeases::Lease>(std::move(lease));
          auto run = [job, strategy, shared](PipelineResources& resources) {
            run_pipeline(*job, resources, strategy, std::move(*shared));
          };
          context.post_to_lane(lane, priority, std::move(run));
        });
  };
  auto events = options.wait_for;
  auto streams = options.record_on;
  if (options.cuda_stream != nullptr) {
    // In the order of the caller's stream: behind what is on it now, before what comes.
    auto const now = context.device_of(options.cuda_stream->backend())->create_event();
    options.cuda_stream->record(now);
    events.push_back(now);
    streams.push_back(options.cuda_stream);
  }
  when_all_complete(context, std::move(events), std::move(post));
  for (auto const& waiting : streams) {
    waiting->enqueue([notification] { wait_for_end(notification); });
  }
  return options.cuda_stream != nullptr ? TransferCompleteNotification::completed() : notification;
}

}  // namespace kvbm::transfer
