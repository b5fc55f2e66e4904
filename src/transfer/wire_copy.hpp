// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "kvbm/core/types.hpp"
#include "kvbm/transfer/copy_plan.hpp"
#include "kvbm/transfer/peer.hpp"
#include "transfer/bound_plan.hpp"

namespace kvbm::transfer {

/// A plan between our memory and a peer's, ready to be told as runs for block lists.
/// Lifetime holds addresses only: the layouts must be kept alive beside it.
class WireCopy {
 public:
  /// @param direction  Read: the source is the peer's
  WireCopy(CopyPlan const& plan, layout::PhysicalLayout const& src,
           layout::PhysicalLayout const& dst, WireDirection direction);

  [[nodiscard]] WireDirection direction() const noexcept { return direction_; }

  /// Appends the runs of src_blocks[i] -> dst_blocks[i]. Those of neighbouring blocks are merged
  /// where they adjoin on both sides; no run goes beyond one region of either.
  void append_runs(std::span<BlockId const> src_blocks, std::span<BlockId const> dst_blocks,
                   std::vector<WireRun>& runs) const;
  /// How many runs that are at most, told by the neighbours among the blocks alone.
  [[nodiscard]] std::uint64_t count_runs(std::span<BlockId const> src_blocks,
                                         std::span<BlockId const> dst_blocks) const;

 private:
  BoundPlan plan_;
  WireDirection direction_;
  std::uint64_t runs_per_block_;
  bool blocks_adjoin_;  ///< on both sides a run of a block is followed by the next block's
};

/// Blocks i > 0 that do not follow their predecessor in both lists, and the first one.
[[nodiscard]] std::uint64_t count_groups(std::span<BlockId const> src_blocks,
                                         std::span<BlockId const> dst_blocks) noexcept;

}  // namespace kvbm::transfer
