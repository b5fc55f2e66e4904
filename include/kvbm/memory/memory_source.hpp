// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>

#include "kvbm/core/types.hpp"
#include "kvbm/memory/region.hpp"
#include "kvbm/memory/shared_memory.hpp"
#include "kvbm/memory/storage_kind.hpp"

namespace kvbm::memory {

class DiskIo;

/// Owned regions start at a multiple of this many bytes (spec 2: at least 512).
inline constexpr std::uint64_t kRegionAlignment = 512;

/// One allocation.
struct AllocationRequest {
  StorageKind kind = StorageKind::System;      ///< System, Pinned or Device
  std::uint64_t bytes = 0;                     ///< >= 1
  std::uint64_t alignment = kRegionAlignment;  ///< power of two; raised to kRegionAlignment
  DeviceId device_id = -1;  ///< Device: its id. Pinned: place near this device; -1 = anywhere
};

/// What is known about a pointer.
struct PointerInfo {
  StorageKind kind = StorageKind::System;
  DeviceId device_id = -1;
  std::uint64_t bytes_left = 0;  ///< bytes from the pointer to the allocation's end; 0 = unknown
};

/// How much of the Pinned memory that a source has handed out is really locked.
struct PinnedStats {
  std::uint64_t regions = 0;  ///< live Pinned allocations
  std::uint64_t bytes = 0;    ///< of them, as mapped (whole pages)
  std::uint64_t locked_bytes =
      0;  ///< of these, locked in memory; less where RLIMIT_MEMLOCK refused
};

/// Where layouts get their memory from. Implementations: HostMemory below (no devices) and the
/// manager's own, which knows its devices.
///
/// Threads  all methods may be called concurrently.
class MemorySource {
 public:
  virtual ~MemorySource() = default;

  /// Allocates zeroed memory that lives as long as the returned Region's copies.
  /// @throws Error(OutOfMemory) naming bytes and device; Error(NotFound) unknown device;
  ///         Error(InvalidArgument) zero bytes, bad alignment, kind Disk or Object
  virtual Region allocate(AllocationRequest const& request) = 0;

  /// What kind of memory `address` is; nullopt where nothing is known about it (plain host
  /// memory that was not allocated here).
  [[nodiscard]] virtual std::optional<PointerInfo> classify(void const* address) const = 0;

  /// Whether the CPU may dereference memory of this device.
  /// @throws Error(NotFound) unknown device
  [[nodiscard]] virtual bool is_host_accessible(DeviceId device_id) const = 0;

  /// The I/O engine for files.
  [[nodiscard]] virtual std::shared_ptr<DiskIo> disk_io() = 0;

  /// Live Pinned memory of this source; all zero for a source that does not count.
  [[nodiscard]] virtual PinnedStats pinned_stats() const { return {}; }

  /// How other processes of this machine can map `region`, or memory at its address that came from
  /// here; valid as long as that memory lives. nullopt for what cannot be shared: private memory,
  /// files, memory of others.
  [[nodiscard]] virtual std::optional<SharedMemoryName> share(Region const& region) const {
    return region.shared_name();
  }

  /// Maps memory that a process of this machine shares: `name` is what its share() said there.
  /// See map_shared(), which says what is thrown and what it means for lifetimes. The mapping is
  /// known to classify(), and in no statistics.
  /// @param kind  what the region shall be here: System, Pinned or Device
  /// @throws Error(Unsupported) also a source that cannot map such memory; Error(NotFound) also
  ///         memory of a device that this source has not
  [[nodiscard]] virtual Region open_shared(ProcessName const& owner, SharedMemoryName const& name,
                                           std::uint64_t bytes, StorageKind kind);
};

/// NUMA node near a device, -1 where unknown.
using NodeOfDevice = std::function<int(DeviceId)>;

/// How host memory is allocated.
struct HostMemoryOptions {
  NodeOfDevice node_of_device = {};  ///< as below
  /// Whether other processes of this machine can map what is allocated: Pinned memory, and System
  /// memory of a page and more, each in a file in memory of its own. Costs a file descriptor an
  /// allocation, and some speed where the kernel gives shared memory no huge pages. A child that
  /// is forked shares such memory instead of getting a copy.
  bool shareable = false;
};

/// System and Pinned memory and files, for use without any device.
/// Pinned memory is mmap'ed, NUMA-placed where asked, and mlock'ed as far as RLIMIT_MEMLOCK allows.
/// Memory of 2 MiB and more is aligned to 2 MiB and advised for transparent huge pages.
/// @param node_of_device  node of the AllocationRequest's device; by default the i-th GPU that
/// sysfs
///                        lists (see numa.hpp), anywhere on a machine without GPUs or nodes
std::shared_ptr<MemorySource> make_host_memory_source(NodeOfDevice node_of_device = {});
std::shared_ptr<MemorySource> make_host_memory_source(HostMemoryOptions options);

}  // namespace kvbm::memory
