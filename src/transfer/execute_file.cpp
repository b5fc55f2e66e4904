// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <exception>
#include <optional>
#include <utility>
#include <vector>

#include "transfer/executors.hpp"
#include "transfer/file_geometry.hpp"
#include "transfer/file_pipeline.hpp"
#include "transfer/transfer_job.hpp"

namespace kvbm::transfer {
namespace {

void run_pipeline(TransferJob& job, FileWorkerResources& resources, Strategy strategy) {
  if (!job.begin()) { return; }
  auto const& bounce = job.state().bounce;
  std::size_t num_done = 0;
  std::vector<FailedBlock> failed;
  std::exception_ptr error;
  {
    // All of this ends before the job does: whoever waits for it may take file and blocks at once.
    std::optional<BlockLeases::Lease> bounce_lease;
    std::optional<BlockLeases::Lease> file_lease;
    std::optional<FilePipeline> pipeline;
    try {
      if (bounce && strategy == Strategy::StagedFile) {
        bounce_lease.emplace(
            job.context().block_leases_.acquire(bounce->endpoint.layout, bounce->block_ids));
      }
      auto const& pair = job.state().pair;
      if (pair.dst.storage_kind() == memory::StorageKind::Disk &&
          is_partial(pair.dst, pair.selection.layers, pair.selection.dst_heads)) {
        file_lease.emplace(job.context().block_leases_.acquire(pair.dst, job.dst_blocks()));
      }
      pipeline.emplace(job, resources, strategy);
      pipeline->run();
    } catch (...) {
      resources.drain();
      error = std::current_exception();
    }
    if (pipeline) {
      num_done = pipeline->num_done();
      failed = pipeline->take_failed();
    }
  }
  if (error != nullptr) {
    std::erase_if(failed, [num_done](auto const& block) { return block.position >= num_done; });
    job.finish(num_done, std::move(failed), error);
  } else {
    job.finish(num_done, std::move(failed));
  }
}

}  // namespace

TransferCompleteNotification execute_file_transfer(TransferContext::Impl& context,
                                                   SharedState const& state,
                                                   std::span<BlockId const> src_blocks,
                                                   std::span<BlockId const> dst_blocks,
                                                   Strategy strategy) {
  TransferOptions const& options = state->options;
  auto job = TransferJob::create(context, state, src_blocks, dst_blocks, true);
  auto const notification = job->notification();
  auto post = [&context, job, strategy, priority = options.priority] {
    context.file_workers_->post(priority, [job, strategy](FileWorkerResources& resources) {
      run_pipeline(*job, resources, strategy);
    });
  };
  bool const must_wait = std::any_of(options.wait_for.begin(), options.wait_for.end(),
                                     [](auto const& event) { return !event->is_complete(); });
  if (must_wait) {
    // A stream waits, so that no file worker does.
    auto const stream = context.acquire_stream(context.first_device(), Direction::DeviceToHost);
    for (auto const& event : options.wait_for) {
      stream->wait(event);
    }
    stream->enqueue(std::move(post));
  } else {
    post();
  }
  for (auto const& waiting : options.record_on) {
    waiting->enqueue([notification] {
      while (!notification.is_ready()) {
        try {
          notification.wait();
        } catch (std::exception const&) {  // the stream goes on; whoever asks learns of the failure
        }
      }
    });
  }
  return notification;
}

}  // namespace kvbm::transfer
