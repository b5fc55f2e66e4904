// SPDX-License-Identifier: Apache-2.0
//
// Prepared transfers that the manager keeps.
#include <barrier>
#include <thread>

#include "contract/transfer_fixture.hpp"

namespace kvbm::testing {
namespace {

class PlanCaching : public TransferTest {
 protected:
  explicit PlanCaching(std::size_t capacity = 64)
      : TransferTest(std::move(small_manager().plan_cache_capacity(capacity))) {}

  LayoutHandle add(LayoutShape const& shape, StorageKind storage, std::uint64_t num_blocks = 16) {
    return manager_.register_layout(make(small_config(num_blocks), shape, storage));
  }
  LayoutHandle add(StorageKind storage = StorageKind::Pinned) {
    return add(contiguous(KvBlockLayout::OperationalNHD), storage);
  }
  void expect_stats(std::uint64_t hits, std::uint64_t misses, std::size_t entries) {
    auto const stats = manager_.plan_cache_stats();
    EXPECT_EQ(stats.hits, hits);
    EXPECT_EQ(stats.misses, misses);
    EXPECT_EQ(stats.entries, entries);
  }
  void run(LayoutHandle src, std::vector<BlockId> const& a, LayoutHandle dst,
           std::vector<BlockId> const& b, TransferOptions const& options = {}) {
    manager_.execute_transfer(src, a, dst, b, options).wait();
  }
};

TEST_F(PlanCaching, Q9_TenEqualTransfersAreOneMissAndNineHits) {
  auto const src = add();
  auto const dst = add(StorageKind::Device);
  for (int i = 0; i < 10; ++i) {
    run(src, {0, 1}, dst, {2, 3});
  }
  expect_stats(9, 1, 1);
  EXPECT_EQ(manager_.plan_cache_stats().capacity, 64U);
}

TEST_F(PlanCaching, Q9_OtherBlockIdsOfTheSamePairHitAndMoveTheirBlocks) {
  auto const src =
      add(layer_wise(BlockDimension::First, KvBlockLayout::OperationalNHD), StorageKind::Pinned);
  auto const dst = add(contiguous(KvBlockLayout::UniversalTP), StorageKind::Device);
  write(manager_.layout(src), 1);
  for (BlockId id = 0; id < 16; ++id) {
    run(src, {id}, dst, {15 - id});
    run(src, {id}, dst, {15 - id});
  }
  expect_stats(31, 1, 1);
  auto const ids = first_blocks(16);
  std::vector<BlockId> const reversed(ids.rbegin(), ids.rend());
  EXPECT_EQ(count_differences(manager_.layout(dst), reversed, 1, ids), 0U);
}

TEST_F(PlanCaching, Q9_TheReverseDirectionIsASecondEntry) {
  auto const a = add();
  auto const b = add(StorageKind::Device);
  run(a, {0}, b, {1});
  run(b, {1}, a, {2});
  expect_stats(0, 2, 2);
  run(a, {3}, b, {4});
  run(b, {4}, a, {5});
  expect_stats(2, 2, 2);
}

TEST_F(PlanCaching, Q9_PreparingAndExplainingFillItForTheTransfersThatFollow) {
  auto const a = add();
  auto const b = add(StorageKind::Device);
  static_cast<void>(manager_.prepare_transfer(a, b));
  std::vector<BlockId> const zero{0};
  static_cast<void>(manager_.explain_transfer(b, zero, a, zero));
  expect_stats(0, 2, 2);
  run(a, {0}, b, {1});
  run(b, {0}, a, {1});
  expect_stats(2, 2, 2);
}

TEST_F(PlanCaching, Q6_Q9_RoundTripsBetweenOperationalAndUniversalRestoreTheBlocks) {
  auto const universal = add(contiguous(KvBlockLayout::UniversalTP), StorageKind::Pinned);
  for (auto const& format : {KvBlockLayout::OperationalNHD, KvBlockLayout::OperationalHND}) {
    for (auto const& shape : {contiguous(format), layer_wise(BlockDimension::First, format),
                              layer_wise(BlockDimension::Second, format)}) {
      SCOPED_TRACE(shape.name());
      auto const first = add(shape, StorageKind::Device);
      auto const second = add(shape, StorageKind::Device);
      auto const before = manager_.plan_cache_stats();
      write(manager_.layout(first), 7);
      for (int round = 0; round < 5; ++round) {
        write(manager_.layout(universal), 8);
        write(manager_.layout(second), 9);
        run(first, {1, 2, 3}, universal, {4, 0, 9});
        run(universal, {4, 0, 9}, second, {3, 2, 1});
        EXPECT_EQ(count_differences(manager_.layout(second), std::vector<BlockId>{3, 2, 1}, 7,
                                    std::vector<BlockId>{1, 2, 3}),
                  0U);
      }
      auto const after = manager_.plan_cache_stats();
      EXPECT_EQ(after.misses - before.misses, 2U);
      EXPECT_EQ(after.hits - before.hits, 8U);
    }
  }
}

TEST_F(PlanCaching, OptionsThatDecideThePlanAreEntriesOfTheirOwn) {
  auto const a = add();
  auto const b = add(StorageKind::Device);
  using transfer::Spare;
  using transfer::Strategy;
  auto const with = [] { return TransferOptions::builder(); };
  std::vector<TransferOptions> const options{
      {},
      with().layer_range(0, 2).build(),
      with().layer_range(1, 2).build(),
      with().src_head_range({0, 1}).dst_head_range({1, 2}).build(),
      with().head_range({0, 1}).build(),
      with().src_kv_layout(KvBlockLayout::UniversalTP).build(),
      with().dst_kv_layout(KvBlockLayout::UniversalTP).build(),
      with().timeout(std::chrono::hours(1)).build(),
      with().timeout(std::chrono::hours(2)).build(),
      with().priority(1).build(),
      with().spare(Spare::SpareCpu).build(),
      with().strategy(Strategy::SmCopy).build(),
      with().strategy(Strategy::DmaCopy).build()};
  for (int round = 0; round < 3; ++round) {
    for (auto const& option : options) {
      static_cast<void>(manager_.prepare_transfer(a, b, option));
    }
  }
  expect_stats(2 * options.size(), options.size(), options.size());
}

TEST_F(PlanCaching, OptionsThatBelongToOneCallAreNotKept) {
  auto const a = add();
  auto const b = add(StorageKind::Device);
  auto const bounce = add();
  auto const device = manager_.context().devices().front();
  auto const stream = device->create_stream("caller");
  std::stop_source stop;
  auto const with = [] { return TransferOptions::builder(); };
  for (int i = 0; i < 3; ++i) {
    run(a, {0}, b, {1}, with().cuda_stream(stream).build());
    run(a, {0}, b, {1}, with().wait_for(device->create_event()).build());
    run(a, {0}, b, {1}, with().record_on(stream).build());
    run(a, {0}, b, {1}, with().cancellation(stop.get_token()).build());
    run(a, {0}, b, {1}, with().bounce_buffer({bounce, {0}}).build());
  }
  stream->synchronize();
  expect_stats(0, 0, 0);
}

TEST_F(PlanCaching, RefusedTransfersAreMissesWithoutAnEntry) {
  auto const a = add();
  auto const b = add(StorageKind::Device);
  auto const bad = TransferOptions::builder().layer_range(3, 9).build();
  for (int i = 0; i < 2; ++i) {
    EXPECT_EQ(failure_of_call([&] { return manager_.prepare_transfer(a, b, bad); }).code,
              ErrorCode::OutOfRange);
  }
  expect_stats(0, 2, 0);
}

TEST_F(PlanCaching, UnregisteringForgetsEveryEntryOfTheLayoutAndLetsItsMemoryGo) {
  auto const device = manager_.context().devices().front();
  auto const a = add();
  auto const c = add();
  auto const before = device->used_bytes();
  auto const b = add(StorageKind::Device);
  run(a, {0}, b, {1});
  run(b, {0}, a, {1});
  run(a, {0}, c, {1});
  expect_stats(0, 3, 3);
  manager_.unregister_layout(b);
  expect_stats(0, 3, 1);
  EXPECT_EQ(device->used_bytes(), before);
  EXPECT_EQ(failure_of_call([&] { return manager_.prepare_transfer(a, b); }).code,
            ErrorCode::NotFound);
  run(a, {0}, c, {1});
  EXPECT_EQ(manager_.plan_cache_stats().hits, 1U);
}

class SmallPlanCache : public PlanCaching {
 protected:
  SmallPlanCache() : PlanCaching(16) {}
};

TEST_F(SmallPlanCache, Q9_SixtyFourPairsMissAndTheLastSixteenAreKept) {
  auto const src = add();
  std::vector<LayoutHandle> targets;
  for (int i = 0; i < 64; ++i) {
    targets.push_back(add(contiguous(KvBlockLayout::OperationalNHD), StorageKind::Pinned, 2));
    run(src, {0}, targets.back(), {1});
  }
  expect_stats(0, 64, 16);
  for (std::size_t i = 48; i < 64; ++i) {
    run(src, {0}, targets[i], {0});
  }
  expect_stats(16, 64, 16);
  run(src, {0}, targets[47], {0});
  expect_stats(16, 65, 16);
}

TEST_F(SmallPlanCache, WhatIsUsedStays) {
  auto const src = add();
  auto const often = add();
  for (int i = 0; i < 40; ++i) {
    run(src, {0}, often, {1});
    run(src, {0}, add(contiguous(KvBlockLayout::OperationalNHD), StorageKind::Pinned, 2), {1});
  }
  expect_stats(39, 41, 16);
}

class NoPlanCache : public PlanCaching {
 protected:
  NoPlanCache() : PlanCaching(0) {}
};

TEST_F(NoPlanCache, CapacityZeroKeepsNothingAndMoves) {
  auto const a = add();
  auto const b = add(StorageKind::Device);
  write(manager_.layout(a), 1);
  run(a, {0}, b, {1});
  run(a, {0}, b, {2});
  expect_stats(0, 2, 0);
  EXPECT_EQ(count_differences(manager_.layout(b), 2, 1, 0), 0U);
}

TEST_F(PlanCaching, Q9_TwoThreadsShareOneEntryAndBothMoveTheirBlocks) {
  constexpr int kRounds = 1000;
  auto const src = add();
  auto const dst = add(contiguous(KvBlockLayout::UniversalTP), StorageKind::Device);
  write(manager_.layout(src), 1);
  std::barrier together(2);
  std::vector<std::thread> threads;
  for (BlockId t = 0; t < 2; ++t) {
    threads.emplace_back([&, t] {
      together.arrive_and_wait();
      for (int i = 0; i < kRounds; ++i) {
        auto const block = static_cast<BlockId>(2 * (i % 8) + static_cast<int>(t));
        run(src, {block}, dst, {block});
      }
    });
  }
  for (auto& thread : threads) {
    thread.join();
  }
  auto const stats = manager_.plan_cache_stats();
  EXPECT_EQ(stats.hits + stats.misses, 2U * kRounds);
  EXPECT_LE(stats.misses, 2U) << "both may have missed the first time";
  EXPECT_EQ(stats.entries, 1U);
  auto const ids = first_blocks(16);
  EXPECT_EQ(count_differences(manager_.layout(dst), ids, 1, ids), 0U);
}

TEST_F(PlanCaching, UnregisteringWhileOthersPrepareLeavesNoEntryOfTheLayout) {
  auto const src = add();
  for (int round = 0; round < 50; ++round) {
    auto const dst = add(contiguous(KvBlockLayout::OperationalNHD), StorageKind::System, 2);
    std::barrier together(2);
    std::thread preparer([&] {
      together.arrive_and_wait();
      for (int i = 0; i < 5; ++i) {
        static_cast<void>(failure_of_call([&] { return manager_.prepare_transfer(src, dst); }));
      }
    });
    together.arrive_and_wait();
    manager_.unregister_layout(dst);
    preparer.join();
    ASSERT_EQ(manager_.plan_cache_stats().entries, 0U) << "round " << round;
  }
}

}  // namespace
}  // namespace kvbm::testing
