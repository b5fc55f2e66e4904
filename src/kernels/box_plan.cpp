// SPDX-License-Identifier: Apache-2.0
#include "kernels/box_plan.hpp"

#include <algorithm>
#include <span>
#include <utility>

#include "kernels/nest_kernels.hpp"

#if KVBM_KERNELS_X86
#include <immintrin.h>
#endif

namespace kvbm::kernels {
namespace {

/// The loops of a template while they are merged and put into order.
struct LoopList {
  std::array<Loop, KVBM_MAX_COPY_DIMS> items{};
  std::uint32_t count = 0;

  [[nodiscard]] std::span<Loop> view() noexcept { return {items.data(), count}; }
  void push(Loop const& loop) noexcept { items[count++] = loop; }
  void remove(std::uint32_t index) noexcept {
    std::move(items.begin() + index + 1, items.begin() + count, items.begin() + index);
    --count;
  }
};

std::uint64_t magnitude(std::int64_t stride) noexcept {
  return stride < 0 ? std::uint64_t{0} - static_cast<std::uint64_t>(stride)
                    : static_cast<std::uint64_t>(stride);
}

bool continues(Loop const& outer, Loop const& inner) noexcept {
  // Compared by division: the product of a hostile stride and extent may wrap.
  auto const extent = static_cast<std::int64_t>(inner.extent);
  return outer.src_stride % extent == 0 && outer.dst_stride % extent == 0 &&
         outer.src_stride / extent == inner.src_stride &&
         outer.dst_stride / extent == inner.dst_stride;
}

/// Lets the run swallow loops that continue it on both sides.
bool grow_run(LoopList& loops, std::uint64_t& run_bytes) noexcept {
  auto const run = static_cast<std::int64_t>(run_bytes);
  for (std::uint32_t i = 0; i < loops.count; ++i) {
    Loop const& loop = loops.items[i];
    if (loop.src_stride == run && loop.dst_stride == run) {
      run_bytes *= loop.extent;
      loops.remove(i);
      return true;
    }
  }
  return false;
}

/// Joins one pair of loops that is a single loop on both sides.
bool merge_pair(LoopList& loops) noexcept {
  for (std::uint32_t outer = 0; outer < loops.count; ++outer) {
    for (std::uint32_t inner = 0; inner < loops.count; ++inner) {
      if (outer != inner && continues(loops.items[outer], loops.items[inner])) {
        loops.items[inner].extent *= loops.items[outer].extent;
        loops.remove(outer);
        return true;
      }
    }
  }
  return false;
}

bool is_element(std::uint64_t bytes) noexcept {
  return bytes == 1 || bytes == 2 || bytes == 4 || bytes == 8;
}

constexpr std::uint64_t kLineBytes = 64;

std::uint64_t longest_stride(Loop const& loop) noexcept {
  return std::max(magnitude(loop.src_stride), magnitude(loop.dst_stride));
}

/// Puts the loops of a run nest into the better order and sets its tile.
void order_runs(Nest& nest) noexcept {
  if (nest.run_bytes >= kLineBytes) {
    // Runs are whole lines, so nothing is shared between neighbours and the order is free. With the
    // longer strides inside, both sides are a few streams that advance line by line; the other way
    // round one side is read in leaps, which prefetchers do not follow (measured on Zen 4: 1.0
    // against 0.6 of a plain copy for NHD -> UniversalTP).
    constexpr std::uint64_t kMaxStreams = 64;
    if (nest.outer.extent > 1 && longest_stride(nest.outer) > longest_stride(nest.inner)) {
      std::swap(nest.outer, nest.inner);
    }
    nest.tile = std::min(kMaxStreams, nest.inner.extent);
    return;
  }
  // Runs share lines. The lines that one pass over the tile touches at the source have to live in
  // L1 until the next pass reads their neighbours: half of a 32 KiB L1.
  constexpr std::uint64_t kTileBytes = 16U << 10U;
  nest.tile = std::min(kTileBytes / kLineBytes, nest.inner.extent);
}

/// Finds the innermost loops that together read one dense stretch of the source, if tiles would
/// read it in short leaps. Prefetchers do not follow leaps, so the stretch is walked through once
/// before, a load a line: by 0.34 -> 0.79 of a plain copy for rows of 512 bytes on Zen 4, where
/// prefetch instructions for the next nest gained nothing.
void find_stretch(BoxPlan& plan) noexcept {
  constexpr std::uint64_t kTileRowBytes = 2 * kLineBytes;
  constexpr std::uint64_t kMaxStretchBytes = 256U << 10U;  // a quarter of a usual L2
  Nest const& nest = plan.nest;
  plan.stretch_bytes = 0;
  std::uint64_t bytes = nest.run_bytes * nest.outer.extent;
  std::uint64_t span = bytes;
  bool const reads_in_order =
      bytes <= kTileRowBytes && magnitude(nest.inner.src_stride) <= kTileRowBytes;
  if (reads_in_order || bytes < kTileRowBytes) return;
  Loop const* loop = &nest.inner;
  for (std::uint32_t level = plan.num_loops;; --level) {
    if (loop->src_stride < 0) return;
    auto const stride = static_cast<std::uint64_t>(loop->src_stride);
    if (loop->extent > kMaxStretchBytes || stride > kMaxStretchBytes) return;
    bytes *= loop->extent;
    span += (loop->extent - 1) * stride;
    if (bytes > kMaxStretchBytes) return;
    if (span <= bytes + bytes / 4) {
      plan.stretch_bytes = span;
      plan.stretch_level = level;
      return;
    }
    if (level == 0) return;
    loop = &plan.loops[level - 1];
  }
}

void walk_stretch(std::byte const* src, std::uint64_t bytes) noexcept {
  for (std::uint64_t at = 0; at < bytes; at += kLineBytes) {
    static_cast<void>(*static_cast<std::byte const volatile*>(src + at));
  }
}

}  // namespace

BoxPlan plan_box(kvbm_copy_template const& shape, bool non_temporal) noexcept {
  BoxPlan plan;
  plan.non_temporal = non_temporal;
  plan.bytes = shape.run_bytes;
  LoopList loops;
  std::uint64_t run_bytes = shape.run_bytes;
  for (std::uint32_t i = 0; i < shape.num_dims; ++i) {
    kvbm_copy_dim const& dim = shape.dims[i];
    plan.bytes *= dim.extent;
    if (dim.extent != 1) loops.push({dim.extent, dim.src_stride, dim.dst_stride});
  }
  if (plan.bytes == 0) return plan;
  while (grow_run(loops, run_bytes) || merge_pair(loops)) {}

  // The destination is walked in order, so that its lines are written once and whole.
  std::ranges::sort(loops.view(), [](Loop const& a, Loop const& b) {
    return std::pair(magnitude(a.dst_stride), magnitude(a.src_stride)) >
           std::pair(magnitude(b.dst_stride), magnitude(b.src_stride));
  });
  Nest& nest = plan.nest;
  nest.run_bytes = run_bytes;
  if (loops.count > 0) {
    nest.inner = loops.items[loops.count - 1];
    loops.remove(loops.count - 1);
  }
  if (loops.count > 0) {
    // The second loop of the nest is the one that leads to neighbours at the source. Where that is
    // the inner one already, the next in the destination's order.
    auto view = loops.view();
    auto nearest = std::ranges::min_element(
        view, {}, [](Loop const& loop) { return magnitude(loop.src_stride); });
    if (magnitude(nest.inner.src_stride) <= magnitude(nearest->src_stride)) {
      nearest = view.end() - 1;
    }
    nest.outer = *nearest;
    loops.remove(static_cast<std::uint32_t>(nearest - view.begin()));
  }
  plan.num_loops = loops.count;
  plan.loops = loops.items;

  auto const run = static_cast<std::int64_t>(run_bytes);
  // Below 4 either way a tile is all edge, and the plain loops do better.
  if (is_element(run_bytes) && nest.outer.src_stride == run && nest.inner.dst_stride == run &&
      nest.outer.extent >= 4 && nest.inner.extent >= 4) {
    plan.transposes = true;
    plan.kernel = select_transpose_kernel(run_bytes, non_temporal);
    find_stretch(plan);
  } else {
    plan.kernel = select_run_kernel(run_bytes, non_temporal);
    order_runs(nest);
    if (run_bytes < kLineBytes && nest.outer.src_stride == run) find_stretch(plan);
  }
  return plan;
}

void copy_planned(BoxPlan const& plan, std::byte const* src, std::byte* dst) noexcept {
  if (plan.bytes == 0) return;
  std::array<std::uint64_t, KVBM_MAX_COPY_DIMS> index{};
  std::uint32_t advanced_level = 0;
  for (;;) {
    if (plan.stretch_bytes != 0 && advanced_level <= plan.stretch_level) {
      walk_stretch(src, plan.stretch_bytes);
    }
    plan.kernel(src, dst, plan.nest);
    std::uint32_t level = plan.num_loops;
    for (;;) {
      if (level == 0) return;
      Loop const& loop = plan.loops[--level];
      if (++index[level] < loop.extent) {
        src += loop.src_stride;
        dst += loop.dst_stride;
        advanced_level = level + 1;
        break;
      }
      index[level] = 0;
      src = advanced(src, loop.extent - 1, -loop.src_stride);
      dst = advanced(dst, loop.extent - 1, -loop.dst_stride);
    }
  }
}

void fence_non_temporal() noexcept {
#if KVBM_KERNELS_X86
  _mm_sfence();
#endif
}

BoxSplit::BoxSplit(BoxPlan const& plan, std::uint64_t wanted_pieces) noexcept : plan_(plan) {
  auto add = [this](Part part, std::uint32_t loop, std::uint64_t extent, std::uint64_t quantum) {
    slots_[num_slots_++] = {part, loop, extent, quantum};
  };
  Nest const& nest = plan.nest;
  for (std::uint32_t i = 0; i < plan.num_loops; ++i)
    add(Part::OuterLoop, i, plan.loops[i].extent, 1);
  if (plan.transposes) {
    // Whole tiles only, along the longer side.
    constexpr std::uint64_t kTileElements = 64;
    if (nest.outer.extent >= nest.inner.extent) {
      add(Part::NestOuter, 0, nest.outer.extent, kTileElements);
    } else {
      add(Part::NestInner, 0, nest.inner.extent, kTileElements);
    }
  } else {
    // Neighbouring pieces share few lines and pages when they are cut at about a KiB or a page.
    constexpr std::uint64_t kLoopQuantumBytes = 1024;
    constexpr std::uint64_t kRunQuantumBytes = 4096;
    std::uint64_t const quantum = std::max<std::uint64_t>(1, kLoopQuantumBytes / nest.run_bytes);
    add(Part::NestOuter, 0, nest.outer.extent, std::min(quantum, nest.outer.extent));
    add(Part::NestInner, 0, nest.inner.extent, std::min(quantum, nest.inner.extent));
    add(Part::Run, 0, nest.run_bytes, kRunQuantumBytes);
  }

  std::uint32_t used = 0;
  for (std::uint64_t before = 1; used < num_slots_; ++used) {
    Slot& slot = slots_[used];
    num_units_ = before * slot.units();
    if (num_units_ >= wanted_pieces) {
      ++used;
      break;
    }
    if (used + 1 < num_slots_) {
      slot.quantum = 1;
      before *= slot.extent;
    }
  }
  num_slots_ = used;
  num_pieces_ = std::clamp<std::uint64_t>(wanted_pieces, 1, num_units_);
}

void BoxSplit::restrict(BoxPlan& plan, Slot const& slot, std::uint64_t begin, std::uint64_t count,
                        std::byte const*& src, std::byte*& dst) const noexcept {
  Loop* loop = nullptr;
  switch (slot.part) {
    case Part::Run:
      plan.nest.run_bytes = count;
      src += begin;
      dst += begin;
      return;
    case Part::OuterLoop: loop = &plan.loops[slot.loop]; break;
    case Part::NestOuter: loop = &plan.nest.outer; break;
    case Part::NestInner: loop = &plan.nest.inner; break;
  }
  loop->extent = count;
  src = advanced(src, begin, loop->src_stride);
  dst = advanced(dst, begin, loop->dst_stride);
}

void BoxSplit::copy_piece(std::uint64_t piece, std::byte const* src,
                          std::byte* dst) const noexcept {
  // units * piece may pass 64 bits, hence quotient and remainder apart.
  std::uint64_t const quotient = num_units_ / num_pieces_;
  std::uint64_t const remainder = num_units_ % num_pieces_;
  auto const boundary = [&](std::uint64_t p) { return quotient * p + std::min(remainder, p); };
  std::uint64_t unit = boundary(piece);
  std::uint64_t const end = boundary(piece + 1);
  Slot const& last = slots_[num_slots_ - 1];
  std::uint64_t const last_units = last.units();
  while (unit < end) {
    std::uint64_t row = unit / last_units;
    std::uint64_t const column = unit % last_units;
    std::uint64_t const take = std::min(end - unit, last_units - column);
    BoxPlan part = plan_;
    std::byte const* from = src;
    std::byte* to = dst;
    for (std::uint32_t i = num_slots_ - 1; i-- > 0;) {
      restrict(part, slots_[i], row % slots_[i].extent, 1, from, to);
      row /= slots_[i].extent;
    }
    std::uint64_t const begin = column * last.quantum;
    std::uint64_t const count = std::min(take * last.quantum, last.extent - begin);
    restrict(part, last, begin, count, from, to);
    if (part.stretch_bytes != 0) find_stretch(part);
    copy_planned(part, from, to);
    unit += take;
  }
}

}  // namespace kvbm::kernels
