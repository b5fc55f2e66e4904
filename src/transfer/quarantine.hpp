// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <cstddef>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "kvbm/core/types.hpp"
#include "kvbm/layout/physical_layout.hpp"
#include "kvbm/memory/region.hpp"
#include "transfer/block_leases.hpp"
#include "transfer/layout_use.hpp"

namespace kvbm::transfer {

/// Blocks that a failed transfer's wire may still read or write: no other transfer may have them.
/// Threads  all methods may be called concurrently.
class Quarantine {
 public:
  void add(std::vector<BlockLeases::Key> const& keys, std::string const& reason);
  void remove(std::vector<BlockLeases::Key> const& keys) noexcept;
  /// @throws Error(Busy) naming the first block that is in here, and why
  void expect_free(layout::PhysicalLayout const& layout, std::span<BlockId const> ids) const;
  [[nodiscard]] std::size_t num_blocks() const noexcept { return count_.load(); }

 private:
  struct Entry {
    std::size_t count = 0;
    std::string reason;
  };
  mutable std::mutex mutex_;
  std::map<BlockLeases::Key, Entry> blocks_;
  std::atomic<std::size_t> count_{0};
};

/// What a move over a wire must find untouched for as long as the wire may read or write it: given
/// to the peer, which lets go of it when the move has ended, be it long after it was given up.
class WireHold {
 public:
  /// @param near     our end of the wire: its memory stays
  /// @param use      of a registered layout: it cannot be unregistered
  /// @param exposed  registration of staging memory; null otherwise
  /// @param landing  of the peer, lent to this transfer; null otherwise
  WireHold(layout::PhysicalLayout near, std::shared_ptr<LayoutUse> use,
           std::optional<memory::Region> staging, std::shared_ptr<void const> exposed,
           std::shared_ptr<void const> landing);
  WireHold(WireHold const&) = delete;
  WireHold& operator=(WireHold const&) = delete;
  /// The blocks may be used again.
  ~WireHold();

  /// Keeps others from blocks of `near` until this ends.
  void quarantine(std::shared_ptr<Quarantine> const& place, std::span<BlockId const> ids,
                  std::string const& reason);

 private:
  std::mutex mutex_;
  layout::PhysicalLayout const near_;
  LayoutUseLease use_;
  std::optional<memory::Region> const staging_;
  std::shared_ptr<void const> const exposed_;
  std::shared_ptr<void const> const landing_;
  std::shared_ptr<Quarantine> place_;
  std::vector<BlockLeases::Key> keys_;
};

}  // namespace kvbm::transfer
