// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <memory>
#include <optional>

#include "kvbm/core/types.hpp"
#include "kvbm/memory/region.hpp"
#include "kvbm/memory/storage_kind.hpp"

namespace kvbm::memory {

class DiskIo;

/// Owned regions start at a multiple of this many bytes (spec 2: at least 512).
inline constexpr std::uint64_t kRegionAlignment = 512;

/// One allocation.
struct AllocationRequest {
  StorageKind kind = StorageKind::System;  ///< System, Pinned or Device
  std::uint64_t bytes = 0;                 ///< >= 1
  std::uint64_t alignment = kRegionAlignment;  ///< power of two; raised to kRegionAlignment
  DeviceId device_id = -1;  ///< Device: its id. Pinned: place near this device; -1 = anywhere
};

/// What is known about a pointer.
struct PointerInfo {
  StorageKind kind = StorageKind::System;
  DeviceId device_id = -1;
  std::uint64_t bytes_left = 0;  ///< bytes from the pointer to the allocation's end; 0 = unknown
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
};

/// System and Pinned memory and files, for use without any device.
/// Pinned memory is mmap'ed, NUMA-placed where asked, and mlock'ed as far as RLIMIT_MEMLOCK allows.
std::shared_ptr<MemorySource> make_host_memory_source();

}  // namespace kvbm::memory
