// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "kvbm/kernels/kernels.h"

namespace kvbm::transfer {

/// Makes a copy template of named loops: drops extents of 1, merges what is contiguous on both
/// sides, and orders the loops.
class ShapeBuilder {
 public:
  /// @param run_bytes  contiguous on both sides inside of every loop
  explicit ShapeBuilder(std::uint64_t run_bytes) { shape_.run_bytes = run_bytes; }

  void add(std::uint64_t extent, std::int64_t src_stride, std::int64_t dst_stride);
  /// Outermost = largest destination stride, so that writes walk forward through memory.
  [[nodiscard]] kvbm_copy_template build();

 private:
  bool absorb_into_run();
  bool merge_with_next(std::uint32_t outer);
  void remove(std::uint32_t i);

  kvbm_copy_template shape_{};
};

}  // namespace kvbm::transfer
