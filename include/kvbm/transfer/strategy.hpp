// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "kvbm/memory/storage_kind.hpp"
#include "kvbm/transfer/copy_plan.hpp"
#include "kvbm/transfer/options.hpp"

namespace kvbm::transfer {

/// The ways to execute a plan.
enum class Strategy {
  HostCopy,    ///< copy threads, in the caller's call: ready when it returns
  StreamCopy,  ///< on a device's stream
  DirectFile,  ///< file I/O straight from or into the other side's memory
  StagedFile,  ///< file I/O through pinned staging memory, two hops in a pipeline
};

/// "HostCopy", ...
std::string_view to_string(Strategy strategy) noexcept;

/// Rates in bytes per second and latencies in seconds that estimates are made from. The defaults
/// are round figures of a 2024 server with one NVMe disk; measure_cost_model() replaces them.
struct CostModel {
  double host_copy_rate = 12e9;    ///< long runs, all threads
  double host_permute_rate = 6e9;  ///< runs of 64 to 512 bytes
  double host_element_rate = 1e9;  ///< runs below 64 bytes
  double disk_read_rate = 2e9;
  double disk_write_rate = 2e9;
  double stream_latency = 10e-6;  ///< hand-over to a stream and back
  double disk_latency = 100e-6;
};

/// Everything choose() looks at; no pointers, no state.
struct ChoiceInput {
  memory::StorageKind src_kind = memory::StorageKind::System;
  memory::StorageKind dst_kind = memory::StorageKind::System;
  std::uint64_t num_blocks = 0;
  std::uint64_t bytes_per_block = 0;
  std::uint64_t run_bytes = 0;
  /// Both sides have equal extents, whole blocks are moved, memory is aligned for direct I/O.
  bool extents_match = false;
  bool caller_stream = false;
  bool bounce_given = false;
  bool must_wait = false;  ///< wait_for names events that are not complete
  TransferCapabilities capabilities;
  TransferPreferences preferences;
  Spare spare = Spare::Fastest;
  CostModel costs;
};

/// A way that was considered.
struct Candidate {
  Strategy strategy = Strategy::HostCopy;
  std::optional<double> estimated_seconds;  ///< empty if refused
  std::string reason;                       ///< why refused, or what it does
};

/// The outcome of choose().
struct Decision {
  Strategy strategy = Strategy::HostCopy;
  double estimated_seconds = 0;
  std::string reason;
  std::vector<Candidate> candidates;  ///< all four, in enum order
  std::vector<std::string> notes;     ///< "GPUDirect Storage allowed but not available: ..."
};

/// Picks the cheapest applicable strategy. Pure: equal inputs, equal decisions.
/// @throws UnsupportedError naming both kinds and what is missing (object storage, NIXL, a caller's
///         stream with files)
Decision choose(ChoiceInput const& input);

}  // namespace kvbm::transfer
