// SPDX-License-Identifier: Apache-2.0
#include "transfer/memory_copy.hpp"

#include <fmt/format.h>

#include "kvbm/core/error.hpp"

namespace kvbm::transfer {
namespace {

void expect_host_reachable(layout::PhysicalLayout const& layout) {
  KVBM_EXPECTS(is_host_reachable(layout), Unsupported,
               fmt::format("{} memory of device {} is not reachable by the CPU",
                           memory::to_string(layout.storage_kind()), layout.device_id()));
}

}  // namespace

MemoryCopy::MemoryCopy(CopyPlan const& plan, layout::PhysicalLayout const& src,
                       layout::PhysicalLayout const& dst)
    : plan_(plan, src, dst), bytes_per_block_(plan.bytes_per_block) {
  expect_host_reachable(src);
  expect_host_reachable(dst);
}

void MemoryCopy::run(kernels::CopyEngine& engine, std::span<BlockId const> src_blocks,
                     std::span<BlockId const> dst_blocks, int priority, Spare spare) const {
  if (spare != Spare::SpareCpu) {
    engine.copy(plan_.shape, plan_.boxes(src_blocks, dst_blocks), priority);
    return;
  }
  for (std::size_t i = 0; i < src_blocks.size(); ++i) {
    for (std::size_t s = 0; s < plan_.src_segments.size(); ++s) {
      kernels::copy_box(
          plan_.shape,
          reinterpret_cast<void const*>(plan_.src_segments[s] +
                                        src_blocks[i] * plan_.src_block_stride),
          reinterpret_cast<void*>(plan_.dst_segments[s] + dst_blocks[i] * plan_.dst_block_stride));
    }
  }
}

}  // namespace kvbm::transfer
