// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <gtest/gtest.h>

#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "contract/transfer_fixture.hpp"
#include "kvbm/prefix/prefix_store.hpp"
#include "kvbm/testing/gated_disk.hpp"
#include "kvbm/testing/temp_folder.hpp"

namespace kvbm::testing {

using prefix::BlockKey;
using prefix::PrefixStore;
using prefix::PrefixStoreOptions;
using prefix::TierOptions;
using prefix::TokenId;
using prefix::WritePolicy;
using Tier = remote::LogicalLayoutHandle;

/// Element values of a key's block: a function of the key alone.
inline std::uint64_t seed_of(BlockKey const& key) { return key.value.low ^ key.value.high; }

/// Key number `i` of a test; in no chain with the others.
inline BlockKey test_key(std::uint64_t i) { return {checksum_bytes(&i, sizeof i)}; }
inline std::vector<BlockKey> test_keys(std::uint64_t first, std::uint64_t count) {
  std::vector<BlockKey> keys;
  for (std::uint64_t i = first; i < first + count; ++i) {
    keys.push_back(test_key(i));
  }
  return keys;
}

/// A manager, the engine's blocks in device memory, and the tiers of a store.
class PrefixTest : public ::testing::Test {
 protected:
  static constexpr std::uint64_t kEngineBlocks = 16;

  PrefixTest() { open_manager(); }

  void open_manager() {
    manager_ = std::make_shared<TransferManager>(small_manager().disk_io(disk_.io()).build());
    engine_ = std::make_shared<PhysicalLayout>(make_layout(
        manager_->memory_source(), small_config(kEngineBlocks),
        layer_wise(BlockDimension::Second, KvBlockLayout::OperationalNHD), StorageKind::Device));
    engine_handle_ = manager_->register_layout(*engine_);
  }

  TierOptions memory_tier(std::uint64_t num_blocks, StorageKind kind = StorageKind::Pinned) {
    return {
        manager_->register_layout(make_layout(manager_->memory_source(), small_config(num_blocks),
                                              contiguous(KvBlockLayout::UniversalTP), kind))};
  }
  /// A file that is made, or opened again.
  TierOptions disk_tier(std::uint64_t num_blocks, bool with_index = true) {
    auto const path = folder_ / "tier";
    auto const layout = std::filesystem::exists(path)
                            ? PhysicalLayout::open_disk(manager_->memory_source(), path)
                            : manager_->layout_builder()
                                  .config(small_config(num_blocks))
                                  .fully_contiguous(KvBlockLayout::UniversalTP)
                                  .allocate_disk(path)
                                  .build();
    TierOptions tier{manager_->register_layout(layout)};
    if (with_index) { tier.index = index_path(); }
    return tier;
  }
  [[nodiscard]] std::filesystem::path index_path() const { return folder_ / "tier.index"; }

  PrefixStore& open(std::vector<TierOptions> tiers, WritePolicy policy = WritePolicy::Through,
                    bool promote = true) {
    PrefixStoreOptions options;
    options.fingerprint = {1, 2};
    options.tiers = std::move(tiers);
    options.write_policy = policy;
    options.promote = promote;
    options.batch_blocks = 4;
    store_.emplace(manager_, options);
    return *store_;
  }
  /// As a process that ends: store and manager go, what is in files stays.
  void close() {
    store_.reset();
    engine_.reset();
    manager_.reset();
  }
  void reopen_manager() {
    close();
    open_manager();
  }

  /// Writes what belongs to the keys into the engine's first blocks, and offloads them.
  prefix::OffloadResult offload(std::vector<BlockKey> const& keys) {
    for (BlockId i = 0; i < keys.size(); ++i) {
      write_key(i, keys[i]);
    }
    return store_->offload(keys, engine_handle_, first_blocks(keys.size())).wait();
  }
  /// Onboards into wiped blocks; what arrived must be right. @return the result
  prefix::OnboardResult onboard(std::vector<BlockKey> const& keys) {
    auto const ids = first_blocks(keys.size());
    wipe();
    auto const result = store_->onboard(keys, engine_handle_, ids).wait();
    for (BlockId i = 0; i < result.num_blocks; ++i) {
      EXPECT_TRUE(holds(i, keys[i])) << "block " << i;
    }
    return result;
  }
  void write_key(BlockId block, BlockKey const& key) const {
    BlockId const logical = 0;
    write_blocks(*engine_, {&block, 1}, seed_of(key), {&logical, 1});
  }
  [[nodiscard]] bool holds(BlockId block, BlockKey const& key) const {
    return count_differences(*engine_, block, seed_of(key), 0) == 0;
  }
  void wipe() const { write_all_blocks(*engine_, 0xDEAD); }
  prefix::TierStats tier(std::size_t i) const { return store_->stats().tiers.at(i); }

  GatedDisk disk_;
  TempFolder folder_;
  std::shared_ptr<TransferManager> manager_;
  std::shared_ptr<PhysicalLayout> engine_;
  LayoutHandle engine_handle_;
  std::optional<PrefixStore> store_;
};

}  // namespace kvbm::testing
