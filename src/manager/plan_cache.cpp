// SPDX-License-Identifier: Apache-2.0
#include "manager/plan_cache.hpp"

#include <algorithm>
#include <utility>

namespace kvbm::manager {

std::optional<PlanCache::Key> PlanCache::Key::of(layout::LayoutHandle src, layout::LayoutHandle dst,
                                                 transfer::TransferOptions const& options) {
  if (options.cuda_stream != nullptr || !options.wait_for.empty() || !options.record_on.empty() ||
      options.cancellation.stop_possible() || options.nixl_write_notification ||
      options.bounce_buffer) {
    return std::nullopt;
  }
  Key key;
  key.src_ = src;
  key.dst_ = dst;
  key.options_ = options;
  return key;
}

transfer::PreparedTransfer PlanCache::get(
    Key const& key, std::function<transfer::PreparedTransfer()> const& prepare) {
  std::uint64_t forgotten = 0;
  {
    std::lock_guard const lock(mutex_);
    forgotten = forgotten_;
    if (auto const found = find(key); found != entries_.end()) {
      ++hits_;
      entries_.splice(entries_.begin(), entries_, found);
      return found->prepared;
    }
    ++misses_;
  }
  auto prepared = prepare();
  std::lock_guard const lock(mutex_);
  if (forgotten != forgotten_) { return prepared; }      // perhaps of a layout that is gone by now
  if (find(key) != entries_.end()) { return prepared; }  // another thread missed it as well
  entries_.push_front({key, prepared});
  if (entries_.size() > capacity_) { entries_.pop_back(); }
  return prepared;
}

std::list<PlanCache::Entry>::iterator PlanCache::find(Key const& key) {
  return std::find_if(entries_.begin(), entries_.end(),
                      [&key](Entry const& entry) { return entry.key == key; });
}

void PlanCache::forget(layout::LayoutHandle handle) {
  std::lock_guard const lock(mutex_);
  ++forgotten_;
  std::erase_if(entries_, [handle](Entry const& entry) {
    return entry.key.src_ == handle || entry.key.dst_ == handle;
  });
}

void PlanCache::clear() {
  std::lock_guard const lock(mutex_);
  ++forgotten_;
  entries_.clear();
}

PlanCacheStats PlanCache::stats() const {
  std::lock_guard const lock(mutex_);
  return {hits_, misses_, entries_.size(), capacity_};
}

}  // namespace kvbm::manager
