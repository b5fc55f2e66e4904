// SPDX-License-Identifier: Apache-2.0
#include "device/block_map.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdint>
#include <iterator>
#include <map>
#include <memory>
#include <random>
#include <vector>

#include "contract/device_support.hpp"

namespace kvbm::device {
namespace {

constexpr std::uintptr_t kBase = 1U << 20U;

TEST(BlockMap, TakesTheSmallestFreePartThatSuffices) {
  BlockMap map;
  map.add_segment({kBase, 4096});
  map.add_segment({2 * kBase, 1024});
  EXPECT_EQ(map.free_bytes(), 5120U);
  auto const small = map.take_free(1024);
  ASSERT_TRUE(small.has_value());
  EXPECT_EQ(small->address, 2 * kBase);
  auto const large = map.take_free(2048);
  ASSERT_TRUE(large.has_value());
  EXPECT_EQ(large->address, kBase);
  EXPECT_FALSE(map.take_free(4096).has_value());
  EXPECT_EQ(map.free_bytes(), 2048U);
}

TEST(BlockMap, MergesFreeNeighboursInAnyOrder) {
  for (std::vector<std::size_t> const& order :
       {std::vector<std::size_t>{0, 1, 2}, {2, 1, 0}, {0, 2, 1}, {1, 0, 2}}) {
    BlockMap map;
    map.add_segment({kBase, 3072});
    std::vector<std::uintptr_t> parts;
    for (int i = 0; i < 3; ++i) {
      parts.push_back(map.take_free(1024)->address);
    }
    for (std::size_t const i : order) {
      EXPECT_EQ(map.release(parts[i], {}), 1024U);
    }
    ASSERT_EQ(map.free_segments().size(), 1U);
    EXPECT_EQ(map.take_free(3072)->address, kBase);
  }
}

TEST(BlockMap, NeverMergesOverSegments) {
  BlockMap map;
  map.add_segment({kBase, 1024});
  map.add_segment({kBase + 1024, 1024});  // adjacent by chance
  auto const a = map.take_free(1024)->address;
  auto const b = map.take_free(1024)->address;
  map.release(a, {});
  map.release(b, {});
  EXPECT_FALSE(map.take_free(2048).has_value());
  EXPECT_EQ(map.free_segments().size(), 2U);
  map.remove_segment(kBase);
  EXPECT_EQ(map.free_bytes(), 1024U);
}

TEST(BlockMap, PendingPartsAreForTheirStreamUntilReached) {
  auto const stream = std::make_shared<StreamState>("a", false);
  auto const other = std::make_shared<StreamState>("b", false);
  contract::Latch latch;
  stream->enqueue([&latch] { EXPECT_TRUE(latch.wait()); });
  BlockMap map;
  map.add_segment({kBase, 4096});
  auto const first = map.take_free(1024)->address;
  auto const second = map.take_free(1024)->address;
  auto const third = map.take_free(2048)->address;
  map.release(first, stream->end());
  map.release(second, stream->end());
  EXPECT_EQ(map.free_bytes(), 0U);
  map.settle();
  EXPECT_FALSE(map.take_free(512).has_value());
  EXPECT_FALSE(map.take_pending(512, other.get()).has_value());
  auto const merged = map.take_pending(2048, stream.get());
  ASSERT_TRUE(merged.has_value()) << "neighbours pending on one stream are one part";
  EXPECT_EQ(merged->address, kBase);
  EXPECT_FALSE(merged->ready.is_complete());
  map.release(merged->address, stream->end());
  auto const any = map.take_pending(512, nullptr);
  ASSERT_TRUE(any.has_value());
  EXPECT_EQ(any->ready.stream, stream);
  map.release(third, {});
  map.release(any->address, stream->end());
  latch.open();
  stream->close().join();
  map.settle();
  EXPECT_EQ(map.free_bytes(), 4096U);
  EXPECT_EQ(map.free_segments().size(), 1U);
}

TEST(BlockMap, RandomUseKeepsPartsDisjointAndLosesNothing) {
  for (unsigned seed = 1; seed <= 20; ++seed) {
    SCOPED_TRACE(seed);
    std::mt19937 random(seed);
    BlockMap map;
    map.add_segment({kBase, 64 * 512});
    map.add_segment({4 * kBase, 32 * 512});
    std::map<std::uintptr_t, std::uint64_t> used;
    for (int step = 0; step < 500; ++step) {
      if (used.empty() || random() % 2 == 0) {
        std::uint64_t const bytes = 512 * (1 + random() % 16);
        auto const taken = map.take_free(bytes);
        if (!taken) { continue; }
        auto const [at, added] = used.emplace(taken->address, bytes);
        ASSERT_TRUE(added);
        if (at != used.begin()) {
          EXPECT_LE(std::prev(at)->first + std::prev(at)->second, at->first);
        }
        if (auto const next = std::next(at); next != used.end()) {
          EXPECT_LE(at->first + bytes, next->first);
        }
      } else {
        auto const at = std::next(used.begin(), static_cast<long>(random() % used.size()));
        EXPECT_EQ(map.release(at->first, {}), at->second);
        used.erase(at);
      }
      std::uint64_t sum = map.free_bytes();
      for (auto const& [address, bytes] : used) {
        sum += bytes;
      }
      ASSERT_EQ(sum, 96U * 512);
    }
    for (auto const& [address, bytes] : used) {
      map.release(address, {});
    }
    EXPECT_EQ(map.free_segments().size(), 2U);
  }
}

}  // namespace
}  // namespace kvbm::device
