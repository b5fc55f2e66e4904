// SPDX-License-Identifier: Apache-2.0
#include "kernels/box_copier.hpp"

#include <unistd.h>

#include <algorithm>
#include <limits>
#include <span>

#include "kernels/box_plan.hpp"
#include "kvbm/core/checked.hpp"
#include "kvbm/kernels/copy_engine.hpp"

namespace kvbm::kernels {
namespace {

/// Calls below this many bytes stay in the calling thread: waking a worker takes as long.
constexpr std::uint64_t kInlineBytes = 128U << 10U;
/// Bytes of a chunk: large enough to hide its bookkeeping, small enough to share evenly and to let
/// a call of higher priority in after some tens of microseconds.
constexpr std::uint64_t kMinChunkBytes = 64U << 10U;
constexpr std::uint64_t kMaxChunkBytes = 1U << 20U;
constexpr std::uint64_t kChunksPerThread = 4;

/// One call: a plan, the table of boxes, and how both are cut into chunks.
struct CopyCall {
  BoxSplit split;
  BoxPlan const& plan;
  BoxTable const& table;
  std::uint64_t boxes_per_chunk;

  static void run_chunk(void* context, std::uint64_t chunk) noexcept {
    auto const& call = *static_cast<CopyCall const*>(context);
    if (call.split.num_pieces() > 1) {
      BoxAddress const box = call.table.at(call.table.context, chunk / call.split.num_pieces());
      call.split.copy_piece(chunk % call.split.num_pieces(), box.src, box.dst);
    } else {
      std::uint64_t const begin = chunk * call.boxes_per_chunk;
      std::uint64_t const end = std::min(begin + call.boxes_per_chunk, call.table.num_boxes);
      for (std::uint64_t i = begin; i < end; ++i) {
        BoxAddress const box = call.table.at(call.table.context, i);
        copy_planned(call.plan, box.src, box.dst);
      }
    }
    if (call.plan.non_temporal) fence_non_temporal();
  }
};

/// Asked before anything is multiplied: a product with a zero in it may pass 64 bits on the way.
bool box_is_empty(kvbm_copy_template const& shape) noexcept {
  return shape.run_bytes == 0 ||
         std::ranges::any_of(std::span(shape.dims).first(shape.num_dims),
                             [](kvbm_copy_dim const& dim) { return dim.extent == 0; });
}

bool span_overflows(std::uint64_t extent, std::int64_t stride, std::int64_t& reach) noexcept {
  std::int64_t span = 0;
  return extent > kMaxBytes ||
         __builtin_mul_overflow(static_cast<std::int64_t>(extent - 1), stride, &span) ||
         __builtin_add_overflow(reach, span, &reach);
}

bool blocks_overflow(std::uint64_t stride, std::uint32_t const* ids, std::size_t count) noexcept {
  if (stride <= kMaxBytes / std::numeric_limits<std::uint32_t>::max()) return false;
  std::uint32_t const highest = *std::max_element(ids, ids + count);
  return stride > kMaxBytes || (highest != 0 && stride > kMaxBytes / highest);
}

bool any_null(std::uintptr_t const* addresses, std::size_t count) noexcept {
  return std::find(addresses, addresses + count, std::uintptr_t{0}) != addresses + count;
}

/// Boxes in the order in which the destination lies in memory.
struct BlockBoxes {
  kvbm_copy_boxes const& boxes;

  [[nodiscard]] BoxAddress address(std::size_t block, std::size_t segment) const noexcept {
    auto const src = boxes.src_segments[segment] + boxes.src_block_stride * boxes.src_blocks[block];
    auto const dst = boxes.dst_segments[segment] + boxes.dst_block_stride * boxes.dst_blocks[block];
    // Addresses arrive as integers because the C ABI speaks of device memory too.
    return {reinterpret_cast<std::byte const*>(src), reinterpret_cast<std::byte*>(dst)};
  }
  static BoxAddress by_block(void const* context, std::uint64_t box) noexcept {
    auto const& self = *static_cast<BlockBoxes const*>(context);
    return self.address(box / self.boxes.num_segments, box % self.boxes.num_segments);
  }
  static BoxAddress by_segment(void const* context, std::uint64_t box) noexcept {
    auto const& self = *static_cast<BlockBoxes const*>(context);
    return self.address(box % self.boxes.num_blocks, box / self.boxes.num_blocks);
  }
  static BoxAddress by_block_only(void const* context, std::uint64_t box) noexcept {
    return static_cast<BlockBoxes const*>(context)->address(box, 0);
  }
  [[nodiscard]] BoxTable table() const noexcept {
    std::uint64_t const count = std::uint64_t{boxes.num_blocks} * boxes.num_segments;
    if (boxes.num_segments == 1) return {count, by_block_only, this};
    bool const segments_inside_a_block =
        boxes.dst_segments[1] - boxes.dst_segments[0] < boxes.dst_block_stride;
    return {count, segments_inside_a_block ? by_block : by_segment, this};
  }
};

}  // namespace

char const* find_fault(kvbm_copy_template const& shape) noexcept {
  if (shape.num_dims > KVBM_MAX_COPY_DIMS) return "num_dims is above KVBM_MAX_COPY_DIMS";
  auto const dims = std::span(shape.dims).first(shape.num_dims);
  if (box_is_empty(shape)) return nullptr;
  std::uint64_t bytes = shape.run_bytes;
  std::int64_t src_reach = 0;
  std::int64_t dst_reach = 0;
  for (kvbm_copy_dim const& dim : dims) {
    if (__builtin_mul_overflow(bytes, dim.extent, &bytes)) return "the bytes of a box overflow";
    if (span_overflows(dim.extent, dim.src_stride, src_reach) ||
        span_overflows(dim.extent, dim.dst_stride, dst_reach)) {
      return "strides leave the 63-bit range";
    }
  }
  return bytes > kMaxBytes ? "the bytes of a box overflow" : nullptr;
}

char const* find_fault(kvbm_copy_template const& shape, kvbm_copy_boxes const& boxes) noexcept {
  if (char const* fault = find_fault(shape)) return fault;
  if (boxes.num_segments == 0 || boxes.num_blocks == 0 || box_is_empty(shape)) return nullptr;
  if (boxes.src_segments == nullptr || boxes.dst_segments == nullptr)
    return "a segment table is null";
  if (boxes.src_blocks == nullptr || boxes.dst_blocks == nullptr) return "a block table is null";
  std::uint64_t total = 0;
  if (__builtin_mul_overflow(std::uint64_t{boxes.num_segments}, std::uint64_t{boxes.num_blocks},
                             &total) ||
      __builtin_mul_overflow(total, box_bytes(shape), &total) || total > kMaxBytes) {
    return "the bytes of all boxes overflow";
  }
  if (any_null(boxes.src_segments, boxes.num_segments) ||
      any_null(boxes.dst_segments, boxes.num_segments)) {
    return "the address of a segment is null";
  }
  if (blocks_overflow(boxes.src_block_stride, boxes.src_blocks, boxes.num_blocks) ||
      blocks_overflow(boxes.dst_block_stride, boxes.dst_blocks, boxes.num_blocks)) {
    return "block id times block stride leaves the 63-bit range";
  }
  return nullptr;
}

std::uint64_t default_non_temporal_threshold() noexcept {
  constexpr std::uint64_t kUsualCacheBytes = 32U << 20U;
  long const reported = sysconf(_SC_LEVEL3_CACHE_SIZE);
  return reported > 0 ? static_cast<std::uint64_t>(reported) / 2 : kUsualCacheBytes / 2;
}

void copy_boxes(WorkerPool& pool, kvbm_copy_template const& shape, BoxTable const& table,
                std::uint64_t non_temporal_threshold_bytes, int priority) {
  std::uint64_t const box_size = box_bytes(shape);
  std::uint64_t const total = box_size * table.num_boxes;
  if (total == 0) return;
  BoxPlan const plan = plan_box(shape, total >= non_temporal_threshold_bytes);
  std::uint64_t const chunk_bytes =
      total < kInlineBytes ? total
                           : std::clamp(total / (kChunksPerThread * pool.num_threads()),
                                        kMinChunkBytes, kMaxChunkBytes);
  std::uint64_t const pieces = box_size / chunk_bytes;
  CopyCall call{BoxSplit(plan, std::max<std::uint64_t>(1, pieces)), plan, table,
                std::max<std::uint64_t>(1, chunk_bytes / box_size)};
  std::uint64_t const num_chunks =
      call.split.num_pieces() > 1
          ? table.num_boxes * call.split.num_pieces()
          : (table.num_boxes + call.boxes_per_chunk - 1) / call.boxes_per_chunk;
  pool.run(num_chunks, CopyCall::run_chunk, &call, priority);
}

void copy_boxes(WorkerPool& pool, kvbm_copy_template const& shape, kvbm_copy_boxes const& boxes,
                std::uint64_t non_temporal_threshold_bytes, int priority) {
  if (boxes.num_blocks == 0 || boxes.num_segments == 0) return;
  BlockBoxes const blocks{boxes};
  copy_boxes(pool, shape, blocks.table(), non_temporal_threshold_bytes, priority);
}

}  // namespace kvbm::kernels
