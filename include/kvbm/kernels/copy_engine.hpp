// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>

#include "kvbm/kernels/kernels.h"

namespace kvbm::kernels {

/// How a CopyEngine is built.
struct CopyEngineOptions {
  /// Threads that copy, the calling one included; 0 = one per CPU that this process may use.
  unsigned num_threads = 0;
  /// Bind workers to NUMA nodes, round robin, where the machine has more than one.
  bool bind_to_numa_nodes = true;
  /// Destinations of at least this many bytes a call use non-temporal stores; 0 = chosen from the
  /// size of the last-level cache.
  std::uint64_t non_temporal_threshold_bytes = 0;
};

/// Multithreaded host copies: plain memcpy and general strided permutation, by one mechanism.
///
/// Threads  every method may be called from any thread at any time; calls share the workers, a call
///          of higher priority is served first.
/// Lifetime the destructor waits for calls under way.
class CopyEngine {
 public:
  explicit CopyEngine(CopyEngineOptions options = {});
  ~CopyEngine();
  CopyEngine(CopyEngine const&) = delete;
  CopyEngine& operator=(CopyEngine const&) = delete;

  /// Copies every box; returns when all bytes are there. The caller's thread takes part.
  /// Source and destination must not overlap.
  /// @param priority  higher is served first where calls compete for the workers
  void copy(kvbm_copy_template const& shape, kvbm_copy_boxes const& boxes, int priority = 0);

  /// Calls body(i) for every i in [0, count), split over the threads in chunks of `grain`; returns
  /// when all are done. The first exception of a body is rethrown after the others ended.
  void parallel_for(std::size_t count, std::size_t grain,
                    std::function<void(std::size_t)> const& body, int priority = 0);

  /// Threads that take part, the caller's included.
  [[nodiscard]] unsigned num_threads() const noexcept;

  /// NUMA nodes the workers are bound to; 1 where nothing is bound.
  [[nodiscard]] unsigned num_numa_nodes() const noexcept;

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

/// Copies one box in the calling thread: the building block of CopyEngine and of checksums.
/// @param non_temporal  store around the caches where run length and alignment allow it
void copy_box(kvbm_copy_template const& shape, void const* src, void* dst,
              bool non_temporal = false) noexcept;

/// Bytes that one box of `shape` copies.
[[nodiscard]] std::uint64_t box_bytes(kvbm_copy_template const& shape) noexcept;

}  // namespace kvbm::kernels
