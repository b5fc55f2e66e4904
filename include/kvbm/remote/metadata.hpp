// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "kvbm/layout/descriptor.hpp"
#include "kvbm/layout/handle.hpp"
#include "kvbm/layout/physical_layout.hpp"
#include "kvbm/memory/memory_source.hpp"
#include "kvbm/memory/shared_memory.hpp"
#include "kvbm/remote/tier.hpp"

namespace kvbm::remote {

/// How the wire reaches a worker.
struct WorkerAddress {
  static constexpr std::uint32_t kVersion = 1;
  static constexpr std::size_t kMaxNameBytes = 256;

  std::string agent_name;                ///< 1 to kMaxNameBytes printable ASCII characters
  std::vector<std::byte> nixl_metadata;  ///< what NIXL's agent of that name says about itself

  /// A sealed blob of its own, as SerializedLayout makes it (magic "KVBMADDR").
  /// @throws Error(InvalidArgument) for what from_bytes would refuse
  [[nodiscard]] std::vector<std::byte> to_bytes() const;
  /// Reads what to_bytes wrote; `bytes` are untrusted. @throws like SerializedLayout::from_bytes
  static WorkerAddress from_bytes(std::span<std::byte const> bytes);

  friend bool operator==(WorkerAddress const&, WorkerAddress const&) = default;
};

/// One layout of a worker: what it is, where it lies, and what it is for.
struct LogicalLayoutDescriptor {
  layout::LayoutHandle handle;
  LogicalLayoutHandle tier = LogicalLayoutHandle::G1;  ///< tier_of the regions' storage kind
  layout::LayoutDescriptor layout;
  /// How a process of the same machine can map the regions: empty, or one entry a region.
  std::vector<std::optional<memory::SharedMemoryName>> shared;
  bool is_gpu = false;  ///< Device memory that only a GPU's engines reach, not the emulated kind

  friend bool operator==(LogicalLayoutDescriptor const&, LogicalLayoutDescriptor const&) = default;
};

/// Describes a layout of this process under its handle, but for how it is shared.
LogicalLayoutDescriptor describe_layout(layout::LayoutHandle handle,
                                        layout::PhysicalLayout const& layout);

/// Registered memory of a worker that its peers may use as bounce buffer on its side.
struct LandingZone {
  std::uint64_t address = 0;
  std::uint64_t bytes = 0;
  friend bool operator==(LandingZone const&, LandingZone const&) = default;
};

/// Everything that a peer needs to address the layouts of one worker.
struct SerializedLayout {
  static constexpr std::uint32_t kVersion = 1;
  /// Longest blob that is written or read.
  static constexpr std::size_t kMaxBytes = std::size_t{64} << 20U;
  static constexpr std::size_t kMaxLayouts = 65536;

  std::uint64_t worker_id = 0;
  WorkerAddress address;
  std::optional<memory::ProcessName> process;  ///< needed where a layout names shared memory
  std::optional<LandingZone> landing;
  std::vector<LogicalLayoutDescriptor> layouts;

  /// Magic "KVBMMETA", version (u32), length (u64), so many bytes of CBOR, and the XXH3-128 of all
  /// before it (low half, high half); integers little-endian. Equal values give equal bytes.
  /// @throws Error(InvalidArgument) naming the field, for a value that from_bytes would refuse
  [[nodiscard]] std::vector<std::byte> to_bytes() const;

  /// Reads what to_bytes wrote, and nothing else: every accepted blob is the one that to_bytes
  /// makes of the result.
  /// @param bytes  untrusted, whether the checksum is right or not: no length is believed, memory
  ///               and stack that reading takes are bounded by the blob's length
  /// @throws Error(VersionMismatch) "Unsupported version N ..."; CorruptError naming the field and
  ///         what is wrong with it: damage, structure, ranges, handles of another worker or given
  ///         twice, a tier that is not that of the storage, whatever LayoutDescriptor::from_json
  ///         refuses, shared memory that is smaller than its region
  static SerializedLayout from_bytes(std::span<std::byte const> bytes);

  /// For people; the NIXL blob as its length and checksum.
  [[nodiscard]] std::string to_json() const;

  friend bool operator==(SerializedLayout const&, SerializedLayout const&) = default;
};

/// The described layout as one whose regions are the peer's addresses. Nothing is looked up or
/// dereferenced here: the regions are not host-accessible, and only a peer's agent can move them.
/// @param source  where staging memory beside the layout comes from
/// @throws UnsupportedError for Disk and Object layouts, which have no addresses;
///         Error(InvalidArgument) for what the builder refuses
layout::PhysicalLayout remote_layout(LogicalLayoutDescriptor const& descriptor,
                                     std::shared_ptr<memory::MemorySource> source);

}  // namespace kvbm::remote
