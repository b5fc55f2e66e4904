// SPDX-License-Identifier: Apache-2.0
#include "kvbm/manager/transfer_manager.hpp"

#include <optional>
#include <set>
#include <utility>

#include "manager/manager_impl.hpp"

namespace kvbm::manager {
namespace {

using transfer::Endpoint;
using transfer::KvBlocks;
using transfer::PreparedTransfer;
using transfer::TransferOptions;

Endpoint endpoint_of(Registry const& registry, KvBlocks const& blocks, char const* role) {
  if (!blocks.handle()) { return {blocks.layout(), nullptr}; }
  Endpoint endpoint = registry.get(*blocks.handle(), role);
  endpoint.layout = blocks.layout();
  return endpoint;
}

PreparedTransfer prepare(std::shared_ptr<transfer::TransferContext> const& context,
                         Registry const& registry, Endpoint const& src, Endpoint const& dst,
                         TransferOptions const& options) {
  std::optional<transfer::ResolvedBounce> bounce;
  if (options.bounce_buffer) {
    bounce.emplace(transfer::ResolvedBounce{registry.get(options.bounce_buffer->handle, "bounce"),
                                            options.bounce_buffer->block_ids});
  }
  return PreparedTransfer::prepare(context, src, dst, std::move(bounce), options);
}

}  // namespace

TransferManager::TransferManager(std::shared_ptr<Impl> impl) : impl_(std::move(impl)) {}
TransferManager::TransferManager(TransferManager&&) noexcept = default;
TransferManager& TransferManager::operator=(TransferManager&&) noexcept = default;
TransferManager::~TransferManager() = default;

std::uint64_t TransferManager::worker_id() const noexcept {
  return impl_->context_->event_system()->worker_id();
}

std::shared_ptr<memory::MemorySource> const& TransferManager::memory_source() const noexcept {
  return impl_->context_->memory_source();
}

layout::PhysicalLayoutBuilder<false, false, false> TransferManager::layout_builder() const {
  return layout::PhysicalLayout::builder(memory_source());
}

layout::LayoutHandle TransferManager::register_layout(layout::PhysicalLayout const& layout) {
  auto const handle = impl_->registry_.add(layout);
  if (impl_->remote_ == nullptr) { return handle; }
  try {
    impl_->remote_->add_layout(handle, layout);
  } catch (...) {
    impl_->registry_.remove(handle);
    throw;
  }
  return handle;
}

void TransferManager::unregister_layout(layout::LayoutHandle handle) {
  if (impl_->remote_ != nullptr && handle.worker_id() == worker_id()) {
    impl_->registry_.expect_idle(handle);
    impl_->remote_->remove_layout(handle);
  }
  impl_->registry_.remove(handle);
  impl_->plans_.forget(handle);
}

layout::PhysicalLayout TransferManager::layout(layout::LayoutHandle handle) const {
  return impl_->registry_.get(handle, "layout").layout;
}

std::vector<layout::LayoutHandle> TransferManager::handles() const {
  return impl_->registry_.handles();
}

KvBlocks TransferManager::blocks(layout::LayoutHandle handle, std::vector<BlockId> block_ids,
                                 std::optional<layout::KvBlockLayout> override_format) const {
  return KvBlocks::of(layout(handle), std::move(block_ids), override_format).with_handle(handle);
}

transfer::TransferCompleteNotification TransferManager::execute_transfer(
    layout::LayoutHandle src, std::span<BlockId const> src_blocks, layout::LayoutHandle dst,
    std::span<BlockId const> dst_blocks, TransferOptions const& options) {
  return prepare_transfer(src, dst, options).submit(src_blocks, dst_blocks);
}

transfer::TransferCompleteNotification TransferManager::execute_transfer(
    KvBlocks const& src, KvBlocks const& dst, TransferOptions const& options) {
  return prepare(impl_->context_, impl_->registry_, endpoint_of(impl_->registry_, src, "source"),
                 endpoint_of(impl_->registry_, dst, "destination"), options)
      .submit(src.block_ids(), dst.block_ids());
}

transfer::TransferExplanation TransferManager::explain_transfer(
    layout::LayoutHandle src, std::span<BlockId const> src_blocks, layout::LayoutHandle dst,
    std::span<BlockId const> dst_blocks, TransferOptions const& options) const {
  return prepare_transfer(src, dst, options).explain(src_blocks, dst_blocks);
}

transfer::TransferExplanation TransferManager::explain_transfer(
    KvBlocks const& src, KvBlocks const& dst, TransferOptions const& options) const {
  return prepare(impl_->context_, impl_->registry_, endpoint_of(impl_->registry_, src, "source"),
                 endpoint_of(impl_->registry_, dst, "destination"), options)
      .explain(src.block_ids(), dst.block_ids());
}

PreparedTransfer TransferManager::prepare_transfer(layout::LayoutHandle src,
                                                   layout::LayoutHandle dst,
                                                   TransferOptions const& options) const {
  auto const make = [&] {
    return prepare(impl_->context_, impl_->registry_, impl_->registry_.get(src, "source"),
                   impl_->registry_.get(dst, "destination"), options);
  };
  auto const key = PlanCache::Key::of(src, dst, options);
  return key ? impl_->plans_.get(*key, make) : make();
}

PlanCacheStats TransferManager::plan_cache_stats() const { return impl_->plans_.stats(); }

ManagerStats TransferManager::Impl::statistics() const {
  ManagerStats stats;
  stats.transfers = context_->statistics();
  stats.plan_cache = plans_.stats();
  stats.memory_pool = context_->memory_pool_stats();
  stats.num_layouts = registry_.handles().size();
  stats.num_pending_events = context_->event_system()->num_pending();
  if (remote_ != nullptr) { stats.remote = remote_->stats(); }
  return stats;
}

ManagerStats TransferManager::statistics() const { return impl_->statistics(); }

std::function<std::optional<ManagerStats>()> TransferManager::statistics_source() const {
  return [door = impl_->door_]() -> std::optional<ManagerStats> {
    std::lock_guard const lock(door->mutex);
    if (door->manager == nullptr) { return std::nullopt; }
    return door->manager->statistics();
  };
}

std::vector<Checksum> TransferManager::block_checksums(layout::LayoutHandle handle,
                                                       std::span<BlockId const> block_ids) const {
  return transfer::block_checksums(*impl_->context_, impl_->reachable(handle), block_ids);
}

std::vector<Checksum> TransferManager::layer_checksums(layout::LayoutHandle handle,
                                                       std::span<BlockId const> block_ids) const {
  return transfer::layer_checksums(*impl_->context_, impl_->reachable(handle), block_ids);
}

void TransferManager::fill_blocks(layout::LayoutHandle handle, std::span<BlockId const> block_ids,
                                  transfer::FillPattern const& pattern) {
  transfer::fill_blocks(*impl_->context_, impl_->reachable(handle), block_ids, pattern);
}

void TransferManager::sync(layout::LayoutHandle handle) {
  std::set<std::shared_ptr<memory::BlockStore>> stores;
  auto const layout = this->layout(handle);
  for (auto const& region : layout.regions()) {
    if (region.store() != nullptr) { stores.insert(region.store()); }
  }
  for (auto const& store : stores) {
    store->sync();
  }
}

transfer::TransferContext& TransferManager::context() const noexcept { return *impl_->context_; }

}  // namespace kvbm::manager
