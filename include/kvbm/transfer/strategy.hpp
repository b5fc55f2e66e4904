// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "kvbm/device/direct_storage.hpp"
#include "kvbm/memory/storage_kind.hpp"
#include "kvbm/transfer/copy_plan.hpp"
#include "kvbm/transfer/options.hpp"

namespace kvbm::transfer {

/// The ways to execute a plan.
enum class Strategy {
  HostCopy,       ///< copy threads, in the caller's call: ready when it returns
  StreamCopy,     ///< copy threads, in the order of a stream; for emulated devices
  DmaCopy,        ///< the GPU's copy engines, one DMA a contiguous run, submitted in batches
  SmCopy,         ///< a kernel straight between the two sides; pinned memory is mapped
  StagedDma,      ///< a ring in HBM: a kernel gathers into or scatters from it, DMA does the rest
  PinnedStaging,  ///< pageable memory to or from a GPU through pinned staging memory, two hops
  DirectFile,     ///< file I/O straight from or into the other side's memory
  StagedFile,     ///< file I/O through pinned staging memory, two hops in a pipeline
  DirectStorage,  ///< GPUDirect Storage: file I/O straight from and into a GPU's memory
  DirectRemote,   ///< NIXL straight between our memory and the peer's, one descriptor a run
  StagedRemote,   ///< NIXL between the peer's memory and staging memory of ours in its order
  PackedRemote,   ///< NIXL between dense images in staging memory of both sides: the peer helps
};
inline constexpr std::size_t kNumStrategies = 12;

/// "HostCopy", ...
std::string_view to_string(Strategy strategy) noexcept;
/// The strategy of that name. @throws Error(InvalidArgument) naming the strategies there are
Strategy strategy_from_string(std::string_view name);

/// Which way bytes cross a GPU's link.
enum class LinkDirection { HostToDevice, DeviceToHost, DeviceToDevice };
/// "H2D", "D2H", "D2D".
std::string_view to_string(LinkDirection direction) noexcept;

/// A rate that was measured at one length of contiguous runs.
struct RatePoint {
  std::uint64_t run_bytes = 0;
  double bytes_per_second = 0;
  friend bool operator==(RatePoint const&, RatePoint const&) = default;
};

/// What one way of a GPU costs: a fixed part, and a rate that depends on the run length.
struct PathCosts {
  double latency = 10e-6;        ///< seconds, submission to completion of a tiny transfer
  std::vector<RatePoint> rates;  ///< ascending run lengths, at least one point
  /// Rate at a run length: interpolated between the points in logarithms, constant beyond them.
  [[nodiscard]] double rate(double run_bytes) const;
  friend bool operator==(PathCosts const&, PathCosts const&) = default;
};

/// The ways in one direction of a link.
struct LinkCosts {
  PathCosts dma;     ///< by length of the runs that the copy engines move
  PathCosts sm;      ///< kernel straight between both sides, by run length
  PathCosts gather;  ///< kernel between blocks and the ring in HBM, by run length
  friend bool operator==(LinkCosts const&, LinkCosts const&) = default;
};

/// What a GPU and its link do. The defaults are those of an H200 on PCIe Gen5 x16
/// (docs/performance.md); `kvbm tune` measures the ones of this machine.
struct GpuCosts {
  LinkCosts h2d;
  LinkCosts d2h;
  LinkCosts d2d;
  GpuCosts();
  [[nodiscard]] LinkCosts const& operator[](LinkDirection direction) const noexcept;
  [[nodiscard]] LinkCosts& operator[](LinkDirection direction) noexcept;
  friend bool operator==(GpuCosts const&, GpuCosts const&) = default;
};

/// Rates in bytes per second and latencies in seconds that estimates are made from. The defaults
/// are round figures of a 2024 server with one NVMe disk.
struct CostModel {
  double host_copy_rate = 12e9;    ///< long runs, all threads
  double host_permute_rate = 6e9;  ///< runs of 64 to 512 bytes
  double host_element_rate = 1e9;  ///< runs below 64 bytes
  double disk_read_rate = 2e9;
  double disk_write_rate = 2e9;
  double stream_latency = 10e-6;  ///< hand-over to a stream and back
  double disk_latency = 100e-6;
  double object_rate = 1e9;              ///< to and from an object store
  double object_latency = 2e-3;          ///< one request
  double remote_rate = 10e9;             ///< long runs over the wire
  double remote_latency = 20e-6;         ///< hand-over to the peer's lane and back
  double remote_run_latency = 4e-6;      ///< each descriptor
  double remote_image_latency = 150e-6;  ///< asking the peer to fill or empty an image
  GpuCosts gpu;
};

/// What choose() has to know where a device's streams move the bytes.
struct DeviceChoice {
  LinkDirection direction = LinkDirection::DeviceToDevice;
  bool emulated = false;             ///< no GPU: the GPU's ways run only when asked for by name
  bool pageable = false;             ///< the host side is System memory
  bool addressable = true;           ///< kernels reach both sides
  std::uint64_t num_dma = 1;         ///< runs, those of neighbouring blocks merged
  std::uint64_t num_staged_dma = 1;  ///< contiguous pieces of the host's side, likewise
};

/// What choose() has to know where one side is another worker's memory.
struct RemoteChoice {
  std::uint64_t num_runs = 1;         ///< descriptors of the direct way, adjacent runs merged
  std::uint64_t num_staged_runs = 1;  ///< likewise between staging in the peer's order and the peer
  bool local_reached = true;          ///< the wire reaches our side's memory
  bool gpu_involved = false;          ///< a side is a GPU's memory
  bool peer_is_gpu = false;           ///< the peer's side is
  bool bounce_is_gpu = false;         ///< the caller's bounce buffer is
  bool can_pack = true;               ///< the peer lends landing memory, and the formats are plain
  bool both_remote = false;
};

/// What choose() has to know where GPUDirect Storage is allowed, between a file and a device.
struct StorageChoice {
  device::DirectStorageMode mode = device::DirectStorageMode::Refused;
  char const* reason = "";     ///< for the mode
  bool is_plain_file = false;  ///< one file, opened with O_DIRECT
  bool emulated = false;       ///< no GPU: only when asked for by name
  char const* problem = "";    ///< why cuFile does not take this file; empty: it does
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
  bool capturing = false;   ///< the caller's stream is being captured into a graph
  bool single_hop = false;  ///< a part of a path that has its staging already
  bool bounce_given = false;
  bool must_wait = false;  ///< wait_for names events that are not complete
  std::optional<DeviceChoice> device;
  std::optional<RemoteChoice> remote;
  std::optional<StorageChoice> storage;  ///< empty: not allowed, or of no use here
  std::optional<Strategy> wanted;        ///< only this one
  TransferCapabilities capabilities;
  TransferPreferences preferences;
  Spare spare = Spare::Fastest;
  CostModel const* costs = nullptr;  ///< null: the defaults
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
  std::vector<Candidate> candidates;  ///< all of them, in enum order
  std::vector<std::string> notes;     ///< "GPUDirect Storage allowed but not available: ..."
};

/// Picks the cheapest applicable strategy. Pure: equal inputs, equal decisions.
/// @throws UnsupportedError naming both kinds and what is missing (NIXL, a caller's stream with
///         files), or why the wanted strategy is refused
Decision choose(ChoiceInput const& input);

/// Thread blocks that the kernels of a strategy may take: what saturates the link, or what
/// `max_sms` leaves. 0 = as many as fill the device.
unsigned choose_max_ctas(Strategy strategy, LinkDirection direction, Spare spare,
                         std::optional<unsigned> max_sms) noexcept;

/// choose().strategy without the words, and without allocating where it succeeds.
/// @throws as choose
Strategy choose_strategy(ChoiceInput const& input);

}  // namespace kvbm::transfer
