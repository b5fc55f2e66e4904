// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "kvbm/core/types.hpp"
#include "kvbm/layout/handle.hpp"
#include "kvbm/layout/physical_layout.hpp"
#include "kvbm/memory/disk_io.hpp"
#include "kvbm/remote/metadata.hpp"
#include "kvbm/remote/notices.hpp"
#include "kvbm/remote/tier.hpp"
#include "kvbm/transfer/context.hpp"
#include "kvbm/transfer/integrity.hpp"
#include "kvbm/transfer/kv_blocks.hpp"
#include "kvbm/transfer/notification.hpp"
#include "kvbm/transfer/options.hpp"
#include "kvbm/transfer/prepared_transfer.hpp"
#include "kvbm/transfer/statistics.hpp"

namespace kvbm::manager {

/// How often execute_transfer and prepare_transfer found their plan ready.
struct PlanCacheStats {
  std::uint64_t hits = 0;
  std::uint64_t misses = 0;
  std::size_t entries = 0;   ///< kept now
  std::size_t capacity = 0;  ///< kept at most
};

/// What a manager counts.
struct ManagerStats {
  transfer::TransferStats transfers;
  PlanCacheStats plan_cache;
  device::MemoryPoolStats memory_pool;        ///< the first device's temporaries
  std::size_t num_layouts = 0;                ///< registered now
  std::size_t num_pending_events = 0;         ///< of the event system, now
  std::optional<remote::RemoteStats> remote;  ///< with a NIXL backend
};

/// The one door: registers layouts and moves blocks between them.
///
/// Threads  all methods may be called concurrently.
/// Lifetime movable; the destructor waits for the transfers in flight.
/// Order    two transfers are ordered only where one waited for the other's notification, by
///          wait_for / record_on, or by one caller's stream; a transfer that overwrites blocks
///          another one still reads is the caller's race.
class TransferManager {
 public:
  class Builder;
  static Builder builder();

  TransferManager(TransferManager const&) = delete;
  TransferManager& operator=(TransferManager const&) = delete;
  TransferManager(TransferManager&&) noexcept;
  TransferManager& operator=(TransferManager&&) noexcept;
  ~TransferManager();

  /// Random, unique per event system and process instance.
  [[nodiscard]] std::uint64_t worker_id() const noexcept;

  /// Where layouts get their memory: PhysicalLayout::builder(manager.memory_source()).
  [[nodiscard]] std::shared_ptr<memory::MemorySource> const& memory_source() const noexcept;
  /// Starts a layout on this manager's memory.
  [[nodiscard]] layout::PhysicalLayoutBuilder<false, false, false> layout_builder() const;

  /// Makes a layout known under a new handle; ids count 0, 1, 2, ... and are reused only after
  /// every other. @throws Error(OutOfRange) the 65,537th layout at a time
  layout::LayoutHandle register_layout(layout::PhysicalLayout const& layout);
  /// Forgets a layout (its memory lives while others hold the PhysicalLayout). Where its metadata
  /// was exported, the workers that imported it are told first, and have to confirm that nothing of
  /// theirs touches it any more.
  /// @throws Error(NotFound) unknown handle; Error(Busy) transfers in flight use it, or a worker
  ///         did not confirm within remote_timeout: its memory must stay, try again later
  void unregister_layout(layout::LayoutHandle handle);
  /// @throws Error(NotFound) naming the handle: another manager's, stale, or reserved bits set
  [[nodiscard]] layout::PhysicalLayout layout(layout::LayoutHandle handle) const;
  /// Handles of all registered layouts, ascending.
  [[nodiscard]] std::vector<layout::LayoutHandle> handles() const;

  /// Blocks of a registered layout. @throws like layout() and KvBlocks::of
  [[nodiscard]] transfer::KvBlocks blocks(
      layout::LayoutHandle handle, std::vector<BlockId> block_ids,
      std::optional<layout::KvBlockLayout> override_format = {}) const;

  /// Moves src_blocks[i] of `src` to dst_blocks[i] of `dst`, changing format, kind and storage as
  /// needed. Host-to-host copies are done when it returns; everything else goes on behind the
  /// notification. No blocks: ready at once.
  /// @throws Error(NotFound) a handle, naming its role; else like PreparedTransfer::prepare, submit
  transfer::TransferCompleteNotification execute_transfer(
      layout::LayoutHandle src, std::span<BlockId const> src_blocks, layout::LayoutHandle dst,
      std::span<BlockId const> dst_blocks, transfer::TransferOptions const& options = {});
  transfer::TransferCompleteNotification execute_transfer(
      transfer::KvBlocks const& src, transfer::KvBlocks const& dst,
      transfer::TransferOptions const& options = {});

  /// What execute_transfer would do with the same arguments, and why; moves nothing.
  [[nodiscard]] transfer::TransferExplanation explain_transfer(
      layout::LayoutHandle src, std::span<BlockId const> src_blocks, layout::LayoutHandle dst,
      std::span<BlockId const> dst_blocks, transfer::TransferOptions const& options = {}) const;
  [[nodiscard]] transfer::TransferExplanation explain_transfer(
      transfer::KvBlocks const& src, transfer::KvBlocks const& dst,
      transfer::TransferOptions const& options = {}) const;

  /// Does everything but the block ids once. Kept for the next call with the same handles and
  /// options, most recently used first; options with streams, events, a token or a bounce buffer
  /// belong to one call and are not.
  [[nodiscard]] transfer::PreparedTransfer prepare_transfer(
      layout::LayoutHandle src, layout::LayoutHandle dst,
      transfer::TransferOptions const& options = {}) const;

  [[nodiscard]] PlanCacheStats plan_cache_stats() const;
  /// Everything that this manager has counted since it was made; each part is exact by itself.
  [[nodiscard]] ManagerStats statistics() const;
  /// A function that answers like statistics() for as long as the manager lives, wherever it was
  /// moved, and with nullopt afterwards; the destructor waits for an answer that is under way.
  [[nodiscard]] std::function<std::optional<ManagerStats>()> statistics_source() const;

  /// Checksums and fills of registered layouts; see transfer/integrity.hpp.
  [[nodiscard]] std::vector<Checksum> block_checksums(layout::LayoutHandle handle,
                                                      std::span<BlockId const> block_ids) const;
  [[nodiscard]] std::vector<Checksum> layer_checksums(layout::LayoutHandle handle,
                                                      std::span<BlockId const> block_ids) const;
  void fill_blocks(layout::LayoutHandle handle, std::span<BlockId const> block_ids,
                   transfer::FillPattern const& pattern);

  /// Makes a disk layout's written blocks survive power loss; nothing to do for others.
  void sync(layout::LayoutHandle handle);

  /// What a peer needs to reach a layout of this worker, with the tier that it is.
  /// @throws Error(NotFound) no layout of this worker; Error(InvalidArgument) naming the tier that
  ///         the layout's storage is
  [[nodiscard]] remote::LogicalLayoutDescriptor build_logical_descriptor(
      layout::LayoutHandle handle, remote::LogicalLayoutHandle tier) const;
  /// How the wire reaches this worker. @throws UnsupportedError without a NIXL backend, as all of
  ///         the following
  [[nodiscard]] remote::WorkerAddress worker_address() const;
  /// Everything that peers need to use these layouts; all layouts in memory by default.
  /// @throws UnsupportedError one of the handles is no memory; Error(NotFound)
  [[nodiscard]] remote::SerializedLayout export_metadata() const;
  [[nodiscard]] remote::SerializedLayout export_metadata(
      std::span<layout::LayoutHandle const> handles) const;
  /// Meets the worker whose metadata this is: its handles can be used like this worker's own. Its
  /// memory is mapped where both run on one machine and it shares it, else reached through NIXL.
  /// @param metadata  untrusted  @return the worker's id
  /// @throws like SerializedLayout::from_bytes; Error(AlreadyExists) imported already; PeerError
  std::uint64_t import_metadata(std::span<std::byte const> metadata);
  std::uint64_t import_metadata(remote::SerializedLayout const& metadata);
  /// Forgets a worker and its handles; it can be imported again. Unknown ones are fine.
  /// @throws Error(Busy) transfers in flight use its layouts
  void unimport_worker(std::uint64_t worker_id);
  /// Workers that are imported now.
  [[nodiscard]] std::vector<std::uint64_t> imported_workers() const;
  /// Handles of all imported layouts, ascending.
  [[nodiscard]] std::vector<layout::LayoutHandle> imported_handles() const;
  /// How an imported layout's memory is reached, in words, and why not better.
  [[nodiscard]] std::string how_reached(layout::LayoutHandle handle) const;
  /// The layout that a worker has in a tier: this worker's or an imported one's; the first one if
  /// there are several. @throws Error(NotFound) naming worker and tier
  [[nodiscard]] layout::LayoutHandle resolve(std::uint64_t worker_id,
                                             remote::LogicalLayoutHandle tier) const;
  /// Starts to receive the write notifications of peers' transfers into this worker's memory.
  [[nodiscard]] remote::WriteNotices subscribe_write_notifications();
  [[nodiscard]] remote::RemoteStats remote_stats() const;

  /// Streams, devices, events, copy threads.
  [[nodiscard]] transfer::TransferContext& context() const noexcept;

 private:
  class Impl;
  explicit TransferManager(std::shared_ptr<Impl> impl);
  std::shared_ptr<Impl> impl_;
};

/// Collects what a manager is made of. Defaults: one host device of 4 GiB.
class TransferManager::Builder {
 public:
  Builder();
  ~Builder();
  Builder(Builder const&) = delete;
  Builder& operator=(Builder const&) = delete;
  Builder(Builder&&) noexcept;
  Builder& operator=(Builder&&) noexcept;

  /// Use a NIXL backend ("ucx", "posix", ...; any case), any number of times. With the first one
  /// the manager becomes a worker among others, and its memory can be mapped by processes of the
  /// same user on this machine. build() throws UnsupportedError where NIXL or the backend does not
  /// load, and says what to install.
  Builder& nixl_backend(std::string name, std::map<std::string, std::string> parameters = {});
  /// libnixl_capi.so; by default looked for, see remote/nixl_library.hpp.
  Builder& nixl_library(std::filesystem::path path);
  /// Name of this worker's NIXL agent, unique among those that meet; default made of worker_id.
  Builder& agent_name(std::string name);
  /// Host memory that peers may borrow to exchange blocks as dense images; default 64 MiB, 0: none.
  /// A transfer borrows 16 MiB at most (or four blocks, if those are more), and waits its turn.
  Builder& landing_bytes(std::uint64_t bytes);
  /// Of transfers with peers that name no timeout of their own, and for answers; default 30 s.
  Builder& remote_timeout(std::chrono::nanoseconds timeout);
  /// Whether memory of peers on this machine is mapped (default), or reached through NIXL as well.
  Builder& map_peer_memory(bool map);
  /// Use this CUDA device; several calls, several devices, the first one's streams are the pools.
  /// build() throws UnsupportedError "no CUDA device: <reason>" without.
  Builder& cuda_device_id(DeviceId id);
  /// Use `count` emulated devices (ids 0 to count - 1) of `memory_bytes` each.
  Builder& host_device(unsigned count = 1, std::uint64_t memory_bytes = std::uint64_t{4} << 30U);
  /// Use these devices, e.g. ones shared with an engine in the same process.
  Builder& devices(std::vector<device::DevicePtr> devices);
  Builder& cuda_pool_reserve_size(std::uint64_t bytes);  ///< default 64 MiB
  Builder& cuda_pool_release_threshold(
      std::optional<std::uint64_t> bytes);  ///< default 64 MiB; nullopt = keep all
  Builder& capabilities(transfer::TransferCapabilities const& capabilities);
  Builder& preferences(transfer::TransferPreferences const& preferences);
  Builder& event_system(std::shared_ptr<transfer::EventSystem> system);  ///< default its own
  Builder& num_streams(std::size_t h2d, std::size_t d2h);                ///< default 4 and 4
  Builder& copy_threads(unsigned count);                                 ///< default all CPUs
  Builder& file_workers(unsigned count);                                 ///< default 2
  Builder& staging_bytes(std::uint64_t bytes_per_worker);                ///< default 32 MiB
  Builder& cost_model(transfer::CostModel const& costs);
  /// default device::direct_storage(), asked where capabilities allow it
  Builder& direct_storage(std::shared_ptr<device::DirectStorage> storage);
  Builder& plan_cache_capacity(std::size_t count);            ///< default 64
  Builder& disk_io(std::shared_ptr<memory::DiskIo> disk_io);  ///< default memory::make_disk_io()

  /// @throws Error(InvalidArgument) naming a bad value; UnsupportedError
  [[nodiscard]] TransferManager build();

 private:
  struct Draft;
  std::unique_ptr<Draft> draft_;
};

}  // namespace kvbm::manager
