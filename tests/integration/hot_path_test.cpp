// SPDX-License-Identifier: Apache-2.0
//
// Moving a block between memory and files takes no memory of the heap for that block.
#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <limits>
#include <new>

#include "integration/tier.hpp"

namespace {

std::atomic<std::uint64_t> allocations{0};

void* count_and_allocate(std::size_t bytes) {
  allocations.fetch_add(1, std::memory_order_relaxed);
  if (void* const memory = std::malloc(bytes == 0 ? 1 : bytes)) { return memory; }
  throw std::bad_alloc();
}

}  // namespace

// The other forms of new and delete end in these. Not inlined, or compilers see a free() of what
// new made, and warn.
[[gnu::noinline]] void* operator new(std::size_t bytes) { return count_and_allocate(bytes); }
[[gnu::noinline]] void operator delete(void* memory) noexcept { std::free(memory); }
[[gnu::noinline]] void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }

namespace kvbm::testing {
namespace {

constexpr std::uint64_t kFew = 64;
constexpr std::uint64_t kMany = 2048;

class HotPath : public ::testing::Test {
 protected:
  HotPath() : manager_(small_manager().build()) {}

  [[nodiscard]] LayoutHandle make_memory(LayoutShape const& shape) {
    return manager_.register_layout(
        make_layout(manager_.memory_source(), tier_config(kMany), shape, StorageKind::Pinned));
  }
  [[nodiscard]] LayoutHandle make_files(std::size_t parts) {
    std::vector<std::filesystem::path> paths;
    for (std::size_t i = 0; i < parts; ++i) {
      paths.push_back(folder_ / ("part" + std::to_string(i) + "of" + std::to_string(parts)));
    }
    return manager_.register_layout(manager_.layout_builder()
                                        .config(tier_config(kMany))
                                        .fully_contiguous(KvBlockLayout::UniversalTP)
                                        .allocate_disk(paths)
                                        .build());
  }

  /// Of submitting and completing a prepared transfer, once every buffer has its size. The least of
  /// several times: now and then another worker takes the transfer, whose buffers still grow, or
  /// more requests end at once than ever before.
  static std::uint64_t count(transfer::PreparedTransfer const& prepared, std::uint64_t num_blocks) {
    constexpr int kTimes = 8;
    auto const ids = first_blocks(num_blocks);
    std::uint64_t least = std::numeric_limits<std::uint64_t>::max();
    for (int i = 0; i < kTimes; ++i) {
      std::uint64_t const before = allocations.load();
      prepared.submit(ids, ids).wait();
      least = std::min(least, allocations.load() - before);
    }
    return least;
  }

  void expect_few(LayoutHandle const& src, LayoutHandle const& dst) {
    auto const prepared = manager_.prepare_transfer(src, dst);
    std::uint64_t const few = count(prepared, kFew);
    std::uint64_t const many = count(prepared, kMany);
    // What grows is lists of results, a few for each batch of many blocks.
    EXPECT_LE(many, few + (kMany - kFew) / 8) << few << " for " << kFew << " blocks";
  }

  TempFolder folder_;
  TransferManager manager_;
};

TEST_F(HotPath, TakesNoHeapForABlock) {
  for (std::size_t const parts : {1U, 2U}) {
    auto const files = make_files(parts);
    for (auto const& shape : {contiguous(KvBlockLayout::UniversalTP),
                              layer_wise(BlockDimension::Second, KvBlockLayout::OperationalNHD)}) {
      SCOPED_TRACE(shape.name() + ", " + std::to_string(parts) + " files");
      auto const memory = make_memory(shape);
      expect_few(memory, files);
      expect_few(files, memory);
    }
  }
}

}  // namespace
}  // namespace kvbm::testing
