// SPDX-License-Identifier: Apache-2.0
//
// What a disk tier remembers.
#include <fstream>
#include <thread>

#include "unit/prefix/prefix_fixture.hpp"

namespace kvbm::testing {
namespace {

class PrefixPersistence : public PrefixTest {
 protected:
  void open_both(std::uint64_t memory_blocks = 4) {
    open({memory_tier(memory_blocks), disk_tier(16)});
  }
  /// Flips a bit of a file at an offset.
  static void damage(std::filesystem::path const& path, std::uint64_t offset) {
    std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
    file.seekg(static_cast<std::streamoff>(offset));
    char const byte = static_cast<char>(file.get() ^ 4);
    file.seekp(static_cast<std::streamoff>(offset));
    file.put(byte);
  }
};

TEST_F(PrefixPersistence, ALaterStoreFindsTheKeys) {
  open_both();
  auto const keys = test_keys(0, 10);
  offload(keys);
  store_->flush();
  reopen_manager();
  open_both();
  EXPECT_EQ(tier(1).recovered, 10U);
  EXPECT_EQ(tier(1).damaged_index, 0U);
  EXPECT_EQ(store_->lookup(keys).tiers, std::vector<Tier>(10, Tier::G3));
  EXPECT_EQ(onboard(keys).num_blocks, 10U);
}

TEST_F(PrefixPersistence, ItFindsThemWithoutAFlushOnceTheyWereWritten) {
  open_both();
  auto const keys = test_keys(0, 6);
  offload(keys);
  while (tier(1).blocks < 6) {
    std::this_thread::yield();
  }
  reopen_manager();
  open_both();
  EXPECT_EQ(onboard(keys).num_blocks, 6U);
}

TEST_F(PrefixPersistence, WithoutAnIndexItFindsNothing) {
  open({memory_tier(4), disk_tier(16, false)});
  offload(test_keys(0, 6));
  EXPECT_EQ(store_->flush().written, 0U) << "no tier survives";
  reopen_manager();
  open({memory_tier(4), disk_tier(16, false)});
  EXPECT_EQ(store_->lookup(test_keys(0, 6)).num_blocks, 0U);
}

TEST_F(PrefixPersistence, ErasedAndEvictedKeysStayGone) {
  open_both();
  auto const keys = test_keys(0, 16);
  offload(keys);
  store_->flush();
  EXPECT_EQ(store_->erase({{keys[15]}}), 1U);
  offload(test_keys(100, 3));  // 18 on a tier of 16
  store_->flush();
  auto const found = store_->lookup(keys).num_blocks;
  reopen_manager();
  open_both();
  EXPECT_FALSE(store_->contains(keys[15]));
  std::size_t num_held = 0;
  for (auto const& key : keys) {
    num_held += store_->contains(key) ? 1U : 0U;
  }
  EXPECT_EQ(num_held, 13U) << found;
  EXPECT_EQ(onboard(test_keys(100, 3)).num_blocks, 3U);
}

TEST_F(PrefixPersistence, OldestFirstIsRemembered) {
  open_both();
  offload(test_keys(0, 8));
  store_->flush();
  offload(test_keys(100, 8));
  store_->flush();
  reopen_manager();
  open_both();
  offload(test_keys(200, 8));
  store_->flush();
  EXPECT_FALSE(store_->contains(test_key(7)));
  EXPECT_TRUE(store_->contains(test_key(100)));
}

TEST_F(PrefixPersistence, DamagedRecordsCostTheirOwnBlockAlone) {
  open_both();
  auto const keys = test_keys(0, 8);
  offload(keys);
  store_->flush();
  close();
  damage(index_path(), 128 + 3 * 64 + 5);
  open_manager();
  open_both();
  EXPECT_EQ(tier(1).recovered, 7U);
  EXPECT_EQ(tier(1).damaged_index, 1U);
  for (auto const& key : keys) {
    if (store_->contains(key)) { EXPECT_EQ(onboard({key}).num_blocks, 1U); }
  }
}

TEST_F(PrefixPersistence, ABlockThatWasOverwrittenBehindItsRecordIsNotFound) {
  open_both();
  auto const keys = test_keys(0, 8);
  offload(keys);
  store_->flush();
  close();
  open_manager();
  {
    // A process that writes the file and knows nothing of keys.
    auto const file = PhysicalLayout::open_disk(manager_->memory_source(), folder_ / "tier");
    write_all_blocks(*engine_, 4711);
    manager_
        ->execute_transfer(transfer::KvBlocks::of(*engine_, {0, 1, 2}),
                           transfer::KvBlocks::of(file, {1, 3, 4}))
        .wait();
  }
  open_both();
  EXPECT_EQ(tier(1).recovered, 5U);
  EXPECT_EQ(tier(1).damaged_index, 0U);
  for (auto const& key : keys) {
    if (store_->contains(key)) { EXPECT_EQ(onboard({key}).num_blocks, 1U); }
  }
}

TEST_F(PrefixPersistence, ADamagedHeaderStartsAnew) {
  open_both();
  offload(test_keys(0, 8));
  store_->flush();
  close();
  damage(index_path(), 40);
  open_manager();
  open_both();
  EXPECT_EQ(tier(1).recovered, 0U);
  EXPECT_EQ(tier(1).damaged_index, 1U);
  offload(test_keys(0, 8));
  EXPECT_EQ(store_->flush().failed, 0U);
}

TEST_F(PrefixPersistence, ASmallerBudgetKeepsWhatFits) {
  open_both();
  offload(test_keys(0, 12));
  store_->flush();
  reopen_manager();
  auto disk = disk_tier(16);
  disk.budget_bytes = small_config(1).block_bytes() * 5;
  open({memory_tier(4), disk});
  EXPECT_EQ(tier(1).blocks, 5U);
  for (auto const& key : test_keys(0, 12)) {
    if (store_->contains(key)) { EXPECT_EQ(onboard({key}).num_blocks, 1U); }
  }
}

TEST_F(PrefixPersistence, AnIndexServesOneStoreAndOneModel) {
  open_both();
  PrefixStoreOptions options;
  options.fingerprint = {1, 2};
  auto const other = manager_->register_layout(manager_->layout_builder()
                                                   .config(small_config(16))
                                                   .fully_contiguous(KvBlockLayout::UniversalTP)
                                                   .allocate_disk()
                                                   .build());
  options.tiers = {{other, {}, index_path()}};
  auto const make = [&] {
    return failure_of_call([&] {
             PrefixStore const made(manager_, options);
             return 0;
           })
        .code;
  };
  EXPECT_EQ(make(), ErrorCode::Busy);
  store_.reset();
  options.fingerprint = {1, 3};
  EXPECT_EQ(make(), ErrorCode::InvalidArgument);
}

}  // namespace
}  // namespace kvbm::testing
