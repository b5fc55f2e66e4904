// SPDX-License-Identifier: Apache-2.0
#include "transfer/bound_plan.hpp"

#include <algorithm>

namespace kvbm::transfer {

bool is_host_reachable(layout::PhysicalLayout const& layout) {
  return memory::is_memory(layout.storage_kind()) &&
         std::all_of(layout.regions().begin(), layout.regions().end(),
                     [](memory::Region const& region) { return region.host_data() != nullptr; });
}

std::vector<std::uintptr_t> addresses_of(std::vector<SegmentBase> const& segments,
                                         layout::PhysicalLayout const& layout) {
  std::vector<std::uintptr_t> addresses;
  addresses.reserve(segments.size());
  for (auto const& segment : segments) {
    addresses.push_back(layout.regions()[segment.region].address() + segment.offset);
  }
  return addresses;
}

BoundPlan::BoundPlan(CopyPlan const& plan, layout::PhysicalLayout const& src,
                     layout::PhysicalLayout const& dst)
    : shape(plan.shape),
      src_segments(addresses_of(plan.src.segments, src)),
      dst_segments(addresses_of(plan.dst.segments, dst)),
      src_block_stride(plan.src.block_stride),
      dst_block_stride(plan.dst.block_stride) {}

kvbm_copy_boxes BoundPlan::boxes(std::span<BlockId const> src_blocks,
                                 std::span<BlockId const> dst_blocks) const {
  return {src_segments.size(), src_segments.data(), dst_segments.data(), src_block_stride,
          dst_block_stride,    src_blocks.size(),   src_blocks.data(),   dst_blocks.data()};
}

}  // namespace kvbm::transfer
