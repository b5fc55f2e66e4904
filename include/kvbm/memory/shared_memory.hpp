// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

namespace kvbm::memory {

/// One process of one boot of one machine: what two processes compare to know whether they can map
/// each other's memory, and whether the process that a name was made for still is the same.
struct ProcessName {
  std::array<std::uint64_t, 2> boot_id{};  ///< of the running kernel, random per boot
  std::uint64_t pid_namespace = 0;         ///< inode of the PID namespace that `pid` is of
  std::int64_t pid = 0;
  std::uint64_t start_time = 0;  ///< of the process, in clock ticks since boot
  friend bool operator==(ProcessName const&, ProcessName const&) = default;
};

/// How another process of the same machine can map one region of memory.
struct SharedMemoryName {
  enum class Kind {
    File,     ///< a descriptor of the owning process: fd, device, inode, offset, file_bytes
    CudaIpc,  ///< device memory: ipc_handle, device_uuid, offset, file_bytes of the allocation
  };
  Kind kind = Kind::File;
  std::uint64_t fd = 0;          ///< File: number of the descriptor in the owning process
  std::uint64_t device = 0;      ///< File: st_dev, so that a recycled descriptor is noticed
  std::uint64_t inode = 0;       ///< File: st_ino
  std::uint64_t offset = 0;      ///< bytes of the region's start in the file or allocation
  std::uint64_t file_bytes = 0;  ///< size of the file or allocation
  std::array<std::byte, 64> ipc_handle{};   ///< CudaIpc
  std::array<std::byte, 16> device_uuid{};  ///< CudaIpc: the device that the memory is on
  friend bool operator==(SharedMemoryName const&, SharedMemoryName const&) = default;
};

}  // namespace kvbm::memory
