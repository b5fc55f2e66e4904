// SPDX-License-Identifier: Apache-2.0
//
// A prefix store over a disk that fails.
#include <cerrno>
#include <fstream>
#include <thread>

#include "unit/prefix/prefix_fixture.hpp"

namespace kvbm::testing {
namespace {

class PrefixFaults : public PrefixTest {
 protected:
  /// Twelve keys, all in the file, the last four in memory too.
  std::vector<BlockKey> fill() {
    open({memory_tier(4), disk_tier(16)});
    auto keys = test_keys(0, 12);
    offload(keys);
    EXPECT_EQ(store_->flush().failed, 0U);
    return keys;
  }
  /// Overwrites the data of all blocks of the file, behind the library's back.
  void damage_all() const {
    std::fstream file(folder_ / "tier", std::ios::in | std::ios::out | std::ios::binary);
    std::string const noise(1000, 'x');
    auto const layout = manager_->layout(store_layouts_disk());
    for (BlockId block = 0; block < 16; ++block) {
      auto const extent = layout.extent(block, 0);
      file.seekp(static_cast<std::streamoff>(layout.regions()[0].store_offset() + extent.offset));
      file.write(noise.data(), 16);
    }
  }
  [[nodiscard]] LayoutHandle store_layouts_disk() const { return manager_->handles().back(); }
};

TEST_F(PrefixFaults, DamagedBlocksAreNotDelivered) {
  auto const keys = fill();
  damage_all();
  auto const result = onboard({keys[0], keys[1]});
  EXPECT_EQ(result.num_blocks, 0U);
  EXPECT_EQ(tier(1).corrupt, 2U);
  EXPECT_FALSE(store_->contains(keys[0])) << "and are not offered again";
  EXPECT_EQ(offload({keys[0]}).written, 1U) << "but can be stored again";
  EXPECT_EQ(store_->flush().failed, 0U);
  EXPECT_EQ(onboard({keys[0]}).num_blocks, 1U);
}

TEST_F(PrefixFaults, ADamagedCopyDoesNotHideAGoodOne) {
  auto const keys = fill();
  damage_all();
  EXPECT_EQ(onboard({keys[8], keys[9]}).num_blocks, 2U) << "still in memory";
}

TEST_F(PrefixFaults, WhatIsInFrontOfAMissArrives) {
  auto const keys = fill();
  damage_all();
  auto const result = onboard({keys[10], keys[11], keys[0], keys[9]});
  EXPECT_EQ(result.num_blocks, 2U);
}

TEST_F(PrefixFaults, ADiskThatCannotBeReadIsAMissAndNoLoss) {
  auto const keys = fill();
  disk_.fail(EIO, [](auto const&) { return true; });
  EXPECT_EQ(onboard({keys[0], keys[1]}).num_blocks, 0U);
  EXPECT_GE(tier(1).read_errors, 2U);
  EXPECT_EQ(tier(1).corrupt, 0U);
  disk_.fail(0, nullptr);
  EXPECT_EQ(onboard({keys[0], keys[1]}).num_blocks, 2U);
}

TEST_F(PrefixFaults, ADiskThatCannotBeWrittenLeavesKeysInMemory) {
  open({memory_tier(4), disk_tier(16)});
  auto const keys = test_keys(0, 3);
  disk_.fail(ENOSPC, [](auto const&) { return true; });
  EXPECT_EQ(offload(keys).written, 3U);
  EXPECT_EQ(store_->flush().failed, 3U);
  EXPECT_GE(tier(1).write_errors, 3U);
  EXPECT_EQ(tier(1).blocks, 0U);
  EXPECT_EQ(onboard(keys).num_blocks, 3U);
  disk_.fail(0, nullptr);
  EXPECT_EQ(store_->flush().written, 3U);
  EXPECT_EQ(tier(1).blocks, 3U);
}

TEST_F(PrefixFaults, WriteBackToABrokenDiskGivesRoomAndCountsTheLoss) {
  open({memory_tier(4), disk_tier(16)}, WritePolicy::Back);
  disk_.fail(EIO, [](auto const&) { return true; });
  EXPECT_EQ(offload(test_keys(0, 12)).written, 12U);
  EXPECT_EQ(tier(0).lost, 8U);
  EXPECT_EQ(tier(0).blocks, 4U);
}

TEST_F(PrefixFaults, ErasingWhileAReadIsUnderWayWaitsForIt) {
  auto const keys = fill();
  disk_.hold([](auto const&) { return true; });
  wipe();
  auto const ticket = store_->onboard({{keys[0]}}, engine_handle_, {{0}});
  disk_.wait_until_held();
  std::thread eraser([&] { EXPECT_EQ(store_->erase({{keys[0]}}), 1U); });
  while (store_->contains(keys[0])) {
    std::this_thread::yield();
  }
  disk_.open();
  eraser.join();
  auto const result = ticket.wait();
  if (result.num_blocks == 1) { EXPECT_TRUE(holds(0, keys[0])); }
  EXPECT_FALSE(store_->contains(keys[0]));
  EXPECT_EQ(store_->stats().tiers[1].blocks, 11U);
}

TEST_F(PrefixFaults, AnEngineLayoutThatGoesIsNoLossOfStoredBlocks) {
  auto const keys = fill();
  disk_.hold([](auto const&) { return true; });
  auto const other = manager_->register_layout(*engine_);
  auto const ticket = store_->onboard({{keys[0], keys[1]}}, other, {{0, 1}});
  disk_.wait_until_held();
  manager_->unregister_layout(other);
  disk_.open();
  EXPECT_EQ(ticket.wait().num_blocks, 0U);
  EXPECT_EQ(onboard({keys[0], keys[1]}).num_blocks, 2U);
}

}  // namespace
}  // namespace kvbm::testing
