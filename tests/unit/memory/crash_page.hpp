// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "kvbm/memory/block_store.hpp"

namespace kvbm::memory::test {

/// Memory that a program which is about to be killed shares with the test that kills it.
struct CrashPage {
  std::atomic<std::uint32_t> counting{0};  ///< the steps from here on are killed at
  std::atomic<std::uint32_t> begun{0};     ///< batches handed to the store
  std::atomic<std::uint32_t> done{0};      ///< batches that finish() reported written
};
static_assert(std::atomic<std::uint32_t>::is_always_lock_free);

inline constexpr std::size_t kCrashPageBytes = 4096;

/// What the program overwrites: three batches with neighbours and gaps. The extents of kFresh held
/// nothing before, those in no batch keep what they hold.
inline constexpr std::uint64_t kCrashExtents = 18;
inline constexpr std::uint64_t kCrashExtentBytes = 20'000;
inline constexpr std::uint64_t kCrashExtentStride = 20'480;
inline constexpr std::array<std::array<std::uint64_t, 4>, 3> kCrashBatches{
    {{1, 2, 3, 7}, {16, 8, 9, 12}, {13, 4, 15, 10}}};
inline constexpr std::array<std::uint64_t, 2> kFresh{12, 13};

inline std::vector<ExtentGroup> crash_groups() {
  return {{0, kCrashExtentBytes, kCrashExtentStride, kCrashExtents}};
}

/// The files of a store of `parts` ones: `first`, then "<first>1", ...
inline std::vector<std::filesystem::path> crash_paths(std::filesystem::path const& first,
                                                      std::size_t parts) {
  std::vector<std::filesystem::path> paths{first};
  for (std::size_t i = 1; i < parts; ++i) {
    paths.emplace_back(first.string() + std::to_string(i));
  }
  return paths;
}

}  // namespace kvbm::memory::test
