// SPDX-License-Identifier: Apache-2.0
#include "transfer/block_leases.hpp"

#include <algorithm>

namespace kvbm::transfer {

void BlockLeases::append_keys(std::vector<Key>& keys, layout::PhysicalLayout const& layout,
                              std::span<BlockId const> ids) {
  auto const& region = layout.regions().front();
  auto const place =
      region.store() ? reinterpret_cast<std::uintptr_t>(region.store().get()) : region.address();
  keys.reserve(keys.size() + ids.size());
  for (BlockId const id : ids) {
    keys.emplace_back(place, id);
  }
}

void BlockLeases::request(std::vector<Key> keys, Granted granted) {
  std::sort(keys.begin(), keys.end());
  keys.erase(std::unique(keys.begin(), keys.end()), keys.end());
  auto request = std::make_shared<Request>();
  request->keys = std::move(keys);
  request->granted = std::move(granted);
  {
    std::lock_guard const lock(mutex_);
    for (Key const& key : request->keys) {
      auto& queue = queues_[key];
      if (!queue.empty()) { ++request->num_queues_to_wait; }
      queue.push_back(request);
    }
    if (request->num_queues_to_wait > 0) { return; }
  }
  grant(std::move(request));
}

void BlockLeases::grant(std::shared_ptr<Request> request) {
  Granted const granted = std::move(request->granted);
  granted(Lease(*this, std::move(request)));
}

void BlockLeases::release(Request const& request) {
  std::vector<std::shared_ptr<Request>> ready;
  {
    std::lock_guard const lock(mutex_);
    for (Key const& key : request.keys) {
      auto const found = queues_.find(key);
      auto& queue = found->second;
      queue.pop_front();
      if (queue.empty()) {
        queues_.erase(found);
      } else if (--queue.front()->num_queues_to_wait == 0) {
        ready.push_back(queue.front());
      }
    }
  }
  for (auto& next : ready) {
    grant(std::move(next));
  }
}

}  // namespace kvbm::transfer
