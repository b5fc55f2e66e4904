// SPDX-License-Identifier: Apache-2.0
#include "transfer/wire_copy.hpp"

#include <array>

namespace kvbm::transfer {
namespace {

/// Appends a run, or lengthens the last one where both sides go on without a gap.
void append(std::vector<WireRun>& runs, std::size_t first, WireRun const& run) {
  if (runs.size() > first) {
    WireRun& last = runs.back();
    if (last.local + last.bytes == run.local && last.remote + last.bytes == run.remote) {
      last.bytes += run.bytes;
      return;
    }
  }
  runs.push_back(run);
}

/// Calls body(source offset, destination offset) for every run of a block: an odometer over the
/// loops, innermost fastest.
template <typename Body>
void for_each_run(kvbm_copy_template const& shape, Body const& body) {
  std::uintptr_t src = 0;
  std::uintptr_t dst = 0;
  std::array<std::uint64_t, KVBM_MAX_COPY_DIMS> index{};
  for (bool more = true; more;) {
    body(src, dst);
    more = false;
    for (std::uint32_t d = shape.num_dims; d-- > 0;) {
      auto const& dim = shape.dims[d];
      src += static_cast<std::uintptr_t>(dim.src_stride);
      dst += static_cast<std::uintptr_t>(dim.dst_stride);
      if (++index[d] < dim.extent) {
        more = true;
        break;
      }
      src -= dim.extent * static_cast<std::uintptr_t>(dim.src_stride);
      dst -= dim.extent * static_cast<std::uintptr_t>(dim.dst_stride);
      index[d] = 0;
    }
  }
}

}  // namespace

WireCopy::WireCopy(CopyPlan const& plan, layout::PhysicalLayout const& src,
                   layout::PhysicalLayout const& dst, WireDirection direction)
    : plan_(plan, src, dst),
      direction_(direction),
      runs_per_block_(plan.runs_per_block()),
      blocks_adjoin_(plan.src.block_stride == plan.shape.run_bytes &&
                     plan.dst.block_stride == plan.shape.run_bytes) {}

void WireCopy::append_runs(std::span<BlockId const> src_blocks, std::span<BlockId const> dst_blocks,
                           std::vector<WireRun>& runs) const {
  auto const& shape = plan_.shape;
  for (std::size_t segment = 0; segment < plan_.src_segments.size(); ++segment) {
    // Regions may touch by chance: each is an allocation and a registration of its own, and no run
    // goes beyond it.
    std::size_t const first = runs.size();
    auto const add = [&](std::size_t block, std::uintptr_t src_offset, std::uintptr_t dst_offset) {
      std::uintptr_t const src =
          plan_.src_segments[segment] + src_blocks[block] * plan_.src_block_stride + src_offset;
      std::uintptr_t const dst =
          plan_.dst_segments[segment] + dst_blocks[block] * plan_.dst_block_stride + dst_offset;
      append(runs, first,
             direction_ == WireDirection::Read ? WireRun{dst, src, shape.run_bytes}
                                               : WireRun{src, dst, shape.run_bytes});
    };
    if (blocks_adjoin_) {
      // The next block goes on where a run ends, even where a block has several (K and V apart).
      for_each_run(shape, [&](std::uintptr_t src, std::uintptr_t dst) {
        for (std::size_t i = 0; i < src_blocks.size(); ++i) {
          add(i, src, dst);
        }
      });
    } else {
      for (std::size_t i = 0; i < src_blocks.size(); ++i) {
        for_each_run(shape, [&](std::uintptr_t src, std::uintptr_t dst) { add(i, src, dst); });
      }
    }
  }
}

std::uint64_t WireCopy::count_runs(std::span<BlockId const> src_blocks,
                                   std::span<BlockId const> dst_blocks) const {
  return runs_per_block_ *
         (blocks_adjoin_ ? count_groups(src_blocks, dst_blocks) : src_blocks.size());
}

std::uint64_t count_groups(std::span<BlockId const> src_blocks,
                           std::span<BlockId const> dst_blocks) noexcept {
  std::uint64_t groups = src_blocks.empty() ? 0 : 1;
  for (std::size_t i = 1; i < src_blocks.size(); ++i) {
    if (src_blocks[i] != src_blocks[i - 1] + 1 || dst_blocks[i] != dst_blocks[i - 1] + 1) {
      ++groups;
    }
  }
  return groups;
}

}  // namespace kvbm::transfer
