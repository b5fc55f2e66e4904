// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <utility>

#include "kvbm/core/error.hpp"
#include "kvbm/transfer/strategy.hpp"

namespace kvbm::transfer {
namespace {

using memory::StorageKind;

/// A candidate before it is put into words: no allocation, so that choosing costs little.
struct Estimate {
  Strategy strategy;
  double seconds;  ///< infinite if refused
  char const* reason;

  [[nodiscard]] bool refused() const noexcept {
    return seconds == std::numeric_limits<double>::infinity();
  }
};
using Estimates = std::array<Estimate, kNumStrategies>;

Estimate refuse(Strategy strategy, char const* reason) {
  return {strategy, std::numeric_limits<double>::infinity(), reason};
}

CostModel const& costs_of(ChoiceInput const& input) {
  static CostModel const defaults;
  return input.costs != nullptr ? *input.costs : defaults;
}

double copy_rate(ChoiceInput const& input) {
  auto const& costs = costs_of(input);
  if (input.run_bytes < 64) { return costs.host_element_rate; }
  return input.run_bytes <= 512 ? costs.host_permute_rate : costs.host_copy_rate;
}

double total_bytes(ChoiceInput const& input) {
  return static_cast<double>(input.num_blocks) * static_cast<double>(input.bytes_per_block);
}

bool involves(ChoiceInput const& input, StorageKind kind) {
  return input.src_kind == kind || input.dst_kind == kind;
}

bool involves_store(ChoiceInput const& input) {
  return memory::is_store(input.src_kind) || memory::is_store(input.dst_kind);
}

double store_latency(ChoiceInput const& input) {
  auto const& costs = costs_of(input);
  return involves(input, StorageKind::Object) ? costs.object_latency : costs.disk_latency;
}

double store_seconds(ChoiceInput const& input) {
  auto const& costs = costs_of(input);
  double seconds = store_latency(input);
  if (input.src_kind == StorageKind::Disk) { seconds += total_bytes(input) / costs.disk_read_rate; }
  if (input.dst_kind == StorageKind::Disk) {
    seconds += total_bytes(input) / costs.disk_write_rate;
  }
  for (auto const kind : {input.src_kind, input.dst_kind}) {
    if (kind == StorageKind::Object) { seconds += total_bytes(input) / costs.object_rate; }
  }
  return seconds;
}

/// Whether this way of a GPU may be looked at: there is one, or it was asked for by name.
bool may_use_gpu(ChoiceInput const& input, Strategy strategy) {
  return input.device && (!input.device->emulated || input.wanted == strategy);
}

constexpr char const* kEmulated = "the device is emulated: only when asked for";

char const* why_no_gpu(ChoiceInput const& input) {
  return input.device ? kEmulated : "no device takes part";
}

Estimate host_copy(ChoiceInput const& input) {
  constexpr auto kStrategy = Strategy::HostCopy;
  if (!memory::is_host(input.src_kind) || !memory::is_host(input.dst_kind)) {
    return refuse(kStrategy, "both sides must be host memory");
  }
  if (input.caller_stream) { return refuse(kStrategy, "the caller's stream orders the work"); }
  if (input.must_wait) {
    return refuse(kStrategy, "would block the caller until wait_for is complete");
  }
  return {kStrategy, total_bytes(input) / copy_rate(input),
          "copied by the copy threads within the call"};
}

Estimate stream_copy(ChoiceInput const& input) {
  constexpr auto kStrategy = Strategy::StreamCopy;
  if (!memory::is_memory(input.src_kind) || !memory::is_memory(input.dst_kind)) {
    return refuse(kStrategy, "both sides must be memory");
  }
  if (input.device && !input.device->emulated) {
    return refuse(kStrategy, "copy threads do not reach a GPU's memory");
  }
  if (input.capturing) { return refuse(kStrategy, "host work cannot be captured into a graph"); }
  return {kStrategy, costs_of(input).stream_latency + total_bytes(input) / copy_rate(input),
          input.caller_stream ? "in the order of the caller's stream" : "on a stream of the pool"};
}

/// Pageable memory goes through the driver's own small staging buffers.
constexpr double kPageableRate = 5e9;

/// A copy of pageable memory blocks the thread that submits it until the stream has got there:
/// only a pipeline's own thread may do that. A graph has no such thread, but neither does it block.
bool would_block(ChoiceInput const& input) {
  return input.device->pageable && !input.device->emulated && !input.single_hop && !input.capturing;
}
constexpr char const* kWouldBlock = "a DMA of pageable memory would block the caller";

Estimate dma_copy(ChoiceInput const& input) {
  constexpr auto kStrategy = Strategy::DmaCopy;
  if (!may_use_gpu(input, kStrategy)) { return refuse(kStrategy, why_no_gpu(input)); }
  auto const& device = *input.device;
  if (would_block(input)) { return refuse(kStrategy, kWouldBlock); }
  auto const& path = costs_of(input).gpu[device.direction].dma;
  double const run = total_bytes(input) / static_cast<double>(device.num_dma);
  double const rate = device.pageable ? std::min(kPageableRate, path.rate(run)) : path.rate(run);
  return {kStrategy, path.latency + total_bytes(input) / rate,
          device.pageable ? "one DMA a run; the driver stages pageable memory"
                          : "copy engines, one DMA a contiguous run"};
}

Estimate sm_copy(ChoiceInput const& input) {
  constexpr auto kStrategy = Strategy::SmCopy;
  if (!may_use_gpu(input, kStrategy)) { return refuse(kStrategy, why_no_gpu(input)); }
  auto const& device = *input.device;
  if (device.pageable) { return refuse(kStrategy, "the GPU cannot address pageable memory"); }
  if (!device.addressable) { return refuse(kStrategy, "no peer access between the two devices"); }
  if (input.spare == Spare::SpareSms && device.direction == LinkDirection::DeviceToHost &&
      input.wanted != kStrategy) {
    return refuse(kStrategy, "stores to host memory slow down whatever runs beside them");
  }
  auto const& path = costs_of(input).gpu[device.direction].sm;
  return {kStrategy,
          path.latency + total_bytes(input) / path.rate(static_cast<double>(input.run_bytes)),
          device.direction == LinkDirection::DeviceToDevice
              ? "a kernel within HBM"
              : "a kernel in a few multiprocessors, host memory mapped"};
}

Estimate staged_dma(ChoiceInput const& input) {
  constexpr auto kStrategy = Strategy::StagedDma;
  if (!may_use_gpu(input, kStrategy)) { return refuse(kStrategy, why_no_gpu(input)); }
  auto const& device = *input.device;
  if (device.direction == LinkDirection::DeviceToDevice) {
    return refuse(kStrategy, "both sides are device memory: a kernel needs no ring");
  }
  if (would_block(input)) { return refuse(kStrategy, kWouldBlock); }
  if (input.capturing && !device.emulated) {
    return refuse(kStrategy, "the ring's memory cannot be taken while a graph is captured");
  }
  auto const& link = costs_of(input).gpu[device.direction];
  double const bytes = total_bytes(input);
  double const piece = bytes / static_cast<double>(device.num_staged_dma);
  double const dma = bytes / (device.pageable ? std::min(kPageableRate, link.dma.rate(piece))
                                              : link.dma.rate(piece));
  double const gather = bytes / link.gather.rate(static_cast<double>(input.run_bytes));
  // The hops overlap but for the ring's first part, of 2 MiB, and every part is two submissions.
  constexpr double kPartBytes = 2 << 20;
  constexpr double kPartSeconds = 6e-6;
  double const parts = std::log2(1 + bytes / kPartBytes);
  double const fill = gather * std::min(1.0, kPartBytes / bytes);
  return {
      kStrategy,
      link.dma.latency + link.gather.latency + std::max(dma, gather) + fill + parts * kPartSeconds,
      device.direction == LinkDirection::DeviceToHost
          ? "gathered in HBM by a kernel, one DMA a slot"
          : "one DMA a slot, scattered in HBM by a kernel"};
}

Estimate pinned_staging(ChoiceInput const& input) {
  constexpr auto kStrategy = Strategy::PinnedStaging;
  if (!may_use_gpu(input, kStrategy)) { return refuse(kStrategy, why_no_gpu(input)); }
  auto const& device = *input.device;
  if (!device.pageable) { return refuse(kStrategy, "no side is pageable memory"); }
  if (input.capturing) { return refuse(kStrategy, "host work cannot be captured into a graph"); }
  if (input.single_hop) { return refuse(kStrategy, "already one hop of a longer path"); }
  auto const& path = costs_of(input).gpu[device.direction].dma;
  double const bytes = total_bytes(input);
  double const piece = bytes / static_cast<double>(device.num_staged_dma);
  return {kStrategy,
          2 * costs_of(input).stream_latency + path.latency +
              std::max(bytes / path.rate(piece), bytes / costs_of(input).host_copy_rate),
          "two hops in a pipeline through pinned staging memory"};
}

constexpr char const* kNoStore = "no side is a file or object store";

constexpr char const* kUnequalExtents =
    "the sides differ in format, kind, alignment or part of the block";

Estimate direct_file(ChoiceInput const& input) {
  constexpr auto kStrategy = Strategy::DirectFile;
  if (!involves_store(input)) { return refuse(kStrategy, kNoStore); }
  if (!memory::is_host(input.src_kind) && !memory::is_host(input.dst_kind)) {
    return refuse(kStrategy, "the other side must be host memory");
  }
  if (!input.extents_match) { return refuse(kStrategy, kUnequalExtents); }
  return {kStrategy, store_seconds(input), "I/O straight from and into the other side's memory"};
}

Estimate staged_file(ChoiceInput const& input) {
  constexpr auto kStrategy = Strategy::StagedFile;
  if (!involves_store(input)) { return refuse(kStrategy, kNoStore); }
  // The two hops overlap: the slower one counts, and one batch of the other.
  double const copy = total_bytes(input) / copy_rate(input);
  return {kStrategy, std::max(copy, store_seconds(input)) + store_latency(input),
          input.bounce_given ? "two hops in a pipeline through the caller's bounce buffer"
                             : "two hops in a pipeline through pinned staging memory"};
}

constexpr char const* kNeedsGds = "GPUDirect Storage is used only where allow_gds is set";

Estimate direct_storage(ChoiceInput const& input) {
  constexpr auto kStrategy = Strategy::DirectStorage;
  if (!involves(input, StorageKind::Disk) || !involves(input, StorageKind::Device)) {
    return refuse(kStrategy, "the sides are not a file and device memory");
  }
  if (!input.storage) { return refuse(kStrategy, kNeedsGds); }
  if (input.storage->mode == device::DirectStorageMode::Refused) {
    return refuse(kStrategy, input.storage->reason);
  }
  if (input.storage->emulated && input.wanted != kStrategy) { return refuse(kStrategy, kEmulated); }
  if (!input.storage->is_plain_file) {
    return refuse(kStrategy, "the file is not one that is open with O_DIRECT");
  }
  if (!input.extents_match) { return refuse(kStrategy, kUnequalExtents); }
  if (*input.storage->problem != '\0') { return refuse(kStrategy, input.storage->problem); }
  double const seconds = store_seconds(input);
  if (input.storage->mode == device::DirectStorageMode::Direct) {
    return {kStrategy, seconds, "GPUDirect Storage straight between the file and GPU memory"};
  }
  // One hop behind the other within each piece, on the same threads.
  return {kStrategy, 2 * seconds + total_bytes(input) / copy_rate(input),
          "cuFile in compatibility mode: through its own memory on the host"};
}

double wire_seconds(ChoiceInput const& input, std::uint64_t num_runs) {
  auto const& costs = costs_of(input);
  return costs.remote_latency + total_bytes(input) / costs.remote_rate +
         static_cast<double>(num_runs) * costs.remote_run_latency;
}

/// Time of everything on our side but the wire: the copy to or from staging, and a file.
double staging_seconds(ChoiceInput const& input) {
  double const copy = total_bytes(input) / copy_rate(input);
  return involves_store(input) ? std::max(copy, store_seconds(input)) : copy;
}

constexpr char const* kNoPeer = "both sides are this worker's";
constexpr char const* kNeedsRdma = "GPU memory goes over the wire only where allow_gpu_rdma is set";

Estimate direct_remote(ChoiceInput const& input) {
  constexpr auto kStrategy = Strategy::DirectRemote;
  if (!input.remote) { return refuse(kStrategy, kNoPeer); }
  auto const& remote = *input.remote;
  if (involves_store(input)) { return refuse(kStrategy, "a side is a file or object store"); }
  if (remote.gpu_involved && !input.capabilities.allow_gpu_rdma) {
    return refuse(kStrategy, kNeedsRdma);
  }
  if (!remote.local_reached) {
    return refuse(kStrategy, "our side's memory is not registered: register its layout first");
  }
  return {kStrategy, wire_seconds(input, remote.num_runs),
          "straight over the wire, one descriptor a run"};
}

Estimate staged_remote(ChoiceInput const& input) {
  constexpr auto kStrategy = Strategy::StagedRemote;
  if (!input.remote) { return refuse(kStrategy, kNoPeer); }
  auto const& remote = *input.remote;
  if ((remote.peer_is_gpu || remote.bounce_is_gpu) && !input.capabilities.allow_gpu_rdma) {
    return refuse(kStrategy, kNeedsRdma);
  }
  // The hops overlap but for a part of the shorter one.
  double const wire = wire_seconds(input, remote.num_staged_runs);
  double const staging = staging_seconds(input);
  return {kStrategy,
          std::max(wire, staging) + std::min(wire, staging) / 4 + costs_of(input).remote_latency,
          input.bounce_given ? "through the caller's bounce buffer, in a pipeline"
                             : "through staging memory in the peer's order, in a pipeline"};
}

Estimate packed_remote(ChoiceInput const& input) {
  constexpr auto kStrategy = Strategy::PackedRemote;
  if (!input.remote) { return refuse(kStrategy, kNoPeer); }
  auto const& remote = *input.remote;
  if (!remote.can_pack) {
    return refuse(kStrategy, "the peer lends no landing memory for such blocks");
  }
  if (input.bounce_given) {
    return refuse(kStrategy, "images have their own staging, not the caller's bounce buffer");
  }
  double const wire = wire_seconds(input, 1);
  double const staging = staging_seconds(input);
  // Every batch is an order of its own: sent, polled for, handed to a thread, answered.
  constexpr double kBatchBytes = 4 << 20;
  constexpr double kHopsPerOrder = 4;
  double const orders = std::ceil(total_bytes(input) / kBatchBytes);
  // As if the peer's copy did not overlap with the wire: where few CPUs do all of it, it does not.
  return {kStrategy,
          std::max(wire, staging) + staging + std::min(wire, staging) / 4 +
              (2 + orders * kHopsPerOrder) * costs_of(input).remote_image_latency,
          "dense images over the wire; the peer gathers or scatters its blocks"};
}

std::string kinds_of(ChoiceInput const& input) {
  return fmt::format("{} -> {}", memory::to_string(input.src_kind),
                     memory::to_string(input.dst_kind));
}

void refuse_what_is_missing(ChoiceInput const& input) {
  if (input.remote && input.remote->both_remote) {
    throw UnsupportedError(kinds_of(input) +
                           ": both sides belong to other workers; ask one of them to move the "
                           "blocks, or go through a layout of this worker");
  }
  if (input.caller_stream && (involves_store(input) || input.remote)) {
    throw UnsupportedError(
        kinds_of(input) +
        ": a caller's stream cannot tell I/O or network errors; leave cuda_stream out and "
        "order the work with wait_for and record_on");
  }
}

Estimates estimate_all(ChoiceInput const& input) {
  Estimates estimates = {host_copy(input),     stream_copy(input),   dma_copy(input),
                         sm_copy(input),       staged_dma(input),    pinned_staging(input),
                         direct_file(input),   staged_file(input),   direct_storage(input),
                         direct_remote(input), staged_remote(input), packed_remote(input)};
  if (input.remote) {
    for (Estimate& estimate : estimates) {
      if (estimate.strategy < Strategy::DirectRemote) {
        estimate = refuse(estimate.strategy, "a side is another worker's memory");
      }
    }
  }
  if (input.wanted) {
    for (Estimate& estimate : estimates) {
      if (estimate.strategy != *input.wanted && !estimate.refused()) {
        estimate = refuse(estimate.strategy, "another strategy was asked for");
      }
    }
  }
  return estimates;
}

Estimate const& best_of(Estimates const& estimates, ChoiceInput const& input) {
  auto const best =
      std::min_element(estimates.begin(), estimates.end(),
                       [](Estimate const& a, Estimate const& b) { return a.seconds < b.seconds; });
  if (!best->refused()) { return *best; }
  if (input.wanted) {
    throw UnsupportedError(fmt::format("{}: {} cannot do this: {}", kinds_of(input),
                                       to_string(*input.wanted),
                                       estimates[static_cast<std::size_t>(*input.wanted)].reason));
  }
  std::string why;
  for (Estimate const& estimate : estimates) {
    why += fmt::format("; {}: {}", to_string(estimate.strategy), estimate.reason);
  }
  throw UnsupportedError(fmt::format("{}: no strategy can do this{}", kinds_of(input), why));
}

std::vector<std::string> notes_for(ChoiceInput const& input, Strategy chosen) {
  std::vector<std::string> notes;
  if (input.capabilities.allow_gds && involves(input, StorageKind::Disk) &&
      involves(input, StorageKind::Device)) {
    Estimate const estimate = direct_storage(input);
    if (chosen != Strategy::DirectStorage) {
      notes.push_back(fmt::format("GPUDirect Storage is allowed but not used: {}",
                                  estimate.refused() ? estimate.reason : "another way is quicker"));
    }
  }
  if (input.capabilities.allow_gpu_rdma && !input.remote) {
    notes.emplace_back("GPU RDMA is allowed but both sides are local: not used");
  }
  if (input.preferences.native_vs_nixl == NativeVsNixlPolicy::PreferNixl && !input.remote) {
    notes.emplace_back("NIXL is preferred but has no part in this transfer: native path taken");
  }
  if (input.bounce_given && chosen != Strategy::StagedFile && chosen != Strategy::StagedRemote) {
    notes.emplace_back("the bounce buffer is not needed: this path is direct");
  }
  bool const on_gpu = input.device && !input.device->emulated;
  if (input.spare == Spare::SpareCpu && chosen != Strategy::DirectFile && !on_gpu) {
    notes.emplace_back("copies run in one thread to spare the CPU");
  }
  if (input.spare == Spare::SpareSms) {
    notes.emplace_back(on_gpu ? "multiprocessors are spared: no kernel stores to host memory"
                              : "no strategy here uses GPU multiprocessors: spared anyway");
  }
  if (input.spare == Spare::SpareCpu && on_gpu) {
    notes.emplace_back("the GPU moves the bytes: the CPU is spared anyway");
  }
  return notes;
}

}  // namespace

unsigned choose_max_ctas(Strategy strategy, LinkDirection direction, Spare spare,
                         std::optional<unsigned> max_sms) noexcept {
  unsigned ctas = 0;
  // Full multiprocessors, but few: stores to host memory hold up whatever else runs on the ones
  // that they come from, and two have as many bytes in flight as a PCIe Gen5 link needs
  // (docs/performance.md).
  if (strategy == Strategy::StagedDma) {
    ctas = 4;
  } else if (strategy == Strategy::SmCopy && direction != LinkDirection::DeviceToDevice) {
    ctas = 2;
  } else if (strategy == Strategy::SmCopy && spare == Spare::SpareSms) {
    ctas = 16;
  }
  if (!max_sms) { return ctas; }
  return ctas == 0 ? *max_sms : std::min(ctas, *max_sms);
}

Strategy choose_strategy(ChoiceInput const& input) {
  refuse_what_is_missing(input);
  return best_of(estimate_all(input), input).strategy;
}

Decision choose(ChoiceInput const& input) {
  refuse_what_is_missing(input);
  Estimates const estimates = estimate_all(input);
  Estimate const& best = best_of(estimates, input);
  Decision decision;
  for (Estimate const& estimate : estimates) {
    Candidate candidate{estimate.strategy, {}, estimate.reason};
    if (!estimate.refused()) { candidate.estimated_seconds = estimate.seconds; }
    decision.candidates.push_back(std::move(candidate));
  }
  decision.strategy = best.strategy;
  decision.estimated_seconds = best.seconds;
  decision.reason = best.reason;
  decision.notes = notes_for(input, best.strategy);
  return decision;
}

}  // namespace kvbm::transfer
