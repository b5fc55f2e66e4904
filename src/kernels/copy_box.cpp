// SPDX-License-Identifier: Apache-2.0
#include "kernels/box_plan.hpp"
#include "kvbm/kernels/copy_engine.hpp"

namespace kvbm::kernels {

void copy_box(kvbm_copy_template const& shape, void const* src, void* dst,
              bool non_temporal) noexcept {
  BoxPlan const plan = plan_box(shape, non_temporal);
  copy_planned(plan, static_cast<std::byte const*>(src), static_cast<std::byte*>(dst));
  if (plan.non_temporal) fence_non_temporal();
}

std::uint64_t box_bytes(kvbm_copy_template const& shape) noexcept {
  std::uint64_t bytes = shape.run_bytes;
  for (std::uint32_t i = 0; i < shape.num_dims; ++i)
    bytes *= shape.dims[i].extent;
  return bytes;
}

}  // namespace kvbm::kernels
