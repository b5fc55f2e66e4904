// SPDX-License-Identifier: Apache-2.0
#include "transfer/staging_image.hpp"

#include <algorithm>
#include <optional>

#include "kvbm/core/checked.hpp"
#include "transfer/shape_builder.hpp"

namespace kvbm::transfer {
namespace {

/// One loop of the plan, seen from both sides, and where the image puts its steps.
struct Loop {
  std::uint64_t extent;
  std::int64_t host_stride;
  std::int64_t device_stride;
  std::int64_t image_stride = 0;
  bool is_segment = false;
};

/// Distance between neighbouring segments where it is the same for all, as that of the layers of a
/// fully contiguous block.
std::optional<std::int64_t> segment_stride(PlanSide const& side) {
  auto const& segments = side.segments;
  if (segments.size() < 2 || segments[1].offset <= segments[0].offset) { return std::nullopt; }
  std::uint64_t const stride = segments[1].offset - segments[0].offset;
  for (std::size_t i = 1; i < segments.size(); ++i) {
    if (segments[i].region != segments[0].region ||
        segments[i].offset != segments[0].offset + i * stride) {
      return std::nullopt;
    }
  }
  return static_cast<std::int64_t>(stride);
}

kvbm_copy_template shape_of(std::vector<Loop> const& loops, std::uint64_t run_bytes,
                            std::int64_t Loop::* end, bool from_image, bool with_segments) {
  ShapeBuilder shape(run_bytes);
  for (Loop const& loop : loops) {
    if (loop.is_segment && !with_segments) { continue; }
    shape.add(loop.extent, from_image ? loop.image_stride : loop.*end,
              from_image ? loop.*end : loop.image_stride);
  }
  return shape.build();
}

}  // namespace

StagingImage make_staging_image(CopyPlan const& plan, Side host_side) {
  bool const to_host = host_side == Side::Destination;
  PlanSide const& host = to_host ? plan.dst : plan.src;
  PlanSide const& device = to_host ? plan.src : plan.dst;

  std::vector<Loop> loops;
  for (std::uint32_t i = 0; i < plan.shape.num_dims; ++i) {
    auto const& dim = plan.shape.dims[i];
    loops.push_back({dim.extent, to_host ? dim.dst_stride : dim.src_stride,
                     to_host ? dim.src_stride : dim.dst_stride});
  }
  std::uint64_t const num_segments = plan.num_segments();
  auto const host_segment_stride = segment_stride(host);
  // Segments that are evenly spaced on the host are one more loop there, and may lie anywhere in
  // the order of the host's loops; otherwise each is a part of the image by itself.
  if (host_segment_stride) { loops.push_back({num_segments, *host_segment_stride, 0, 0, true}); }
  std::sort(loops.begin(), loops.end(),
            [](Loop const& a, Loop const& b) { return a.host_stride < b.host_stride; });
  std::uint64_t compact = plan.shape.run_bytes;
  std::int64_t image_segment_stride = 0;
  for (Loop& loop : loops) {
    loop.image_stride = static_cast<std::int64_t>(compact);
    if (loop.is_segment) { image_segment_stride = loop.image_stride; }
    compact = checked_mul(compact, loop.extent);
  }

  StagingImage image;
  image.block_bytes = plan.bytes_per_block;
  if (!host_segment_stride) { image_segment_stride = static_cast<std::int64_t>(compact); }

  image.device.shape = shape_of(loops, plan.shape.run_bytes, &Loop::device_stride, !to_host, false);
  image.device.segments = device.segments;
  image.device.block_stride = device.block_stride;
  for (std::uint64_t s = 0; s < num_segments; ++s) {
    image.device.image_segments.push_back(s * static_cast<std::uint64_t>(image_segment_stride));
  }

  image.host.shape = shape_of(loops, plan.shape.run_bytes, &Loop::host_stride, to_host, true);
  image.host.block_stride = host.block_stride;
  if (host_segment_stride) {
    image.host.segments = {host.segments.front()};
    image.host.image_segments = {0};
  } else {
    image.host.segments = host.segments;
    image.host.image_segments = image.device.image_segments;
  }
  image.pieces_per_block = image.block_bytes / image.host.shape.run_bytes;
  image.blocks_adjoin = image.pieces_per_block == 1 && host.block_stride == image.block_bytes;
  return image;
}

}  // namespace kvbm::transfer
