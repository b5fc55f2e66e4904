// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "kvbm/core/types.hpp"
#include "kvbm/kernels/kernels.h"
#include "kvbm/layout/physical_layout.hpp"

namespace kvbm::transfer {

/// The part of the blocks that a transfer moves, after validation.
struct Selection {
  IndexRange layers;     ///< same on both sides
  IndexRange src_heads;  ///< of the source's heads
  IndexRange dst_heads;  ///< of the destination's heads, as many
  friend bool operator==(Selection const&, Selection const&) = default;
};

/// Where a segment of block 0 starts on one side.
struct SegmentBase {
  std::uint32_t region = 0;
  std::uint64_t offset = 0;  ///< bytes in the region
  friend bool operator==(SegmentBase const&, SegmentBase const&) = default;
};

/// One side of a plan: block b's segment s starts at segments[s] + b * block_stride.
struct PlanSide {
  std::vector<SegmentBase> segments;
  std::uint64_t block_stride = 0;  ///< bytes
  friend bool operator==(PlanSide const&, PlanSide const&) = default;
};

/// What is copied, whatever the formats, kinds and ranges: one template shared by all blocks and
/// (segment, block) -> address on either side. Size is independent of the number of blocks.
struct CopyPlan {
  kvbm_copy_template shape{};  ///< merged loops, outermost first, and the contiguous run
  PlanSide src;
  PlanSide dst;  ///< as many segments as src
  std::uint64_t bytes_per_block = 0;

  [[nodiscard]] std::uint64_t num_segments() const noexcept { return src.segments.size(); }
  /// Contiguous runs that one block consists of.
  [[nodiscard]] std::uint64_t runs_per_block() const noexcept {
    return bytes_per_block / shape.run_bytes;
  }
  /// "1 segment x [8 x (+4096 -> +256)] x runs of 256 B".
  [[nodiscard]] std::string to_string() const;
};

/// Lowers a pair of layouts and a selection to a CopyPlan: strides of both sides over the five
/// named dimensions, extents of 1 dropped, dimensions contiguous on both sides merged. Layers
/// become segments where either side keeps a region per layer. Pure.
///
/// @pre  validate_pair(src, dst, ...) accepted the pair and the selection
/// @post every byte lies inside its region for every block id; destinations are disjoint
/// @throws Error(Internal) if the post-condition would not hold
CopyPlan lower(layout::PhysicalLayout const& src, layout::PhysicalLayout const& dst,
               Selection const& selection);

}  // namespace kvbm::transfer
