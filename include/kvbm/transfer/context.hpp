// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "kvbm/device/device.hpp"
#include "kvbm/device/direct_storage.hpp"
#include "kvbm/kernels/copy_engine.hpp"
#include "kvbm/memory/memory_source.hpp"
#include "kvbm/transfer/event_system.hpp"
#include "kvbm/transfer/statistics.hpp"
#include "kvbm/transfer/strategy.hpp"

namespace kvbm::transfer {

/// How a context is built.
struct ContextOptions {
  std::vector<device::DevicePtr> devices;  ///< at least one; the first one's streams are the pools
  std::shared_ptr<EventSystem> event_system;            ///< null: its own
  std::shared_ptr<memory::MemorySource> memory_source;  ///< null: made from the devices
  TransferCapabilities capabilities;
  TransferPreferences preferences;
  CostModel costs;
  kernels::CopyEngineOptions copy_engine;
  std::size_t num_h2d_streams = 4;
  std::size_t num_d2h_streams = 4;
  std::uint64_t pool_reserve_bytes = std::uint64_t{64} << 20U;
  std::uint64_t pool_release_threshold_bytes = std::uint64_t{64} << 20U;
  unsigned num_file_workers = 2;  ///< threads for files, and as many for object stores
  std::uint64_t staging_bytes_per_worker = std::uint64_t{32}
                                           << 20U;  ///< grows to two blocks if those are larger
  /// GPUDirect Storage, asked only where capabilities.allow_gds is set; null: this process's own.
  std::shared_ptr<device::DirectStorage> direct_storage = {};
  /// Of transfers from and to other workers that name no timeout of their own.
  std::chrono::nanoseconds remote_timeout = std::chrono::seconds(30);
};

/// What transfers run on: devices, streams, copy threads, file workers, events.
///
/// Threads  all methods may be called concurrently.
/// Lifetime the destructor waits for everything in flight.
class TransferContext {
 public:
  explicit TransferContext(ContextOptions options);
  ~TransferContext();
  TransferContext(TransferContext const&) = delete;
  TransferContext& operator=(TransferContext const&) = delete;

  /// The next stream of the pool, round robin; shared with the transfers that use the pool.
  [[nodiscard]] device::StreamPtr acquire_h2d_stream();
  [[nodiscard]] device::StreamPtr acquire_d2h_stream();
  [[nodiscard]] device::StreamPtr acquire_d2d_stream();
  /// A stream of `id`'s own pool. @throws Error(NotFound)
  [[nodiscard]] device::DevicePtr device(DeviceId id) const;
  [[nodiscard]] std::vector<device::DevicePtr> const& devices() const noexcept;
  [[nodiscard]] std::shared_ptr<EventSystem> const& event_system() const noexcept;
  [[nodiscard]] std::shared_ptr<memory::MemorySource> const& memory_source() const noexcept;
  [[nodiscard]] kernels::CopyEngine& copy_engine() noexcept;
  [[nodiscard]] device::MemoryPoolStats memory_pool_stats() const;
  /// What the transfers came to so far.
  [[nodiscard]] TransferStats statistics() const;
  [[nodiscard]] ContextOptions const& options() const noexcept;

  class Impl;
  /// For this room's own sources.
  [[nodiscard]] Impl& impl() noexcept { return *impl_; }

 private:
  std::unique_ptr<Impl> impl_;
};

}  // namespace kvbm::transfer
