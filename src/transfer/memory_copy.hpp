// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "kvbm/core/types.hpp"
#include "kvbm/kernels/copy_engine.hpp"
#include "kvbm/transfer/copy_plan.hpp"
#include "kvbm/transfer/options.hpp"
#include "transfer/bound_plan.hpp"

namespace kvbm::transfer {

/// A plan bound to the addresses of two layouts in memory, ready to be run on block lists.
/// Lifetime holds addresses only: the layouts must be kept alive beside it.
class MemoryCopy {
 public:
  /// @throws Error(Unsupported) memory that the CPU cannot reach
  MemoryCopy(CopyPlan const& plan, layout::PhysicalLayout const& src,
             layout::PhysicalLayout const& dst);

  /// Copies src_blocks[i] to dst_blocks[i] in the calling thread with the help of the engine's.
  void run(kernels::CopyEngine& engine, std::span<BlockId const> src_blocks,
           std::span<BlockId const> dst_blocks, int priority, Spare spare) const;

  [[nodiscard]] std::uint64_t bytes_per_block() const noexcept { return bytes_per_block_; }

 private:
  BoundPlan plan_;
  std::uint64_t bytes_per_block_;
};

}  // namespace kvbm::transfer
