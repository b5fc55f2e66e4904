// SPDX-License-Identifier: Apache-2.0
//
// The smallest program that uses an installed kvbm: four blocks change storage and format.

#include <kvbm/kvbm.hpp>

#include <cstdio>
#include <vector>

int main() {
  using namespace kvbm;
  auto manager = TransferManager::builder().build();
  auto const config = LayoutConfig::builder()
                          .num_blocks(4)
                          .num_layers(2)
                          .page_size(16)
                          .inner_dim(128)
                          .num_heads(2)
                          .build();
  auto const device = manager.register_layout(manager.layout_builder()
                                                  .config(config)
                                                  .layer_separate(BlockDimension::First)
                                                  .allocate_device(0)
                                                  .build());
  auto const pinned = manager.register_layout(manager.layout_builder()
                                                  .config(config)
                                                  .fully_contiguous(KvBlockLayout::UniversalTP)
                                                  .allocate_pinned()
                                                  .build());
  std::vector<BlockId> const ids{0, 1, 2, 3};
  manager.fill_blocks(device, ids, {FillPattern::Kind::Hashed, 1});
  manager.execute_transfer(device, ids, pinned, ids).wait();
  bool const equal = manager.block_checksums(device, ids) == manager.block_checksums(pinned, ids);
  std::printf("downstream: linked kvbm %s, moved %zu blocks: %s\n", version(), ids.size(),
              equal ? "equal" : "DIFFERENT");
  return equal ? 0 : 1;
}
