// SPDX-License-Identifier: Apache-2.0
//
// G1 -> G2 -> G3 and back: blocks leave the device for pinned memory and a file, a second manager
// opens the file later and brings them back into another engine's cache.

#include <kvbm/kvbm.hpp>

#include <cstdio>
#include <filesystem>
#include <numeric>
#include <string>
#include <system_error>
#include <vector>

#include <unistd.h>

namespace {

using namespace kvbm;

LayoutConfig shape() {
  return LayoutConfig::builder()
      .num_blocks(32)
      .num_layers(6)
      .page_size(16)
      .inner_dim(4 * 64)
      .num_heads(4)
      .alignment(memory::kFileAlignment)  // blocks of G2 go to and from the file without a copy
      .build();
}

layout::LayoutHandle add_device(TransferManager& manager) {
  return manager.register_layout(manager.layout_builder()
                                     .config(shape())
                                     .layer_separate(BlockDimension::Second)
                                     .allocate_device(0)
                                     .build());
}

layout::LayoutHandle add_pinned(TransferManager& manager) {
  return manager.register_layout(manager.layout_builder()
                                     .config(shape())
                                     .fully_contiguous(KvBlockLayout::UniversalTP)
                                     .allocate_pinned()
                                     .build());
}

std::vector<Checksum> offload(std::filesystem::path const& file, std::vector<BlockId> const& ids) {
  auto manager = TransferManager::builder().build();
  auto const g1 = add_device(manager);
  auto const g2 = add_pinned(manager);
  auto const g3 = manager.register_layout(manager.layout_builder()
                                              .config(shape())
                                              .fully_contiguous(KvBlockLayout::UniversalTP)
                                              .allocate_disk(file)
                                              .build());
  manager.fill_blocks(g1, ids, {FillPattern::Kind::Hashed, 42});
  manager.execute_transfer(g1, ids, g2, ids).wait();
  manager.execute_transfer(g2, ids, g3, ids).wait();
  manager.sync(g3);  // from here on the blocks survive the loss of power
  return manager.block_checksums(g1, ids);
}

std::vector<Checksum> onboard(std::filesystem::path const& file, std::vector<BlockId> const& ids) {
  auto manager = TransferManager::builder().build();
  // Shape, kind and format come from the manifest beside the file.
  auto const g3 = manager.register_layout(PhysicalLayout::open_disk(manager.memory_source(), file));
  auto const g2 = add_pinned(manager);
  auto const g1 = add_device(manager);
  manager.execute_transfer(g3, ids, g2, ids).wait();
  manager.execute_transfer(g2, ids, g1, ids).wait();
  return manager.block_checksums(g1, ids);
}

}  // namespace

int main() {
  auto const folder =
      std::filesystem::temp_directory_path() / ("kvbm-example-tiers-" + std::to_string(::getpid()));
  std::filesystem::create_directory(folder);
  std::vector<BlockId> ids(32);
  std::iota(ids.begin(), ids.end(), BlockId{0});
  bool equal = false;
  try {
    auto const before = offload(folder / "blocks", ids);
    equal = onboard(folder / "blocks", ids) == before;
    std::printf("%zu blocks through G1 -> G2 -> G3 -> G2 -> G1: %s\n", ids.size(),
                equal ? "equal" : "DIFFERENT");
  } catch (kvbm::Error const& error) { std::fprintf(stderr, "%s\n", error.what()); }
  std::error_code ignored;
  std::filesystem::remove_all(folder, ignored);
  return equal ? 0 : 1;
}
