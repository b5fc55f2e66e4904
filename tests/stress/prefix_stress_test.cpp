// SPDX-License-Identifier: Apache-2.0
//
// Random work on a prefix store by several threads, and across kills, against what must be true of
// every block whatever happened: what arrives is what belongs to its key, what was promised is
// there, what was erased is not.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/file.h>
#include <unistd.h>

#include <deque>
#include <random>
#include <set>
#include <string>
#include <thread>

#include "kvbm/testing/child_process.hpp"
#include "kvbm/testing/temp_folder.hpp"
#include "stress/prefix_oracle.hpp"
#include "support/test_program.hpp"

namespace kvbm::testing {
namespace {

class PrefixStress : public ::testing::TestWithParam<WritePolicy> {
 protected:
  TempFolder folder_;
};

INSTANTIATE_TEST_SUITE_P(Policies, PrefixStress,
                         ::testing::Values(WritePolicy::Through, WritePolicy::Back),
                         [](auto const& policy) {
                           return std::string(policy.param == WritePolicy::Back ? "Back"
                                                                                : "Through");
                         });

/// One thread's random work over keys that all threads share.
void work(StressStore& stress, BlockId thread, std::uint64_t seed, unsigned num_steps) {
  constexpr std::uint64_t kKeys = 40;
  std::mt19937_64 random(seed);
  auto const some_keys = [&] {
    std::vector<BlockKey> keys;
    std::size_t const count = 1 + random() % kStressPerThread;
    std::uint64_t const first = random() % kKeys;
    for (std::size_t i = 0; i < count; ++i) {
      keys.push_back(stress_key((first + i) % kKeys));
    }
    return keys;
  };
  std::deque<prefix::Pin> pins;
  for (unsigned step = 0; step < num_steps; ++step) {
    auto const keys = some_keys();
    switch (random() % 12) {
      case 0:
      case 1:
      case 2:
      case 3: {
        auto const result = stress.offload(thread, keys);
        EXPECT_EQ(result.written + result.already_stored + result.failed, keys.size());
        break;
      }
      case 4:
      case 5:
      case 6: EXPECT_EQ(stress.onboard(thread, keys).num_wrong, 0U); break;
      case 7: {
        // What is pinned is there, whatever the others do.
        prefix::Pin pin = stress.store().pin({keys.data(), 1});
        if (pin.keys().empty()) { break; }
        auto const arrived = stress.onboard(thread, pin.keys());
        EXPECT_EQ(arrived.num_blocks, pin.keys().size());
        EXPECT_EQ(arrived.num_wrong, 0U);
        EXPECT_EQ(stress.store().erase(pin.keys()), 0U);
        pins.push_back(std::move(pin));
        if (pins.size() > 1) { pins.pop_front(); }
        break;
      }
      case 8: stress.store().erase(keys); break;
      case 9: stress.store().prefetch(keys).wait(); break;
      case 10: EXPECT_LE(stress.store().lookup(keys).num_blocks, keys.size()); break;
      default: stress.store().flush(); break;
    }
  }
  for (auto const& pin : pins) {
    EXPECT_EQ(stress.onboard(thread, pin.keys()).num_blocks, pin.keys().size());
  }
}

TEST_P(PrefixStress, ThreadsSeeOnlyWhatBelongsToTheirKeys) {
  std::uint64_t const seed = std::random_device{}();
  SCOPED_TRACE("seed " + std::to_string(seed));
  constexpr BlockId kThreads = 4;
  {
    StressStore stress(folder_.path(), kThreads, GetParam());
    std::vector<std::thread> threads;
    for (BlockId thread = 0; thread < kThreads; ++thread) {
      threads.emplace_back([&, thread] { work(stress, thread, seed + thread, 150); });
    }
    for (auto& thread : threads) {
      thread.join();
    }
    EXPECT_EQ(stress.store().flush().failed, 0U);
    auto const stats = stress.store().stats();
    EXPECT_EQ(stats.background_errors, 0U);
    for (auto const& tier : stats.tiers) {
      EXPECT_LE(tier.blocks, tier.capacity_blocks);
      EXPECT_EQ(tier.pinned_blocks, 0U);
      EXPECT_EQ(tier.read_errors + tier.write_errors + tier.corrupt, 0U);
    }
    // Nothing was left busy: every block can be had at once.
    for (std::uint64_t number = 100; number < 100 + kStressDisk; number += 4) {
      EXPECT_EQ(stress
                    .offload(0, {stress_key(number), stress_key(number + 1), stress_key(number + 2),
                                 stress_key(number + 3)})
                    .written,
                4U);
    }
    EXPECT_EQ(stress.store().flush().failed, 0U);
    EXPECT_EQ(stress.store().stats().tiers[1].blocks, kStressDisk);
    for (std::uint64_t number = 100; number < 100 + kStressDisk; ++number) {
      EXPECT_TRUE(stress.store().contains(stress_key(number))) << number;
    }
  }
  StressStore stress(folder_.path(), 1, GetParam());
  EXPECT_EQ(stress.store().stats().tiers[1].damaged_index, 0U);
  for (std::uint64_t number = 100; number < 100 + kStressDisk; ++number) {
    auto const arrived = stress.onboard(0, {stress_key(number)});
    EXPECT_EQ(arrived.num_blocks, 1U) << number;
    EXPECT_EQ(arrived.num_wrong, 0U) << number;
  }
}

/// A process that was killed keeps its locks for as long as its writes need to end.
void wait_for_lock(std::filesystem::path const& path) {
  int const file = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (file < 0) { return; }
  ASSERT_EQ(flock(file, LOCK_EX), 0);
  close(file);
}

TEST_P(PrefixStress, KilledAtAnyMomentItKeepsWhatItPromised) {
  std::uint64_t const seed = std::random_device{}();
  SCOPED_TRACE("seed " + std::to_string(seed));
  std::mt19937_64 random(seed);
  std::set<std::uint64_t> flushed;
  std::set<std::uint64_t> erased;
  for (unsigned round = 0; round < 8; ++round) {
    SCOPED_TRACE("round " + std::to_string(round));
    std::uint64_t const num_reports = 1 + random() % 40;
    {
      ChildProcess child(test_program(KVBM_PREFIX_STRESS_PROCESS),
                         {folder_.path().string(), std::to_string(round),
                          GetParam() == WritePolicy::Back ? "back" : "through"});
      StressReport report;
      std::uint64_t count = 0;
      while (child.channel().receive(report)) {
        (report.what == StressReport::What::Flushed ? flushed : erased).insert(report.key);
        if (++count == num_reports) { child.send_signal(SIGKILL); }
      }
      ASSERT_GE(count, num_reports) << "the process ended by itself";
      child.stop();
    }
    wait_for_lock(folder_ / "tier");
    wait_for_lock(folder_ / "tier.index");
    StressStore stress(folder_.path(), 1, GetParam());
    for (auto const key : flushed) {
      auto const arrived = stress.onboard(0, {stress_key(key)});
      EXPECT_EQ(arrived.num_blocks, 1U) << "key " << key << " was flushed and pinned";
      EXPECT_EQ(arrived.num_wrong, 0U) << "key " << key;
    }
    for (auto const key : erased) {
      EXPECT_FALSE(stress.store().contains(stress_key(key))) << "key " << key << " was erased";
    }
    // Whatever else is found is what it should be.
    for (std::uint64_t half = 0; half < 2; ++half) {
      std::uint64_t const base = std::uint64_t{round + 1} * 1'000'000 + half * 500'000;
      for (std::uint64_t key = base; key < base + 300; ++key) {
        if (!stress.store().contains(stress_key(key))) { continue; }
        EXPECT_EQ(stress.onboard(0, {stress_key(key)}).num_wrong, 0U) << "key " << key;
      }
    }
  }
  EXPECT_FALSE(flushed.empty());
}

}  // namespace
}  // namespace kvbm::testing
