// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>

#include "kvbm/core/types.hpp"
#include "kvbm/memory/region.hpp"
#include "kvbm/memory/storage_kind.hpp"

namespace kvbm::memory {

/// One process of one boot of one machine: what two processes compare to know whether they can map
/// each other's memory, and whether the process that a name was made for still is the same.
struct ProcessName {
  std::array<std::uint64_t, 2> boot_id{};  ///< of the running kernel, random per boot
  std::uint64_t pid_namespace = 0;         ///< inode of the PID namespace that `pid` is of
  std::int64_t pid = 0;
  std::uint64_t start_time = 0;  ///< of the process, in clock ticks since boot
  /// This process.
  /// @throws Error(Unsupported) /proc is absent or shows another PID namespace
  static ProcessName current();
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

/// Whether `process` is of this boot of this machine and of our PID namespace: what /proc shows.
/// @throws as ProcessName::current
[[nodiscard]] bool is_same_machine(ProcessName const& process);

/// Watches a process of this machine. Does not keep it, nor its pid, from going.
///
/// Threads  is_alive() may be called concurrently.
class ProcessWatch {
 public:
  /// A process that has ended, or whose pid another one has by now, is watched as a dead one.
  /// @throws Error(Unsupported) a process of another machine, boot or PID namespace;
  ///         Error(InvalidArgument) no possible pid
  explicit ProcessWatch(ProcessName const& process);
  ~ProcessWatch();
  ProcessWatch(ProcessWatch const&) = delete;
  ProcessWatch& operator=(ProcessWatch const&) = delete;
  ProcessWatch(ProcessWatch&& other) noexcept;
  ProcessWatch& operator=(ProcessWatch&& other) noexcept;

  /// Whether it still runs (stopped is alive, a zombie is not); never true again after false. Costs
  /// one system call, or reading a file of /proc where the kernel refuses pidfd_open.
  [[nodiscard]] bool is_alive() const;
  /// Waits for its end. @return whether it has ended; where there is no pidfd, as !is_alive()
  [[nodiscard]] bool ends_within(std::chrono::milliseconds timeout) const;

 private:
  class Impl;
  std::unique_ptr<Impl const> impl_;
};

/// Maps `bytes` of the memory that `name`, a File, names in the process `owner`, to be read and
/// written. Nothing in `owner` and `name` is trusted: a lie makes an error, never a fault later on.
/// The memory lives as long as the region's copies, also when its owner has gone. Page-aligned as
/// in the owner; of 2 MiB and more, aligned to 2 MiB like there.
/// @param kind       System, Pinned (the owner's lock holds, none is added here) or Device (memory
///                   of an emulated device)
/// @param device_id  of the region
/// @throws Error(NotFound) the owner has gone or freed the memory, or is another process;
///         Error(OutOfRange) beyond the memory's end; Error(InvalidArgument) zero bytes, impossible
///         numbers, no kind of memory; Error(Unsupported) with the reason: another machine, no
///         permission, memory that is not ours to map; Error(OutOfMemory) no address space left
[[nodiscard]] Region map_shared(ProcessName const& owner, SharedMemoryName const& name,
                                std::uint64_t bytes, StorageKind kind, DeviceId device_id);

}  // namespace kvbm::memory
