// SPDX-License-Identifier: Apache-2.0
#include "transfer/memory_copy.hpp"

#include <fmt/format.h>

#include "kvbm/core/error.hpp"

namespace kvbm::transfer {
namespace {

std::vector<std::uintptr_t> bind(PlanSide const& side, layout::PhysicalLayout const& layout) {
  std::vector<std::uintptr_t> addresses;
  addresses.reserve(side.segments.size());
  for (auto const& segment : side.segments) {
    std::byte* const base = layout.regions()[segment.region].host_data();
    KVBM_EXPECTS(base != nullptr, Unsupported,
                 fmt::format("{} memory of device {} is not reachable by the CPU",
                             memory::to_string(layout.storage_kind()), layout.device_id()));
    addresses.push_back(reinterpret_cast<std::uintptr_t>(base) + segment.offset);
  }
  return addresses;
}

}  // namespace

MemoryCopy::MemoryCopy(CopyPlan const& plan, layout::PhysicalLayout const& src,
                       layout::PhysicalLayout const& dst)
    : shape_(plan.shape),
      src_segments_(bind(plan.src, src)),
      dst_segments_(bind(plan.dst, dst)),
      src_block_stride_(plan.src.block_stride),
      dst_block_stride_(plan.dst.block_stride),
      bytes_per_block_(plan.bytes_per_block) {}

void MemoryCopy::run(kernels::CopyEngine& engine, std::span<BlockId const> src_blocks,
                     std::span<BlockId const> dst_blocks, int priority, Spare spare) const {
  if (spare == Spare::SpareCpu) {
    for (std::size_t i = 0; i < src_blocks.size(); ++i) {
      for (std::size_t s = 0; s < src_segments_.size(); ++s) {
        kernels::copy_box(
            shape_,
            reinterpret_cast<void const*>(src_segments_[s] + src_blocks[i] * src_block_stride_),
            reinterpret_cast<void*>(dst_segments_[s] + dst_blocks[i] * dst_block_stride_));
      }
    }
    return;
  }
  engine.copy(shape_,
              {src_segments_.size(), src_segments_.data(), dst_segments_.data(), src_block_stride_,
               dst_block_stride_, src_blocks.size(), src_blocks.data(), dst_blocks.data()},
              priority);
}

}  // namespace kvbm::transfer
