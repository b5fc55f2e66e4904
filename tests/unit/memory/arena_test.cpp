// SPDX-License-Identifier: Apache-2.0
#include "kvbm/memory/arena.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <random>
#include <span>
#include <thread>
#include <utility>
#include <vector>

#include "kvbm/memory/memory_source.hpp"
#include "kvbm/testing/failure.hpp"

namespace kvbm::memory {
namespace {

using testing::failure_of_call;

constexpr std::uint64_t kPage = 4096;

class ArenaTest : public ::testing::TestWithParam<StorageKind> {
 protected:
  std::shared_ptr<MemorySource> source_ = make_host_memory_source();
  Arena arena_{source_->allocate({GetParam(), 10 * kPage, kPage, -1}), kPage};
};

TEST_P(ArenaTest, A3_FirstAllocationIsAtTheBase) {
  auto const lease = arena_.allocate(kPage);
  EXPECT_EQ(lease.offset(), 0U);
  EXPECT_EQ(lease.region().address(), arena_.region().address());
  EXPECT_EQ(lease.region().bytes(), kPage);
  EXPECT_EQ(lease.region().kind(), GetParam());
}

TEST_P(ArenaTest, A3_RunsFollowEachOther) {
  auto const one = arena_.allocate(kPage);
  auto const two = arena_.allocate(kPage + 1);
  auto const last = arena_.allocate(1);
  EXPECT_EQ(one.offset(), 0 * kPage);
  EXPECT_EQ(two.offset(), 1 * kPage);
  EXPECT_EQ(last.offset(), 3 * kPage);
  EXPECT_EQ(two.region().bytes(), kPage + 1);
  EXPECT_EQ(arena_.num_free_pages(), 6U);
}

TEST_P(ArenaTest, A3_TenSinglePagesComeInOrderAndTheEleventhIsRefused) {
  std::vector<Arena::Lease> leases;
  for (std::uint64_t i = 0; i < 10; ++i) {
    leases.push_back(arena_.allocate(kPage));
    EXPECT_EQ(leases.back().offset(), i * kPage);
  }
  EXPECT_FALSE(arena_.try_allocate(1).has_value());
  auto const failure = failure_of_call([&] { return arena_.allocate(1); });
  EXPECT_EQ(failure.code, ErrorCode::OutOfMemory);
  EXPECT_NE(failure.message.find("10 pages"), std::string::npos) << failure.message;
}

TEST_P(ArenaTest, A3_PagesAreReusedAndRunsGrowTogether) {
  std::vector<Arena::Lease> leases;
  for (int i = 0; i < 10; ++i) {
    leases.push_back(arena_.allocate(kPage));
  }
  leases[4].release();
  EXPECT_TRUE(leases[4].empty());
  EXPECT_EQ(arena_.allocate(kPage).offset(), 4 * kPage);  // taken and at once given back
  leases[6].release();
  EXPECT_FALSE(arena_.try_allocate(2 * kPage).has_value());
  EXPECT_EQ(arena_.largest_free_run(), 1U);
  leases[5].release();  // joins its neighbours on both sides
  EXPECT_EQ(arena_.largest_free_run(), 3U);
  EXPECT_EQ(arena_.allocate(3 * kPage).offset(), 4 * kPage);
  leases.clear();
  EXPECT_EQ(arena_.largest_free_run(), 10U);
  EXPECT_EQ(arena_.allocate(10 * kPage).offset(), 0U);
}

TEST_P(ArenaTest, LeasesMoveAndOutliveTheArena) {
  auto arena = std::make_unique<Arena>(source_->allocate({GetParam(), 4 * kPage, kPage, -1}));
  auto first = arena->allocate(kPage);
  auto second = arena->allocate(kPage);
  second = std::move(first);   // gives the second page back
  EXPECT_TRUE(first.empty());  // NOLINT(bugprone-use-after-move): what moving leaves is promised
  EXPECT_EQ(second.offset(), 0U);
  EXPECT_EQ(arena->num_free_pages(), 3U);
  arena.reset();
  source_.reset();
  std::memset(second.region().host_data(), 1, kPage);
}

INSTANTIATE_TEST_SUITE_P(Kinds, ArenaTest,
                         ::testing::Values(StorageKind::System, StorageKind::Pinned),
                         [](auto const& test) { return std::string(to_string(test.param)); });

TEST(Arena, RefusesBadGeometry) {
  auto const region = make_host_memory_source()->allocate({StorageKind::System, 6000, 512, -1});
  EXPECT_EQ(failure_of_call([&] { return Arena(region, 3000); }).code, ErrorCode::InvalidArgument);
  EXPECT_EQ(failure_of_call([&] { return Arena(region, 8192); }).code, ErrorCode::InvalidArgument);
  Arena arena(region, 4096);
  EXPECT_EQ(arena.num_pages(), 1U);
  EXPECT_EQ(failure_of_call([&] { return arena.allocate(0); }).code, ErrorCode::InvalidArgument);
  EXPECT_EQ(failure_of_call([&] { return arena.allocate(~std::uint64_t{0}); }).code,
            ErrorCode::OutOfMemory);
}

// Each thread writes its number all over its lease; overlap would show as somebody else's number.
TEST(Arena, ThreadsNeverShareAPage) {
  auto const source = make_host_memory_source();
  Arena arena(source->allocate({StorageKind::System, 64 * kPage, kPage, -1}));
  std::atomic<bool> shared{false};
  {
    std::vector<std::jthread> threads;
    for (unsigned id = 1; id <= 4; ++id) {
      threads.emplace_back([&, id] {
        std::mt19937 random(id);
        for (int round = 0; round < 300; ++round) {
          auto const lease = arena.try_allocate(kPage * (1 + random() % 9));
          if (!lease) { continue; }
          auto const bytes = std::span(lease->region().host_data(), lease->region().bytes());
          std::fill(bytes.begin(), bytes.end(), std::byte(id));
          if (!std::all_of(bytes.begin(), bytes.end(),
                           [&](std::byte b) { return b == std::byte(id); })) {
            shared = true;
          }
        }
      });
    }
  }
  EXPECT_FALSE(shared);
  EXPECT_EQ(arena.largest_free_run(), 64U);
}

}  // namespace
}  // namespace kvbm::memory
