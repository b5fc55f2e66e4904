// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <string>

#include "contract/transfer_fixture.hpp"
#include "kvbm/testing/temp_folder.hpp"

namespace kvbm::testing {

/// The shape of the tier that both processes know.
inline LayoutConfig tier_config(std::uint64_t num_blocks) {
  return LayoutConfig::builder()
      .num_blocks(num_blocks)
      .num_layers(4)
      .page_size(8)
      .inner_dim(96)
      .num_heads(4)
      .dtype_width_bytes(4)
      .build();
}

inline constexpr std::uint64_t kTierBlocks = 24;

/// A file of blocks; what is moved into and out of it lies in device memory in another format.
inline PhysicalLayout create_tier(TransferManager const& manager, std::filesystem::path const& path,
                                  LayoutShape const& shape) {
  auto const start = manager.layout_builder().config(tier_config(kTierBlocks));
  return shape.kind == layout::LayoutKind::FullyContiguous
             ? start.fully_contiguous(shape.format).allocate_disk(path).build()
             : start.layer_separate(shape.dimension, shape.format).allocate_disk(path).build();
}

inline PhysicalLayout make_cache(TransferManager const& manager) {
  return make_layout(manager.memory_source(), tier_config(kTierBlocks),
                     layer_wise(BlockDimension::Second, KvBlockLayout::OperationalNHD),
                     StorageKind::Device);
}

inline TransferCompleteNotification move_blocks(TransferManager& manager, PhysicalLayout const& src,
                                                std::vector<BlockId> const& src_ids,
                                                PhysicalLayout const& dst,
                                                std::vector<BlockId> const& dst_ids,
                                                TransferOptions const& options = {}) {
  return manager.execute_transfer(transfer::KvBlocks::of(src, src_ids),
                                  transfer::KvBlocks::of(dst, dst_ids), options);
}

}  // namespace kvbm::testing
