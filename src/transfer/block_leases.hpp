// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <set>
#include <span>
#include <utility>
#include <vector>

#include "kvbm/core/types.hpp"
#include "kvbm/layout/physical_layout.hpp"

namespace kvbm::transfer {

/// Blocks that only one transfer at a time may use: bounce blocks, and blocks of a file that are
/// changed in part (read, overlaid, written). Transfers that name the same ones take turns.
/// Order: a transfer takes its bounce blocks first, then its file blocks, each set at once, so that
/// nobody waits in a circle.
class BlockLeases {
 public:
  class Lease {
   public:
    Lease(BlockLeases& owner, std::vector<std::pair<std::uintptr_t, BlockId>> keys)
        : owner_(&owner), keys_(std::move(keys)) {}
    Lease(Lease&& other) noexcept
        : owner_(std::exchange(other.owner_, nullptr)), keys_(std::move(other.keys_)) {}
    Lease(Lease const&) = delete;
    Lease& operator=(Lease const&) = delete;
    Lease& operator=(Lease&&) = delete;
    ~Lease() {
      if (owner_ != nullptr) { owner_->release(keys_); }
    }

   private:
    BlockLeases* owner_;
    std::vector<std::pair<std::uintptr_t, BlockId>> keys_;
  };

  /// Blocks until none of the blocks is in use. Layouts are told apart by their first region.
  Lease acquire(layout::PhysicalLayout const& layout, std::span<BlockId const> ids) {
    auto const& region = layout.regions().front();
    auto const place =
        region.file() ? reinterpret_cast<std::uintptr_t>(region.file().get()) : region.address();
    std::vector<std::pair<std::uintptr_t, BlockId>> keys;
    keys.reserve(ids.size());
    for (BlockId const id : ids) {
      keys.emplace_back(place, id);
    }
    std::unique_lock lock(mutex_);
    released_.wait(lock, [&] {
      return std::none_of(keys.begin(), keys.end(),
                          [this](auto const& key) { return used_.contains(key); });
    });
    used_.insert(keys.begin(), keys.end());
    return {*this, std::move(keys)};
  }

 private:
  void release(std::vector<std::pair<std::uintptr_t, BlockId>> const& keys) {
    {
      std::lock_guard const lock(mutex_);
      for (auto const& key : keys) {
        used_.erase(key);
      }
    }
    released_.notify_all();
  }

  std::mutex mutex_;
  std::condition_variable released_;
  std::set<std::pair<std::uintptr_t, BlockId>> used_;
};

}  // namespace kvbm::transfer
