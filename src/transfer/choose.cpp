// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "kvbm/core/error.hpp"
#include "kvbm/transfer/strategy.hpp"

namespace kvbm::transfer {
namespace {

using memory::StorageKind;

double copy_rate(ChoiceInput const& input) {
  if (input.run_bytes < 64) { return input.costs.host_element_rate; }
  return input.run_bytes <= 512 ? input.costs.host_permute_rate : input.costs.host_copy_rate;
}

double total_bytes(ChoiceInput const& input) {
  return static_cast<double>(input.num_blocks) * static_cast<double>(input.bytes_per_block);
}

bool involves(ChoiceInput const& input, StorageKind kind) {
  return input.src_kind == kind || input.dst_kind == kind;
}

double disk_seconds(ChoiceInput const& input) {
  double seconds = input.costs.disk_latency;
  if (input.src_kind == StorageKind::Disk) {
    seconds += total_bytes(input) / input.costs.disk_read_rate;
  }
  if (input.dst_kind == StorageKind::Disk) {
    seconds += total_bytes(input) / input.costs.disk_write_rate;
  }
  return seconds;
}

Candidate refuse(Strategy strategy, std::string reason) {
  return {strategy, {}, std::move(reason)};
}

Candidate host_copy(ChoiceInput const& input) {
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

Candidate stream_copy(ChoiceInput const& input) {
  constexpr auto kStrategy = Strategy::StreamCopy;
  if (!memory::is_memory(input.src_kind) || !memory::is_memory(input.dst_kind)) {
    return refuse(kStrategy, "both sides must be memory");
  }
  return {kStrategy, input.costs.stream_latency + total_bytes(input) / copy_rate(input),
          input.caller_stream ? "in the order of the caller's stream" : "on a stream of the pool"};
}

Candidate direct_file(ChoiceInput const& input) {
  constexpr auto kStrategy = Strategy::DirectFile;
  if (!involves(input, StorageKind::Disk)) { return refuse(kStrategy, "no side is a file"); }
  if (!memory::is_host(input.src_kind) && !memory::is_host(input.dst_kind)) {
    return refuse(kStrategy, "the other side must be host memory");
  }
  if (!input.extents_match) {
    return refuse(kStrategy, "the sides differ in format, kind, alignment or part of the block");
  }
  return {kStrategy, disk_seconds(input),
          "file I/O straight from and into the other side's memory"};
}

Candidate staged_file(ChoiceInput const& input) {
  constexpr auto kStrategy = Strategy::StagedFile;
  if (!involves(input, StorageKind::Disk)) { return refuse(kStrategy, "no side is a file"); }
  // The two hops overlap: the slower one counts, and one batch of the other.
  double const copy = total_bytes(input) / copy_rate(input);
  double const disk = disk_seconds(input);
  return {kStrategy, std::max(copy, disk) + input.costs.disk_latency,
          input.bounce_given ? "two hops in a pipeline through the caller's bounce buffer"
                             : "two hops in a pipeline through pinned staging memory"};
}

void refuse_what_is_missing(ChoiceInput const& input) {
  std::string const pair =
      fmt::format("{} -> {}", memory::to_string(input.src_kind), memory::to_string(input.dst_kind));
  if (involves(input, StorageKind::Object)) {
    throw UnsupportedError(pair + ": object storage is not part of this version");
  }
  if (input.caller_stream && involves(input, StorageKind::Disk)) {
    throw UnsupportedError(pair +
                           ": a caller's stream cannot tell I/O errors; leave cuda_stream out and "
                           "order the work with wait_for and record_on");
  }
}

std::vector<std::string> notes_for(ChoiceInput const& input, Strategy chosen) {
  std::vector<std::string> notes;
  if (input.capabilities.allow_gds && involves(input, StorageKind::Disk) &&
      involves(input, StorageKind::Device)) {
    notes.emplace_back("GPUDirect Storage is allowed but not part of this version: staged instead");
  }
  if (input.capabilities.allow_gpu_rdma) {
    notes.emplace_back("GPU RDMA is allowed but both sides are local: not used");
  }
  if (input.preferences.native_vs_nixl == NativeVsNixlPolicy::PreferNixl) {
    notes.emplace_back("NIXL is preferred but not part of this version: native path taken");
  }
  if (input.bounce_given && chosen != Strategy::StagedFile) {
    notes.emplace_back("the bounce buffer is not needed: this path is direct");
  }
  if (input.spare == Spare::SpareCpu && chosen != Strategy::DirectFile) {
    notes.emplace_back("copies run in one thread to spare the CPU");
  }
  if (input.spare == Spare::SpareSms) {
    notes.emplace_back("no strategy here uses GPU multiprocessors: spared anyway");
  }
  return notes;
}

}  // namespace

std::string_view to_string(Strategy strategy) noexcept {
  switch (strategy) {
    case Strategy::HostCopy: return "HostCopy";
    case Strategy::StreamCopy: return "StreamCopy";
    case Strategy::DirectFile: return "DirectFile";
    case Strategy::StagedFile: return "StagedFile";
  }
  return "Unknown";
}

Decision choose(ChoiceInput const& input) {
  refuse_what_is_missing(input);
  Decision decision;
  decision.candidates = {host_copy(input), stream_copy(input), direct_file(input),
                         staged_file(input)};
  Candidate const* best = nullptr;
  for (Candidate const& candidate : decision.candidates) {
    if (candidate.estimated_seconds &&
        (best == nullptr || *candidate.estimated_seconds < *best->estimated_seconds)) {
      best = &candidate;
    }
  }
  KVBM_EXPECTS(best != nullptr, Unsupported,
               fmt::format("no strategy moves {} to {}", memory::to_string(input.src_kind),
                           memory::to_string(input.dst_kind)));
  decision.strategy = best->strategy;
  decision.estimated_seconds = *best->estimated_seconds;
  decision.reason = best->reason;
  decision.notes = notes_for(input, best->strategy);
  return decision;
}

}  // namespace kvbm::transfer
