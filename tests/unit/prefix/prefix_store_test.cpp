// SPDX-License-Identifier: Apache-2.0
#include <thread>

#include "unit/prefix/prefix_fixture.hpp"

namespace kvbm::testing {
namespace {

using PrefixStoreTiers = PrefixTest;

TEST_F(PrefixStoreTiers, FindsWhatWasOffloadedInTheFastestTier) {
  open({memory_tier(8), disk_tier(16)});
  auto const keys = test_keys(0, 6);
  auto const offloaded = offload(keys);
  EXPECT_EQ(offloaded.written, 6U);
  auto const match = store_->lookup(keys);
  EXPECT_EQ(match.num_blocks, 6U);
  EXPECT_EQ(match.tiers, std::vector<Tier>(6, Tier::G2));
  auto const result = onboard(keys);
  EXPECT_EQ(result.num_blocks, 6U);
  EXPECT_EQ(result.tiers, std::vector<Tier>(6, Tier::G2));
  EXPECT_EQ(tier(0).hits, 6U);
}

TEST_F(PrefixStoreTiers, ReportsTheLongestPrefixThatIsThere) {
  open({memory_tier(8)});
  auto keys = test_keys(0, 5);
  offload({keys[0], keys[1], keys[3], keys[4]});
  EXPECT_EQ(store_->lookup(keys).num_blocks, 2U);
  auto const result = onboard(keys);
  EXPECT_EQ(result.num_blocks, 2U);
  auto const stats = store_->stats();
  EXPECT_EQ(stats.onboarded, 2U);
  EXPECT_EQ(stats.missed, 3U);
  EXPECT_TRUE(store_->contains(keys[3]));
  EXPECT_FALSE(store_->contains(keys[2]));
}

TEST_F(PrefixStoreTiers, EveryKindOfMemoryCanBeTheFirstTier) {
  open({memory_tier(4, StorageKind::Device), memory_tier(8, StorageKind::System), disk_tier(16)});
  auto const keys = test_keys(0, 8);
  offload({keys.begin(), keys.begin() + 4});
  offload({keys.begin() + 4, keys.end()});
  store_->flush();
  EXPECT_EQ(store_->lookup(keys).tiers,
            (std::vector<Tier>{Tier::G2, Tier::G2, Tier::G2, Tier::G2, Tier::G1, Tier::G1, Tier::G1,
                               Tier::G1}));
  EXPECT_EQ(onboard(keys).num_blocks, 8U);
}

TEST_F(PrefixStoreTiers, WriteThroughFillsTheTiersBelow) {
  open({memory_tier(4), disk_tier(16)});
  auto const keys = test_keys(0, 12);
  EXPECT_EQ(offload(keys).written, 12U) << "more than the first tier holds";
  auto const flushed = store_->flush();
  EXPECT_EQ(flushed.failed, 0U);
  EXPECT_EQ(tier(1).blocks, 12U);
  EXPECT_EQ(tier(0).blocks, 4U);
  EXPECT_EQ(tier(0).evicted, 8U);
  EXPECT_EQ(tier(0).lost, 0U);
  EXPECT_EQ(store_->lookup(keys).num_blocks, 12U);
  EXPECT_EQ(onboard(keys).num_blocks, 12U);
}

TEST_F(PrefixStoreTiers, WriteBackMovesDownWhatIsEvicted) {
  open({memory_tier(4), disk_tier(16)}, WritePolicy::Back);
  auto const keys = test_keys(0, 12);
  EXPECT_EQ(offload(keys).written, 12U);
  EXPECT_EQ(tier(0).blocks, 4U);
  EXPECT_EQ(tier(1).written, 8U) << "only what had to go";
  EXPECT_EQ(onboard(keys).num_blocks, 12U);
  auto const flushed = store_->flush();
  EXPECT_EQ(flushed.failed, 0U);
  EXPECT_EQ(tier(1).blocks, 12U);
}

TEST_F(PrefixStoreTiers, TheLastTierForgetsWhatWasUsedLongestAgo) {
  open({memory_tier(4)});
  auto const keys = test_keys(0, 6);
  offload({keys[0], keys[1], keys[2], keys[3]});
  onboard({keys[0], keys[1]});  // the others are older now
  offload({keys[4]});
  EXPECT_FALSE(store_->contains(keys[3])) << "the end of a prefix goes before its beginning";
  EXPECT_TRUE(store_->contains(keys[2]));
  offload({keys[5]});
  EXPECT_FALSE(store_->contains(keys[2]));
  EXPECT_TRUE(store_->contains(keys[0]) && store_->contains(keys[1]));
}

TEST_F(PrefixStoreTiers, WhatIsOfferedAgainIsRecentInEveryTier) {
  open({memory_tier(2), disk_tier(4)});
  auto const keys = test_keys(0, 7);
  for (std::size_t const i : {0U, 1U, 2U, 3U, 0U, 4U, 5U, 6U}) {
    EXPECT_EQ(offload({keys[i]}).written, 1U) << "key 0 had gone from memory";
    store_->flush();
  }
  EXPECT_TRUE(store_->contains(keys[0]));
  EXPECT_FALSE(store_->contains(keys[1]) || store_->contains(keys[2]) || store_->contains(keys[3]));
}

TEST_F(PrefixStoreTiers, BringingMoreThanFitsEnds) {
  open({memory_tier(4), disk_tier(16)});
  auto const keys = test_keys(0, 12);
  offload(keys);
  store_->flush();
  EXPECT_EQ(store_->prefetch(keys).wait().num_blocks, 4U);
  EXPECT_EQ(store_->lookup({keys.data(), 4}).tiers, std::vector<Tier>(4, Tier::G2));
}

TEST_F(PrefixStoreTiers, StoresAKeyOnce) {
  open({memory_tier(8)});
  auto const keys = test_keys(0, 3);
  EXPECT_EQ(offload(keys).written, 3U);
  auto const again = offload(keys);
  EXPECT_EQ(again.written, 0U);
  EXPECT_EQ(again.already_stored, 3U);
  auto const twice = offload({test_key(9), test_key(9), keys[0]});
  EXPECT_EQ(twice.written, 1U);
  EXPECT_EQ(twice.already_stored, 2U);
  EXPECT_EQ(tier(0).written, 4U);
}

TEST_F(PrefixStoreTiers, ABudgetBelowTheLayoutCounts) {
  auto small = memory_tier(8);
  small.budget_bytes = small_config(1).block_bytes() * 3 + 5;
  open({small});
  EXPECT_EQ(tier(0).capacity_blocks, 3U);
  offload(test_keys(0, 8));
  EXPECT_EQ(tier(0).blocks, 3U);
}

TEST_F(PrefixStoreTiers, PinnedKeysStay) {
  open({memory_tier(4)});
  auto const keys = test_keys(0, 4);
  offload(keys);
  prefix::Pin pin = store_->pin({{keys[0], keys[1], test_key(77)}});
  EXPECT_EQ(pin.keys(), (std::vector<BlockKey>{keys[0], keys[1]}));
  EXPECT_EQ(tier(0).pinned_blocks, 2U);
  offload(test_keys(10, 8));
  EXPECT_TRUE(store_->contains(keys[0]) && store_->contains(keys[1]));
  EXPECT_EQ(store_->erase(keys), 0U) << "two pinned, two gone";
  pin.release();
  offload(test_keys(20, 8));
  EXPECT_FALSE(store_->contains(keys[0]) || store_->contains(keys[1]));
}

TEST_F(PrefixStoreTiers, RefusesWhatFindsNoRoomBesidePinnedKeys) {
  open({memory_tier(2)});
  auto const keys = test_keys(0, 2);
  offload(keys);
  auto const pin = store_->pin(keys);
  auto const result = offload(test_keys(5, 3));
  EXPECT_EQ(result.failed, 3U);
  EXPECT_EQ(tier(0).refused, 3U);
}

TEST_F(PrefixStoreTiers, APinMayOutliveTheStore) {
  open({memory_tier(2)});
  offload(test_keys(0, 1));
  auto const pin = store_->pin(test_keys(0, 1));
  store_.reset();
  EXPECT_EQ(pin.keys().size(), 1U);
}

TEST_F(PrefixStoreTiers, ErasedKeysAreGoneEverywhere) {
  open({memory_tier(4), disk_tier(8)});
  auto const keys = test_keys(0, 4);
  offload(keys);
  store_->flush();
  EXPECT_EQ(store_->erase({{keys[1], keys[2], test_key(50)}}), 2U);
  EXPECT_EQ(store_->lookup(keys).num_blocks, 1U);
  EXPECT_EQ(tier(0).blocks, 2U);
  EXPECT_EQ(tier(1).blocks, 2U);
  EXPECT_EQ(offload({keys[1]}).written, 1U);
  EXPECT_EQ(onboard({keys[0], keys[1]}).num_blocks, 2U);
}

TEST_F(PrefixStoreTiers, BlocksOfFilesStayInMemoryAfterwards) {
  open({memory_tier(4), disk_tier(16)});
  auto const keys = test_keys(0, 12);
  offload(keys);
  store_->flush();
  std::vector<BlockKey> const old{keys[0], keys[1], keys[2]};
  ASSERT_EQ(store_->lookup(old).tiers, std::vector<Tier>(3, Tier::G3));
  EXPECT_EQ(onboard(old).tiers, std::vector<Tier>(3, Tier::G3));
  EXPECT_EQ(tier(0).promoted, 3U);
  EXPECT_EQ(onboard(old).tiers, std::vector<Tier>(3, Tier::G2));
}

TEST_F(PrefixStoreTiers, WithoutPromotionTheyDoNot) {
  open({memory_tier(4), disk_tier(16)}, WritePolicy::Through, false);
  auto const keys = test_keys(0, 12);
  offload(keys);
  store_->flush();
  std::vector<BlockKey> const old{keys[0], keys[1], keys[2]};
  EXPECT_EQ(onboard(old).tiers, std::vector<Tier>(3, Tier::G3));
  EXPECT_EQ(onboard(old).tiers, std::vector<Tier>(3, Tier::G3));
}

TEST_F(PrefixStoreTiers, PrefetchBringsBlocksIntoMemory) {
  open({memory_tier(4), disk_tier(16)});
  auto const keys = test_keys(0, 12);
  offload(keys);
  store_->flush();
  std::vector<BlockKey> const old{keys[0], keys[1], keys[2], test_key(99)};
  EXPECT_EQ(store_->prefetch(old).wait().num_blocks, 3U);
  EXPECT_EQ(onboard({keys[0], keys[1], keys[2]}).tiers, std::vector<Tier>(3, Tier::G2));
}

TEST_F(PrefixStoreTiers, MoreBlocksThanMemoryAreReadToo) {
  open({memory_tier(4), disk_tier(16)});
  auto const keys = test_keys(0, 16);
  offload(keys);
  store_->flush();
  EXPECT_EQ(onboard(keys).num_blocks, 16U);
}

TEST_F(PrefixStoreTiers, TheSameKeyMayBeAskedForTwice) {
  open({memory_tier(2), disk_tier(16)});
  auto const keys = test_keys(0, 4);
  offload(keys);
  store_->flush();
  EXPECT_EQ(onboard({keys[0], keys[0], keys[1], keys[0]}).num_blocks, 4U);
}

TEST_F(PrefixStoreTiers, SlowBlocksReachTheFirstTierInTheBackground) {
  open({memory_tier(4, StorageKind::Device), memory_tier(8), disk_tier(16)});
  auto const keys = test_keys(0, 12);
  offload(keys);
  store_->flush();
  std::vector<BlockKey> const old{keys[0], keys[1]};
  onboard(old);
  while (store_->lookup(old).tiers != std::vector<Tier>(2, Tier::G1)) {
    std::this_thread::yield();
  }
  EXPECT_EQ(onboard(old).tiers, std::vector<Tier>(2, Tier::G1));
}

TEST_F(PrefixStoreTiers, ConcurrentRequestsShareOneRead) {
  open({memory_tier(4), disk_tier(16)});
  auto const keys = test_keys(0, 12);
  offload(keys);
  store_->flush();
  static_cast<void>(disk_.take_seen());
  disk_.hold([](auto const&) { return true; });
  std::vector<BlockKey> const old{keys[0], keys[1]};
  wipe();
  auto const first = store_->onboard(old, engine_handle_, {{0, 1}});
  disk_.wait_until_held();
  auto const second = store_->onboard(old, engine_handle_, {{2, 3}});
  while (store_->stats().shared_reads < 2) {
    std::this_thread::yield();
  }
  disk_.open();
  EXPECT_EQ(first.wait().num_blocks, 2U);
  EXPECT_EQ(second.wait().num_blocks, 2U);
  EXPECT_TRUE(holds(0, keys[0]) && holds(1, keys[1]) && holds(2, keys[0]) && holds(3, keys[1]));
  EXPECT_EQ(disk_.take_seen().size(), 2U) << "each block is read once";
  EXPECT_EQ(tier(1).bytes_read, 2 * small_config(1).block_bytes());
}

TEST_F(PrefixStoreTiers, KeysOfAPromptAreThoseOfItsModel) {
  open({memory_tier(4)});
  std::vector<TokenId> const prompt{1, 2, 3, 4, 5, 6, 7, 8, 9};
  EXPECT_EQ(store_->page_size(), 4U);
  EXPECT_EQ(store_->keys(prompt), prefix::chain_keys(prefix::root_key({1, 2}, 4), prompt, 4));
}

TEST_F(PrefixStoreTiers, RefusesWhatCannotWork) {
  PrefixStoreOptions options;
  auto const refused = [&](std::vector<TierOptions> tiers) {
    options.tiers = std::move(tiers);
    return failure_of_call([&] {
      PrefixStore const made(manager_, options);
      return 0;
    });
  };
  EXPECT_EQ(refused({}).code, ErrorCode::InvalidArgument);
  EXPECT_EQ(refused({memory_tier(4), memory_tier(4)}).code, ErrorCode::InvalidArgument);
  EXPECT_EQ(refused({disk_tier(4, false), memory_tier(4)}).code, ErrorCode::InvalidArgument);
  EXPECT_EQ(refused({{LayoutHandle(1, 2)}}).code, ErrorCode::NotFound);
  auto tiny = memory_tier(4);
  tiny.budget_bytes = 1;
  EXPECT_EQ(refused({tiny}).code, ErrorCode::InvalidArgument);
  auto indexed = memory_tier(4);
  indexed.index = index_path();
  EXPECT_EQ(refused({indexed}).code, ErrorCode::InvalidArgument);
  options.readers = 0;
  EXPECT_EQ(refused({memory_tier(4)}).code, ErrorCode::InvalidArgument);

  auto const own = memory_tier(4);
  open({own});
  auto const keys = test_keys(0, 2);
  auto const onboarding = [&](LayoutHandle handle, std::vector<BlockId> const& ids) {
    return failure_of_call([&] { return store_->onboard(keys, handle, ids); }).code;
  };
  EXPECT_EQ(onboarding(engine_handle_, {0}), ErrorCode::InvalidArgument);
  EXPECT_EQ(onboarding(engine_handle_, {0, 0}), ErrorCode::InvalidArgument);
  EXPECT_EQ(onboarding(engine_handle_, {0, 16}), ErrorCode::OutOfRange);
  EXPECT_EQ(onboarding(LayoutHandle(1, 2), {0, 1}), ErrorCode::NotFound);
  EXPECT_EQ(onboarding(own.layout, {0, 1}), ErrorCode::InvalidArgument);
  auto const other = manager_->register_layout(
      make_layout(manager_->memory_source(), small_config(4, 4),
                  contiguous(KvBlockLayout::UniversalTP), StorageKind::System));
  EXPECT_EQ(onboarding(other, {0, 1}), ErrorCode::InvalidArgument);
}

TEST_F(PrefixStoreTiers, NothingToDoIsDoneAtOnce) {
  open({memory_tier(4)});
  EXPECT_TRUE(store_->onboard({}, engine_handle_, {}).is_ready());
  EXPECT_TRUE(store_->offload({}, engine_handle_, {}).is_ready());
  EXPECT_TRUE(store_->prefetch({}).is_ready());
  EXPECT_EQ(store_->lookup({}).num_blocks, 0U);
  EXPECT_EQ(store_->erase({}), 0U);
  EXPECT_EQ(store_->flush().written, 0U);
}

TEST_F(PrefixStoreTiers, WhatWasAskedForIsDoneBeforeTheStoreGoes) {
  open({memory_tier(4), disk_tier(16)});
  auto const keys = test_keys(0, 12);
  for (BlockId i = 0; i < keys.size(); ++i) {
    write_key(i, keys[i]);
  }
  auto const ticket = store_->offload(keys, engine_handle_, first_blocks(12));
  store_.reset();
  EXPECT_TRUE(ticket.is_ready());
  EXPECT_EQ(ticket.wait().written, 12U);
}

}  // namespace
}  // namespace kvbm::testing
