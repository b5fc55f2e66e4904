// SPDX-License-Identifier: Apache-2.0
//
// The first transfer: the KV cache of an engine, one tensor a layer, is moved into pinned memory,
// where every block is contiguous and ordered by heads. Needs no GPU: an emulated device stands in.

#include <kvbm/kvbm.hpp>

#include <cstdio>
#include <vector>

int main() {
  using namespace kvbm;
  auto manager = TransferManager::builder().build();

  // 64 blocks of 16 tokens of a model with 4 layers and 8 KV heads of 64 elements in bfloat16.
  auto const config = LayoutConfig::builder()
                          .num_blocks(64)
                          .num_layers(4)
                          .page_size(16)
                          .inner_dim(8 * 64)
                          .num_heads(8)
                          .dtype_width_bytes(2)
                          .build();

  auto const device = manager.register_layout(
      manager.layout_builder()
          .config(config)
          .layer_separate(BlockDimension::Second, KvBlockLayout::OperationalNHD)
          .allocate_device(0)
          .build());
  auto const pinned = manager.register_layout(manager.layout_builder()
                                                  .config(config)
                                                  .fully_contiguous(KvBlockLayout::UniversalTP)
                                                  .allocate_pinned()
                                                  .build());

  std::vector<BlockId> const from{3, 1, 4, 15, 9, 26};
  std::vector<BlockId> const to{0, 1, 2, 3, 4, 5};
  manager.fill_blocks(device, from, {FillPattern::Kind::Hashed, 1});

  std::printf("%s\n", manager.explain_transfer(device, from, pinned, to).to_string().c_str());
  manager.execute_transfer(device, from, pinned, to).wait();

  // Checksums are those of the logical tensor: equal whatever the format and the storage.
  bool const equal = manager.block_checksums(device, from) == manager.block_checksums(pinned, to);
  std::printf("%zu blocks: %s\n", from.size(), equal ? "equal" : "DIFFERENT");
  return equal ? 0 : 1;
}
