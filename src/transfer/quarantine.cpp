// SPDX-License-Identifier: Apache-2.0
#include "transfer/quarantine.hpp"

#include <fmt/format.h>

#include <utility>

#include "kvbm/core/error.hpp"

namespace kvbm::transfer {

void Quarantine::add(std::vector<BlockLeases::Key> const& keys, std::string const& reason) {
  std::lock_guard const lock(mutex_);
  for (auto const& key : keys) {
    Entry& entry = blocks_[key];
    ++entry.count;
    entry.reason = reason;
  }
  count_.store(blocks_.size());
}

void Quarantine::remove(std::vector<BlockLeases::Key> const& keys) noexcept {
  std::lock_guard const lock(mutex_);
  for (auto const& key : keys) {
    auto const found = blocks_.find(key);
    if (found != blocks_.end() && --found->second.count == 0) { blocks_.erase(found); }
  }
  count_.store(blocks_.size());
}

void Quarantine::expect_free(layout::PhysicalLayout const& layout,
                             std::span<BlockId const> ids) const {
  if (count_.load() == 0) { return; }
  std::vector<BlockLeases::Key> keys;
  BlockLeases::append_keys(keys, layout, ids);
  std::lock_guard const lock(mutex_);
  for (auto const& key : keys) {
    if (auto const found = blocks_.find(key); found != blocks_.end()) {
      throw_error(ErrorCode::Busy,
                  fmt::format("block {} may still be read or written by a transfer that was given "
                              "up ({}); it is free again when that worker answers or has ended",
                              key.second, found->second.reason));
    }
  }
}

WireHold::WireHold(layout::PhysicalLayout near, std::shared_ptr<LayoutUse> use,
                   std::optional<memory::Region> staging, std::shared_ptr<void const> exposed,
                   std::shared_ptr<void const> landing)
    : near_(std::move(near)),
      use_(std::move(use)),
      staging_(std::move(staging)),
      exposed_(std::move(exposed)),
      landing_(std::move(landing)) {}

WireHold::~WireHold() {
  if (place_ != nullptr) { place_->remove(keys_); }
}

void WireHold::quarantine(std::shared_ptr<Quarantine> const& place, std::span<BlockId const> ids,
                          std::string const& reason) {
  std::vector<BlockLeases::Key> keys;
  BlockLeases::append_keys(keys, near_, ids);
  place->add(keys, reason);
  std::lock_guard const lock(mutex_);
  place_ = place;
  keys_.insert(keys_.end(), keys.begin(), keys.end());
}

}  // namespace kvbm::transfer
