// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "kvbm/device/stream.hpp"
#include "kvbm/memory/region.hpp"

namespace kvbm::device {

/// What a memory pool holds right now, in bytes.
struct MemoryPoolStats {
  std::uint64_t reserved_bytes = 0;          ///< held from the device, used or not
  std::uint64_t used_bytes = 0;              ///< handed out, rounded up to whole alignments
  std::uint64_t peak_used_bytes = 0;         ///< highest used_bytes ever
  std::uint64_t num_allocations = 0;         ///< ever
  std::uint64_t num_device_allocations = 0;  ///< how often the pool had to ask the device
};

/// Device memory for temporaries: stream-ordered, reuses what was freed.
///
/// `reserve_bytes` are taken at construction; after a free, free memory beyond `release_threshold`
/// bytes goes back to the device, in the pieces in which it came.
/// Stream   a region may be used by work that is enqueued on its stream after allocate(), and by
///          work that is ordered after that; it may be dropped as soon as its last use is enqueued
///          there. Whoever uses it outside that order synchronises first. Contents are undefined.
/// Threads  safe to use concurrently.
/// Lifetime regions may outlive the pool; the memory goes back to the device with the last of them.
class MemoryPool {
 public:
  MemoryPool() = default;
  MemoryPool(MemoryPool const&) = delete;
  MemoryPool& operator=(MemoryPool const&) = delete;
  virtual ~MemoryPool() = default;

  /// A region of `bytes` bytes, aligned to memory::kRegionAlignment, that returns to the pool, in
  /// the order of `stream`, when its last copy is gone. Never blocks on the stream's work.
  /// @throws Error(OutOfMemory) naming asked, used and total bytes; Error(InvalidArgument) zero
  ///         bytes, null stream, a stream of another device
  virtual memory::Region allocate(std::uint64_t bytes, StreamPtr const& stream) = 0;
  [[nodiscard]] virtual MemoryPoolStats stats() const = 0;
};

}  // namespace kvbm::device
