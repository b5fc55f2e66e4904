// SPDX-License-Identifier: Apache-2.0
#include "transfer/shape_builder.hpp"

#include <algorithm>

namespace kvbm::transfer {

void ShapeBuilder::add(std::uint64_t extent, std::int64_t src_stride, std::int64_t dst_stride) {
  if (extent > 1) { shape_.dims[shape_.num_dims++] = {extent, src_stride, dst_stride}; }
}

kvbm_copy_template ShapeBuilder::build() {
  while (absorb_into_run()) {}
  std::sort(
      shape_.dims, shape_.dims + shape_.num_dims,
      [](kvbm_copy_dim const& a, kvbm_copy_dim const& b) { return a.dst_stride > b.dst_stride; });
  for (std::uint32_t outer = 0; outer + 1 < shape_.num_dims;) {
    outer = merge_with_next(outer) ? 0 : outer + 1;
  }
  return shape_;
}

bool ShapeBuilder::absorb_into_run() {
  auto const run = static_cast<std::int64_t>(shape_.run_bytes);
  for (std::uint32_t i = 0; i < shape_.num_dims; ++i) {
    if (shape_.dims[i].src_stride == run && shape_.dims[i].dst_stride == run) {
      shape_.run_bytes *= shape_.dims[i].extent;
      remove(i);
      return true;
    }
  }
  return false;
}

bool ShapeBuilder::merge_with_next(std::uint32_t outer) {
  kvbm_copy_dim const& a = shape_.dims[outer];
  kvbm_copy_dim& b = shape_.dims[outer + 1];
  auto const steps = static_cast<std::int64_t>(b.extent);
  if (a.src_stride != b.src_stride * steps || a.dst_stride != b.dst_stride * steps) {
    return false;
  }
  b.extent *= a.extent;
  remove(outer);
  return true;
}

void ShapeBuilder::remove(std::uint32_t i) {
  std::move(shape_.dims + i + 1, shape_.dims + shape_.num_dims, shape_.dims + i);
  --shape_.num_dims;
}

}  // namespace kvbm::transfer
