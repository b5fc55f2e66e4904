// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <random>
#include <vector>

#include "contract/transfer_fixture.hpp"
#include "kvbm/prefix/prefix_store.hpp"

/// What the prefix store's stress test and the process that it kills have in common: blocks whose
/// content is a function of their key, so that whatever arrives can be judged without memory.
namespace kvbm::testing {

using prefix::BlockKey;
using prefix::PrefixStore;
using prefix::WritePolicy;

inline constexpr std::uint64_t kStressMemory = 6;  ///< blocks of G2
inline constexpr std::uint64_t kStressDisk = 24;   ///< blocks of G3
inline constexpr BlockId kStressPerThread = 4;     ///< engine blocks that a thread has
inline constexpr std::uint64_t kKeptKeys = 4;      ///< keys that are flushed and stay pinned

/// What the process tells.
struct StressReport {
  enum class What : std::uint32_t {
    Flushed,  ///< the key is pinned, and flush() returned
    Erased,   ///< erase() returned; the key is never stored again
  };
  What what = What::Flushed;
  std::uint32_t padding = 0;
  std::uint64_t key = 0;
};

inline BlockKey stress_key(std::uint64_t number) {
  return {checksum_bytes(&number, sizeof number)};
}

/// Manager, engine and store over a folder.
class StressStore {
 public:
  StressStore(std::filesystem::path const& folder, BlockId num_threads, WritePolicy policy)
      : manager_(std::make_shared<TransferManager>(emulated_manager().build())),
        engine_(make_layout(manager_->memory_source(),
                            small_config(std::uint64_t{num_threads} * kStressPerThread),
                            layer_wise(BlockDimension::Second, KvBlockLayout::OperationalNHD),
                            StorageKind::Device)),
        engine_handle_(manager_->register_layout(engine_)) {
    auto const path = folder / "tier";
    auto const start = manager_->layout_builder();
    auto const memory = start.config(small_config(kStressMemory))
                            .fully_contiguous(KvBlockLayout::UniversalTP)
                            .allocate_pinned()
                            .build();
    auto const disk =
        std::filesystem::exists(path)
            ? PhysicalLayout::open_disk(manager_->memory_source(), path)
            : start.config(small_config(kStressDisk))
                  .layer_separate(BlockDimension::First, KvBlockLayout::OperationalHND)
                  .allocate_disk(path)
                  .build();
    prefix::PrefixStoreOptions options;
    options.fingerprint = {3, 4};
    options.write_policy = policy;
    options.batch_blocks = 3;
    options.tiers = {{manager_->register_layout(memory)},
                     {manager_->register_layout(disk), {}, folder / "tier.index"}};
    store_ = std::make_unique<PrefixStore>(manager_, std::move(options));
  }

  [[nodiscard]] PrefixStore& store() { return *store_; }

  /// The engine blocks of a thread.
  static std::vector<BlockId> blocks_of(BlockId thread, std::size_t count) {
    std::vector<BlockId> ids;
    for (BlockId i = 0; i < count; ++i) {
      ids.push_back(thread * kStressPerThread + i);
    }
    return ids;
  }

  prefix::OffloadResult offload(BlockId thread, std::vector<BlockKey> const& keys) {
    auto const ids = blocks_of(thread, keys.size());
    for (std::size_t i = 0; i < keys.size(); ++i) {
      BlockId const logical = 0;
      write_blocks(engine_, {&ids[i], 1}, seed_of(keys[i]), {&logical, 1});
    }
    return store_->offload(keys, engine_handle_, ids).wait();
  }

  struct Arrived {
    std::size_t num_blocks = 0;
    std::size_t num_wrong = 0;
  };
  Arrived onboard(BlockId thread, std::vector<BlockKey> const& keys) {
    auto const ids = blocks_of(thread, keys.size());
    BlockId const logical = 0;
    for (auto const& id : ids) {
      write_blocks(engine_, {&id, 1}, 0xBAD, {&logical, 1});
    }
    Arrived arrived;
    arrived.num_blocks = store_->onboard(keys, engine_handle_, ids).wait().num_blocks;
    for (std::size_t i = 0; i < arrived.num_blocks; ++i) {
      if (count_differences(engine_, ids[i], seed_of(keys[i]), logical) > 0) {
        ++arrived.num_wrong;
      }
    }
    return arrived;
  }

 private:
  static std::uint64_t seed_of(BlockKey const& key) { return key.value.low ^ key.value.high; }

  std::shared_ptr<TransferManager> manager_;
  PhysicalLayout engine_;
  LayoutHandle engine_handle_;
  std::unique_ptr<PrefixStore> store_;
};

}  // namespace kvbm::testing
