// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "kvbm/kernels/copy_engine.hpp"
#include "kvbm/memory/memory_source.hpp"
#include "kvbm/memory/region.hpp"

namespace kvbm::cli {

/// What the machine's memory allows, measured with the same threads and the same kind of memory
/// that transfers use: two large buffers, copied or read from end to end.
class MemoryLimits {
 public:
  /// @param bytes  of each buffer, rounded up to whole slices
  MemoryLimits(kernels::CopyEngine& engine, memory::MemorySource& source, std::uint64_t bytes);

  [[nodiscard]] std::uint64_t bytes() const noexcept { return bytes_; }
  /// STREAM-style copy: every thread its slices, stores around the caches. @return seconds
  double stream_copy();
  /// The C library's memcpy, likewise.
  double memcpy_copy();
  /// Adds all words up, likewise.
  double plain_read();

 private:
  template <typename Slice>
  double in_slices(Slice&& slice);
  kernels::CopyEngine& engine_;
  std::uint64_t bytes_;
  memory::Region src_;
  memory::Region dst_;
};

}  // namespace kvbm::cli
