// SPDX-License-Identifier: Apache-2.0
#include "transfer/block_leases.hpp"

#include <gtest/gtest.h>

#include <array>
#include <atomic>
#include <condition_variable>
#include <cstddef>
#include <deque>
#include <mutex>
#include <optional>
#include <random>
#include <thread>
#include <utility>
#include <vector>

namespace kvbm::transfer {
namespace {

using Key = BlockLeases::Key;

/// Requests by number, and the leases that they got.
class BlockLeasesTest : public ::testing::Test {
 protected:
  void request(std::vector<Key> keys) {
    auto& slot = leases_.emplace_back();
    leases_of_test_.request(std::move(keys),
                            [&slot](BlockLeases::Lease lease) { slot.emplace(std::move(lease)); });
  }
  [[nodiscard]] std::vector<std::size_t> granted() const {
    std::vector<std::size_t> numbers;
    for (std::size_t i = 0; i < leases_.size(); ++i) {
      if (leases_[i]) { numbers.push_back(i); }
    }
    return numbers;
  }
  void give_back(std::size_t number) { leases_[number].reset(); }

  using Numbers = std::vector<std::size_t>;

 private:
  BlockLeases leases_of_test_;
  std::deque<std::optional<BlockLeases::Lease>> leases_;
};

TEST_F(BlockLeasesTest, SharedBlocksGoFirstComeFirstServed) {
  request({{7, 1}, {7, 2}});
  request({{7, 2}, {7, 3}});
  request({{7, 3}});  // free, but asked for before
  request({{7, 4}});
  request({{8, 1}});  // block 1 of another layout
  EXPECT_EQ(granted(), (Numbers{0, 3, 4}));
  give_back(0);
  EXPECT_EQ(granted(), (Numbers{1, 3, 4}));
  give_back(1);
  EXPECT_EQ(granted(), (Numbers{2, 3, 4}));
}

TEST_F(BlockLeasesTest, OppositeOrdersDoNotWaitInACircle) {
  request({{1, 5}});
  request({{1, 6}});
  request({{1, 5}, {1, 6}});
  request({{1, 6}, {1, 5}});
  give_back(0);
  EXPECT_EQ(granted(), (Numbers{1}));
  give_back(1);
  EXPECT_EQ(granted(), (Numbers{2}));
  give_back(2);
  EXPECT_EQ(granted(), (Numbers{3}));
}

TEST_F(BlockLeasesTest, NoBlocksAndRepeatedBlocksAreGrantedAtOnce) {
  request({});
  request({{1, 5}, {1, 5}});
  EXPECT_EQ(granted(), (Numbers{0, 1}));
  request({{1, 5}});
  EXPECT_EQ(granted(), (Numbers{0, 1}));
  give_back(1);
  EXPECT_EQ(granted(), (Numbers{0, 2}));
}

TEST_F(BlockLeasesTest, OneReleaseGrantsAllThatWaitedForDifferentParts) {
  request({{1, 1}, {1, 2}, {1, 3}});
  request({{1, 1}});
  request({{1, 2}});
  request({{1, 3}, {1, 4}});
  give_back(0);
  EXPECT_EQ(granted(), (Numbers{1, 2, 3}));
}

TEST(BlockLeasesStress, NoBlockIsEverHeldTwiceAndEverybodyGetsTheirTurn) {
  constexpr int kThreads = 4;
  constexpr int kRounds = 500;
  constexpr std::size_t kBlocks = 6;
  BlockLeases leases;
  std::array<std::atomic<int>, kBlocks> holders{};
  std::atomic<int> num_granted = 0;
  std::vector<std::jthread> threads;
  for (unsigned thread = 0; thread < kThreads; ++thread) {
    threads.emplace_back([&, thread] {
      std::mt19937 random(thread);
      for (int round = 0; round < kRounds; ++round) {
        std::vector<Key> keys;
        for (std::size_t i = 0; i < 1 + random() % 3; ++i) {
          keys.emplace_back(1, static_cast<BlockId>(random() % kBlocks));
        }
        std::mutex mutex;
        std::condition_variable changed;
        std::optional<BlockLeases::Lease> mine;
        leases.request(keys, [&](BlockLeases::Lease lease) {
          std::lock_guard const lock(mutex);
          mine.emplace(std::move(lease));
          changed.notify_one();
        });
        std::unique_lock lock(mutex);
        changed.wait(lock, [&] { return mine.has_value(); });
        lock.unlock();
        std::array<bool, kBlocks> held{};
        for (auto const& [place, block] : keys) {
          if (!std::exchange(held[block], true)) { EXPECT_EQ(holders[block].fetch_add(1), 0); }
        }
        for (std::size_t block = 0; block < kBlocks; ++block) {
          if (held[block]) { holders[block].fetch_sub(1); }
        }
        ++num_granted;
      }
    });
  }
  threads.clear();
  EXPECT_EQ(num_granted, kThreads * kRounds);
}

}  // namespace
}  // namespace kvbm::transfer
