// SPDX-License-Identifier: Apache-2.0
//
// The smallest program that uses an installed kvbm: an engine's cache on a device, layer by layer,
// is offloaded into host memory in another format, and proved to be the same tensors there.

#include <kvbm/kvbm.hpp>

#include <cstdio>
#include <vector>

int main() try {
  auto manager = kvbm::TransferManager::builder().host_device().build();

  auto const config = kvbm::LayoutConfig::builder()
                          .num_blocks(8)
                          .num_layers(4)
                          .page_size(16)
                          .inner_dim(3 * 64)
                          .num_heads(3)
                          .build();
  auto const engine = manager.register_layout(manager.layout_builder()
                                                  .config(config)
                                                  .layer_separate(kvbm::BlockDimension::Second)
                                                  .allocate_device(0)
                                                  .build());
  auto const store = manager.register_layout(manager.layout_builder()
                                                 .config(config)
                                                 .fully_contiguous(kvbm::KvBlockLayout::UniversalTP)
                                                 .allocate_pinned()
                                                 .build());

  std::vector<kvbm::BlockId> const from = {0, 2, 5};
  std::vector<kvbm::BlockId> const to = {7, 1, 4};
  manager.fill_blocks(engine, from, kvbm::FillPattern{});
  manager.execute_transfer(engine, from, store, to).wait();

  bool const equal = manager.block_checksums(engine, from) == manager.block_checksums(store, to);
  std::printf("downstream: kvbm %s moved %zu blocks from NHD to UniversalTP, checksums %s\n",
              kvbm::version(), from.size(), equal ? "equal" : "DIFFER");
  return equal ? 0 : 1;
} catch (kvbm::Error const& error) {
  std::printf("downstream: %s\n", error.what());
  return 1;
}
