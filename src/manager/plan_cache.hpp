// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <list>
#include <mutex>
#include <optional>

#include "kvbm/layout/handle.hpp"
#include "kvbm/manager/transfer_manager.hpp"
#include "kvbm/transfer/options.hpp"
#include "kvbm/transfer/prepared_transfer.hpp"

namespace kvbm::manager {

/// Prepared transfers of registered layouts, the most recently used ones, found by everything that
/// preparing depends on.
/// Threads  safe to use concurrently; preparing happens outside the lock.
class PlanCache {
 public:
  explicit PlanCache(std::size_t capacity) : capacity_(capacity) {}

  /// What decides a plan: the pair and the options but for those that belong to one call.
  class Key {
   public:
    /// Empty where the options hold what belongs to one call only: streams, events, a token.
    static std::optional<Key> of(layout::LayoutHandle src, layout::LayoutHandle dst,
                                 transfer::TransferOptions const& options);
    friend bool operator==(Key const&, Key const&) = default;

   private:
    friend class PlanCache;
    layout::LayoutHandle src_;
    layout::LayoutHandle dst_;
    transfer::TransferOptions options_;
  };

  /// The cached transfer, or what `prepare` makes, which is then kept.
  transfer::PreparedTransfer get(Key const& key,
                                 std::function<transfer::PreparedTransfer()> const& prepare);
  /// Lets go of everything that names a layout.
  void forget(layout::LayoutHandle handle);
  void clear();
  [[nodiscard]] PlanCacheStats stats() const;

 private:
  struct Entry {
    Key key;
    transfer::PreparedTransfer prepared;
  };

  /// @pre  mutex_ is held
  [[nodiscard]] std::list<Entry>::iterator find(Key const& key);

  std::size_t const capacity_;
  mutable std::mutex mutex_;
  std::list<Entry> entries_;  ///< most recently used first
  std::uint64_t hits_ = 0;
  std::uint64_t misses_ = 0;
  std::uint64_t forgotten_ = 0;  ///< calls of forget()
};

}  // namespace kvbm::manager
