// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "kvbm/core/types.hpp"
#include "kvbm/transfer/copy_plan.hpp"

namespace kvbm::transfer {

/// Whether the CPU may dereference all of a layout's memory.
[[nodiscard]] bool is_host_reachable(layout::PhysicalLayout const& layout);

/// Where block 0's segments of a layout start.
[[nodiscard]] std::vector<std::uintptr_t> addresses_of(std::vector<SegmentBase> const& segments,
                                                       layout::PhysicalLayout const& layout);

/// A plan with addresses in the place of regions and offsets.
/// Lifetime holds addresses only: the layouts must be kept alive beside it.
struct BoundPlan {
  BoundPlan(CopyPlan const& plan, layout::PhysicalLayout const& src,
            layout::PhysicalLayout const& dst);

  /// What the kernels take for these blocks; points into this object and both lists.
  [[nodiscard]] kvbm_copy_boxes boxes(std::span<BlockId const> src_blocks,
                                      std::span<BlockId const> dst_blocks) const;

  kvbm_copy_template shape;
  std::vector<std::uintptr_t> src_segments;
  std::vector<std::uintptr_t> dst_segments;
  std::uint64_t src_block_stride;
  std::uint64_t dst_block_stride;
};

}  // namespace kvbm::transfer
