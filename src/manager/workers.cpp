// SPDX-License-Identifier: Apache-2.0
//
// The part of the manager that deals with other workers.
#include <fmt/format.h>

#include <utility>

#include "kvbm/core/error.hpp"
#include "kvbm/core/log.hpp"
#include "kvbm/manager/transfer_manager.hpp"
#include "manager/manager_impl.hpp"
#include "transfer/context_impl.hpp"

namespace kvbm::manager {

using layout::LayoutHandle;
using remote::LogicalLayoutHandle;

TransferManager::Impl::Turn::Turn(Impl& owner, std::uint64_t worker_id)
    : owner_(owner), worker_id_(worker_id) {
  std::unique_lock lock(owner_.turns_mutex_);
  owner_.turn_ended_.wait(lock, [&] { return !owner_.turns_.contains(worker_id_); });
  owner_.turns_.insert(worker_id_);
}

TransferManager::Impl::Turn::~Turn() {
  std::lock_guard const lock(owner_.turns_mutex_);
  owner_.turns_.erase(worker_id_);
  owner_.turn_ended_.notify_all();
}

void TransferManager::Impl::join(remote::RemoteOptions options) {
  remote::RemoteHooks hooks;
  // The worker's threads have ended before the registry goes: see the destructor.
  hooks.use_layout = [this](LayoutHandle handle) -> remote::RemoteHooks::LayoutInUse {
    auto endpoint = registry_.get(handle, "image");
    auto lease = std::make_shared<transfer::LayoutUseLease>(endpoint.use);
    return {std::move(endpoint.layout), std::move(lease)};
  };
  hooks.retire_layout = [this](LayoutHandle handle, std::function<void()> gone) {
    plans_.forget(handle);
    registry_.retire(handle, std::move(gone));
    plans_.forget(handle);
  };
  remote_ = std::make_unique<remote::RemoteWorker>(context_, std::move(options), std::move(hooks));
}

remote::RemoteWorker& TransferManager::Impl::remote() const {
  if (remote_ == nullptr) {
    throw UnsupportedError(
        "this manager knows no other workers: build it with nixl_backend(\"ucx\")");
  }
  return *remote_;
}

layout::PhysicalLayout TransferManager::Impl::reachable(LayoutHandle handle) const {
  auto endpoint = registry_.get(handle, "layout");
  if (endpoint.is_remote()) {
    throw UnsupportedError(
        fmt::format("{} is memory of {}, which this process does not reach: ask "
                    "that worker, or copy the blocks here first",
                    to_string(handle), endpoint.peer->name()));
  }
  return std::move(endpoint.layout);
}

remote::LogicalLayoutDescriptor TransferManager::build_logical_descriptor(
    LayoutHandle handle, LogicalLayoutHandle tier) const {
  KVBM_EXPECTS(handle.worker_id() == worker_id(), NotFound,
               fmt::format("{} is no layout of this worker {}", to_string(handle), worker_id()));
  auto const layout = this->layout(handle);
  auto const expected = remote::tier_of(layout.storage_kind());
  KVBM_EXPECTS(tier == expected, InvalidArgument,
               fmt::format("{} is {} storage, which is tier {}, not {}", to_string(handle),
                           memory::to_string(layout.storage_kind()), remote::to_string(expected),
                           remote::to_string(tier)));
  return remote::describe_layout(handle, layout);
}

remote::WorkerAddress TransferManager::worker_address() const { return impl_->remote().address(); }

remote::SerializedLayout TransferManager::export_metadata() const {
  std::vector<LayoutHandle> handles;
  for (LayoutHandle const handle : this->handles()) {
    if (memory::is_memory(layout(handle).storage_kind())) {
      handles.push_back(handle);
    } else {
      log::write(log::Level::Info,
                 fmt::format("{} is not exported: no other worker reaches its storage",
                             to_string(handle)));
    }
  }
  return export_metadata(handles);
}

remote::SerializedLayout TransferManager::export_metadata(
    std::span<LayoutHandle const> handles) const {
  auto& remote = impl_->remote();
  std::vector<std::pair<LayoutHandle, layout::PhysicalLayout>> layouts;
  for (LayoutHandle const handle : handles) {
    KVBM_EXPECTS(handle.worker_id() == worker_id(), NotFound,
                 fmt::format("{} is no layout of this worker {}", to_string(handle), worker_id()));
    layouts.emplace_back(handle, layout(handle));
  }
  return remote.export_layouts(layouts);
}

std::uint64_t TransferManager::import_metadata(std::span<std::byte const> metadata) {
  return import_metadata(remote::SerializedLayout::from_bytes(metadata));
}

std::uint64_t TransferManager::import_metadata(remote::SerializedLayout const& metadata) {
  auto& remote = impl_->remote();
  Impl::Turn const turn(*impl_, metadata.worker_id);
  remote.import_worker(metadata, [this](std::vector<remote::ImportedLayout> layouts) {
    impl_->registry_.add_worker(std::move(layouts));
  });
  return metadata.worker_id;
}

void TransferManager::unimport_worker(std::uint64_t worker_id) {
  auto& remote = impl_->remote();
  Impl::Turn const turn(*impl_, worker_id);
  for (LayoutHandle const handle : impl_->registry_.remove_worker(worker_id)) {
    impl_->plans_.forget(handle);
  }
  impl_->context_->impl().close_lane(worker_id);
  remote.forget_worker(worker_id);
}

std::vector<std::uint64_t> TransferManager::imported_workers() const {
  return impl_->remote().workers();
}

std::vector<LayoutHandle> TransferManager::imported_handles() const {
  return impl_->registry_.imported_handles();
}

std::string TransferManager::how_reached(LayoutHandle handle) const {
  return impl_->registry_.get_imported(handle).way;
}

LayoutHandle TransferManager::resolve(std::uint64_t worker_id, LogicalLayoutHandle tier) const {
  auto const handles = impl_->registry_.find_tier(worker_id, tier);
  KVBM_EXPECTS(!handles.empty(), NotFound,
               fmt::format("worker {} has no layout in tier {} that this one knows; was its "
                           "metadata imported?",
                           worker_id, remote::to_string(tier)));
  return handles.front();
}

remote::WriteNotices TransferManager::subscribe_write_notifications() {
  return impl_->remote().subscribe();
}

remote::RemoteStats TransferManager::remote_stats() const { return impl_->remote().stats(); }

}  // namespace kvbm::manager
