// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <shared_mutex>
#include <string>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include "kvbm/core/error.hpp"
#include "kvbm/layout/handle.hpp"
#include "kvbm/layout/physical_layout.hpp"
#include "kvbm/transfer/prepared_transfer.hpp"
#include "transfer/layout_use.hpp"

namespace kvbm::manager {

/// The layouts of one worker by handle. Threads: all methods may be called concurrently.
class Registry {
 public:
  explicit Registry(std::uint64_t worker_id) : worker_id_(worker_id) {}

  layout::LayoutHandle add(layout::PhysicalLayout layout) {
    std::unique_lock const lock(mutex_);
    KVBM_EXPECTS(entries_.size() < kMaxLayouts, OutOfRange,
                 fmt::format("{} layouts are registered, as many as a manager can have; unregister "
                             "one first",
                             kMaxLayouts));
    // Counting on through all ids: one is used again only after every other.
    while (entries_.contains(next_id_)) {
      ++next_id_;
    }
    layout::LayoutHandle const handle(worker_id_, next_id_);
    entries_.emplace(next_id_++,
                     transfer::Endpoint{std::move(layout),
                                        std::make_shared<transfer::LayoutUse>(to_string(handle))});
    return handle;
  }

  void remove(layout::LayoutHandle handle) {
    std::unique_lock const lock(mutex_);
    find(handle, "layout").use->unregister();
    entries_.erase(handle.layout_id());
  }

  /// @param role  "source", "destination", "bounce": named in the error
  [[nodiscard]] transfer::Endpoint get(layout::LayoutHandle handle, char const* role) const {
    std::shared_lock const lock(mutex_);
    return find(handle, role);
  }

  [[nodiscard]] std::vector<layout::LayoutHandle> handles() const {
    std::shared_lock const lock(mutex_);
    std::vector<layout::LayoutHandle> handles;
    handles.reserve(entries_.size());
    for (auto const& [id, entry] : entries_) {
      handles.emplace_back(worker_id_, id);
    }
    return handles;
  }

 private:
  static constexpr std::size_t kMaxLayouts = 65536;

  [[nodiscard]] transfer::Endpoint const& find(layout::LayoutHandle handle,
                                               char const* role) const {
    KVBM_EXPECTS(handle.reserved_bits() == 0, NotFound,
                 fmt::format("{} handle {} has reserved bits set ({:#x})", role, to_string(handle),
                             handle.reserved_bits()));
    KVBM_EXPECTS(handle.worker_id() == worker_id_, NotFound,
                 fmt::format("{} handle {} belongs to another manager; this one is worker {}", role,
                             to_string(handle), worker_id_));
    auto const found = entries_.find(handle.layout_id());
    KVBM_EXPECTS(found != entries_.end(), NotFound,
                 fmt::format("{} handle {} names no registered layout; was it unregistered?", role,
                             to_string(handle)));
    return found->second;
  }

  std::uint64_t const worker_id_;
  mutable std::shared_mutex mutex_;
  std::map<std::uint16_t, transfer::Endpoint> entries_;
  std::uint16_t next_id_ = 0;
};

}  // namespace kvbm::manager
