// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <algorithm>
#include <string>

#include "kvbm/core/checked.hpp"
#include "kvbm/core/error.hpp"
#include "kvbm/transfer/copy_plan.hpp"
#include "transfer/shape_builder.hpp"

namespace kvbm::transfer {
namespace {

using layout::BlockDim;
using layout::BlockGeometry;
using layout::PhysicalLayout;

std::size_t index(BlockDim dim) { return static_cast<std::size_t>(dim); }

/// Start of block 0's segments on one side: a segment a layer if `per_layer`, else one.
PlanSide lower_side(PhysicalLayout const& layout, IndexRange layers, std::uint64_t first_head,
                    bool per_layer) {
  BlockGeometry const& geometry = layout.geometry();
  auto const stride = [&geometry](BlockDim dim) {
    return static_cast<std::uint64_t>(geometry.strides[index(dim)]);
  };
  std::uint64_t const head_offset = checked_mul(first_head, stride(BlockDim::Head));
  PlanSide side;
  side.block_stride = geometry.block_stride;
  std::uint64_t const last = per_layer ? layers.end : layers.begin + 1;
  for (std::uint64_t layer = layers.begin; layer < last; ++layer) {
    SegmentBase base;
    if (geometry.layers_are_regions) {
      base.region = static_cast<std::uint32_t>(layer);
      base.offset = head_offset;
    } else {
      base.offset = checked_add(head_offset, checked_mul(layer, stride(BlockDim::Layer)));
    }
    side.segments.push_back(base);
  }
  return side;
}

/// The post-condition that every byte lies inside its region, for every block id.
void check_bounds(PhysicalLayout const& layout, CopyPlan const& plan, PlanSide const& side,
                  std::int64_t kvbm_copy_dim::* stride, char const* role) {
  std::uint64_t reach = plan.shape.run_bytes;
  for (std::uint32_t i = 0; i < plan.shape.num_dims; ++i) {
    auto const& dim = plan.shape.dims[i];
    reach =
        checked_add(reach, checked_mul(dim.extent - 1, static_cast<std::uint64_t>(dim.*stride)));
  }
  std::uint64_t const last_block = checked_mul(layout.config().num_blocks() - 1, side.block_stride);
  for (auto const& segment : side.segments) {
    std::uint64_t const end = checked_add(checked_add(segment.offset, last_block), reach);
    KVBM_EXPECTS(end <= layout.regions()[segment.region].bytes(), Internal,
                 fmt::format("lowering left the {} region {}: byte {} of {}", role, segment.region,
                             end, layout.regions()[segment.region].bytes()));
  }
}

}  // namespace

CopyPlan lower(PhysicalLayout const& src, PhysicalLayout const& dst, Selection const& selection) {
  BlockGeometry const& a = src.geometry();
  BlockGeometry const& b = dst.geometry();
  bool const per_layer = a.layers_are_regions || b.layers_are_regions;

  CopyPlan plan;
  plan.src = lower_side(src, selection.layers, selection.src_heads.begin, per_layer);
  plan.dst = lower_side(dst, selection.layers, selection.dst_heads.begin, per_layer);

  ShapeBuilder shape(a.element_bytes);
  std::uint64_t elements = selection.layers.size();
  for (BlockDim const dim :
       {BlockDim::Layer, BlockDim::Outer, BlockDim::Token, BlockDim::Head, BlockDim::HeadDim}) {
    std::uint64_t extent = a.extents[index(dim)];
    if (dim == BlockDim::Head) { extent = selection.src_heads.size(); }
    if (dim == BlockDim::Layer) {
      extent = per_layer ? 1 : selection.layers.size();
    } else {
      elements = checked_mul(elements, extent);
    }
    shape.add(extent, a.strides[index(dim)], b.strides[index(dim)]);
  }
  plan.shape = shape.build();
  plan.bytes_per_block = checked_mul(elements, a.element_bytes);
  check_bounds(src, plan, plan.src, &kvbm_copy_dim::src_stride, "source");
  check_bounds(dst, plan, plan.dst, &kvbm_copy_dim::dst_stride, "destination");
  return plan;
}

std::string CopyPlan::to_string() const {
  std::string text = fmt::format("{} segment{} x", num_segments(), num_segments() == 1 ? "" : "s");
  for (std::uint32_t i = 0; i < shape.num_dims; ++i) {
    text += fmt::format(" [{} x (+{} -> +{})]", shape.dims[i].extent, shape.dims[i].src_stride,
                        shape.dims[i].dst_stride);
  }
  return text + fmt::format(" runs of {} B, {} B a block", shape.run_bytes, bytes_per_block);
}

}  // namespace kvbm::transfer
