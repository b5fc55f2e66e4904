// SPDX-License-Identifier: Apache-2.0
#include "kernels/cuda/reduced_shape.hpp"

#include <algorithm>

#include "kernels/box_plan.hpp"

namespace kvbm::kernels {
namespace {

std::uint64_t magnitude(std::int64_t stride) noexcept {
  return stride < 0 ? std::uint64_t{0} - static_cast<std::uint64_t>(stride)
                    : static_cast<std::uint64_t>(stride);
}

}  // namespace

kvbm_copy_template reduced(kvbm_copy_template const& shape, Walk walk) noexcept {
  BoxPlan const plan = plan_box(shape, false);
  kvbm_copy_template result{};
  result.run_bytes = plan.nest.run_bytes;
  auto const push = [&result](Loop const& loop) {
    if (loop.extent > 1 && result.num_dims < KVBM_MAX_COPY_DIMS) {
      result.dims[result.num_dims++] = {loop.extent, loop.src_stride, loop.dst_stride};
    }
  };
  for (std::uint32_t i = 0; i < plan.num_loops; ++i)
    push(plan.loops[i]);
  push(plan.nest.outer);
  push(plan.nest.inner);
  std::stable_sort(result.dims, result.dims + result.num_dims,
                   [walk](kvbm_copy_dim const& a, kvbm_copy_dim const& b) {
                     return walk == Walk::Destination
                                ? magnitude(a.dst_stride) > magnitude(b.dst_stride)
                                : magnitude(a.src_stride) > magnitude(b.src_stride);
                   });
  return result;
}

bool segments_lie_in_block(kvbm_copy_boxes const& boxes) noexcept {
  return boxes.num_segments > 1 &&
         boxes.dst_segments[1] - boxes.dst_segments[0] < boxes.dst_block_stride;
}

}  // namespace kvbm::kernels
