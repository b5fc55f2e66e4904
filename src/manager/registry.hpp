// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <functional>
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
#include "kvbm/remote/tier.hpp"
#include "kvbm/transfer/prepared_transfer.hpp"
#include "remote/worker/remote_worker.hpp"
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

  /// Lets go of all layouts; transfers in flight keep their own.
  void clear() {
    std::map<std::uint16_t, transfer::Endpoint> entries;  // end behind the lock
    std::map<layout::LayoutHandle, remote::ImportedLayout> imported;
    std::unique_lock const lock(mutex_);
    entries.swap(entries_);
    imported.swap(remote_);
  }

  /// @throws Error(Busy) transfers in flight use the layout
  void expect_idle(layout::LayoutHandle handle) const {
    std::shared_lock const lock(mutex_);
    find(handle, "layout").use->expect_idle();
  }

  /// Makes the layouts of another worker known, all of them.
  void add_worker(std::vector<remote::ImportedLayout> layouts) {
    std::unique_lock const lock(mutex_);
    for (auto& imported : layouts) {
      imported.endpoint.use = std::make_shared<transfer::LayoutUse>(to_string(imported.handle));
      layout::LayoutHandle const handle = imported.handle;
      remote_.insert_or_assign(handle, std::move(imported));
    }
  }

  /// Forgets all layouts of another worker. @throws Error(Busy) transfers in flight use one
  std::vector<layout::LayoutHandle> remove_worker(std::uint64_t worker_id) {
    std::unique_lock const lock(mutex_);
    auto const begin = remote_.lower_bound({worker_id, 0});
    auto end = begin;
    for (; end != remote_.end() && end->first.worker_id() == worker_id; ++end) {
      end->second.endpoint.use->expect_idle();
    }
    std::vector<layout::LayoutHandle> removed;
    for (auto at = begin; at != end; ++at) {
      at->second.endpoint.use->retire([] {});
      removed.push_back(at->first);
    }
    remote_.erase(begin, end);
    return removed;
  }

  /// Another worker takes a layout back: it goes at once, `gone` is called once nothing uses it.
  void retire(layout::LayoutHandle handle, std::function<void()> gone) {
    std::shared_ptr<transfer::LayoutUse> use;
    {
      std::unique_lock const lock(mutex_);
      if (auto const found = remote_.find(handle); found != remote_.end()) {
        use = found->second.endpoint.use;
        remote_.erase(found);
      }
    }
    if (use != nullptr) {
      use->retire(std::move(gone));
    } else {
      gone();
    }
  }

  /// Another worker's layout. @throws Error(NotFound)
  [[nodiscard]] remote::ImportedLayout get_imported(layout::LayoutHandle handle) const {
    std::shared_lock const lock(mutex_);
    auto const found = remote_.find(handle);
    KVBM_EXPECTS(found != remote_.end(), NotFound,
                 fmt::format("{} is no layout of an imported worker", to_string(handle)));
    return found->second;
  }

  /// Handles of a worker's layouts in a tier, ascending; this one's too.
  [[nodiscard]] std::vector<layout::LayoutHandle> find_tier(
      std::uint64_t worker_id, remote::LogicalLayoutHandle tier) const {
    std::shared_lock const lock(mutex_);
    std::vector<layout::LayoutHandle> handles;
    if (worker_id == worker_id_) {
      for (auto const& [id, entry] : entries_) {
        if (remote::tier_of(entry.layout.storage_kind()) == tier) {
          handles.emplace_back(worker_id_, id);
        }
      }
      return handles;
    }
    for (auto at = remote_.lower_bound({worker_id, 0});
         at != remote_.end() && at->first.worker_id() == worker_id; ++at) {
      if (at->second.tier == tier) { handles.push_back(at->first); }
    }
    return handles;
  }

  /// Handles of all imported layouts, ascending.
  [[nodiscard]] std::vector<layout::LayoutHandle> imported_handles() const {
    std::shared_lock const lock(mutex_);
    std::vector<layout::LayoutHandle> handles;
    handles.reserve(remote_.size());
    for (auto const& [handle, imported] : remote_) {
      handles.push_back(handle);
    }
    return handles;
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
    if (handle.worker_id() != worker_id_) {
      auto const imported = remote_.find(handle);
      KVBM_EXPECTS(imported != remote_.end(), NotFound,
                   fmt::format("{} handle {} belongs to another manager, and no imported metadata "
                               "names it (any more); this one is worker {}",
                               role, to_string(handle), worker_id_));
      return imported->second.endpoint;
    }
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
  std::map<layout::LayoutHandle, remote::ImportedLayout> remote_;  ///< of imported workers
};

}  // namespace kvbm::manager
