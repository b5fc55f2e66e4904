// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <span>
#include <utility>
#include <vector>

#include "kvbm/core/types.hpp"
#include "kvbm/layout/physical_layout.hpp"

namespace kvbm::transfer {

/// Blocks that only one transfer at a time may use: bounce blocks, and blocks of a file that are
/// changed in part (read, overlaid, written). Transfers that name the same ones take turns, first
/// come first served; while one waits it holds no thread.
///
/// Each block has a queue of requests, and a request stands in all of its queues at once: that is
/// one order for all blocks, so that nobody waits in a circle. It is granted when it is first in
/// all.
class BlockLeases {
  struct Request;

 public:
  /// A block of a layout, told apart from others by the address or file of the layout's first
  /// region.
  using Key = std::pair<std::uintptr_t, BlockId>;

  /// Appends the blocks of a layout to `keys`.
  static void append_keys(std::vector<Key>& keys, layout::PhysicalLayout const& layout,
                          std::span<BlockId const> ids);

  /// Gives its blocks back when it goes.
  class Lease {
   public:
    Lease(BlockLeases& owner, std::shared_ptr<Request> request)
        : owner_(&owner), request_(std::move(request)) {}
    Lease(Lease&&) noexcept = default;
    Lease(Lease const&) = delete;
    Lease& operator=(Lease const&) = delete;
    Lease& operator=(Lease&&) = delete;
    ~Lease() {
      if (request_ != nullptr) { owner_->release(*request_); }
    }

   private:
    BlockLeases* owner_;
    std::shared_ptr<Request> request_;
  };

  using Granted = std::function<void(Lease)>;

  /// Calls `granted` once nobody else uses the blocks: at once, or later on the thread that gives
  /// the last of them back. It may not throw, and has to keep the lease for another thread: one
  /// given back inside the call would nest as deep as there are requests.
  void request(std::vector<Key> keys, Granted granted);

 private:
  struct Request {
    std::vector<Key> keys;  ///< each once
    Granted granted;
    std::size_t num_queues_to_wait = 0;  ///< in which it is not first
  };

  void grant(std::shared_ptr<Request> request);
  void release(Request const& request);

  std::mutex mutex_;
  std::map<Key, std::deque<std::shared_ptr<Request>>> queues_;  ///< the first of each has the block
};

}  // namespace kvbm::transfer
