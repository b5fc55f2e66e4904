// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <vector>

#include "kvbm/transfer/context.hpp"
#include "transfer/block_leases.hpp"
#include "transfer/device_storage.hpp"
#include "transfer/pipeline_workers.hpp"
#include "transfer/quarantine.hpp"
#include "transfer/transfer_counters.hpp"

namespace kvbm::transfer {

/// Threads that run pipelines of one kind, so that what is slow or stopped holds up nobody else.
struct Lane {
  enum class Kind {
    Local,    ///< files and paths between memories
    Objects,  ///< object stores
    Peer,     ///< from and to another worker
  };
  Kind kind = Kind::Local;
  std::uint64_t worker_id = 0;  ///< Peer: whose
  friend auto operator<=>(Lane const&, Lane const&) = default;
};

/// The state behind TransferContext. Members are destroyed in the reverse of the order in which
/// work flows: workers first, then streams, then events.
class TransferContext::Impl {
 public:
  explicit Impl(ContextOptions options);
  ~Impl();
  Impl(Impl const&) = delete;
  Impl& operator=(Impl const&) = delete;

  /// The next stream of a device's pool. @throws Error(NotFound)
  device::StreamPtr acquire_stream(DeviceId device, LinkDirection direction);
  /// @throws Error(NotFound)
  [[nodiscard]] device::DevicePtr const& device(DeviceId id) const;
  /// Temporaries of a device. @throws Error(NotFound)
  [[nodiscard]] device::MemoryPool& memory_pool(DeviceId id);
  /// A device whose streams and events work together with `backend`'s; null if there is none.
  [[nodiscard]] device::Device* device_of(device::Backend backend) const noexcept;
  /// A stream that no caller ever sees.
  device::StreamPtr acquire_inner_stream(DeviceId device, LinkDirection direction);
  /// First device: its streams serve host work that has to wait.
  [[nodiscard]] DeviceId first_device() const { return options_.devices.front()->id(); }

  /// Counts work that the destructor has to wait for.
  void begin_work();
  void end_work() noexcept;

  ContextOptions options_;
  TransferCounters counters_;

 private:
  std::mutex mutex_;
  std::condition_variable idle_;
  std::uint64_t in_flight_ = 0;

 public:
  kernels::CopyEngine copy_engine_;
  struct PerDevice {
    std::unique_ptr<device::MemoryPool> memory_pool;
    device::StreamPool h2d;
    device::StreamPool d2h;
    device::StreamPool d2d;
    // Helpers within a transfer and hops of pipelines: never handed out, so that nobody can hold
    // a stream that somebody's transfer needs before it can let go.
    device::StreamPool inner_h2d;
    device::StreamPool inner_d2h;
  };
  [[nodiscard]] PerDevice& per_device(DeviceId id);
  std::map<DeviceId, PerDevice> per_device_;
  BlockLeases block_leases_;
  /// GPUDirect Storage; the first call may take a while. Never null.
  [[nodiscard]] device::DirectStorage& direct_storage();
  /// The same for one device's memory. @pre direct_storage() is not Refused
  [[nodiscard]] DeviceStorage& device_storage(DeviceId id);
  std::shared_ptr<Quarantine> quarantine_ = std::make_shared<Quarantine>();

  /// Has a lane's own threads run it.
  void post_to_lane(Lane lane, int priority, PipelineWorkers::Job job);
  /// Ends a peer's threads after what is queued. Not to be called from one of them.
  void close_lane(std::uint64_t worker_id);

 private:
  std::mutex lanes_mutex_;
  std::mutex storage_mutex_;
  std::map<DeviceId, DeviceStorage> storage_;
  std::map<Lane, std::unique_ptr<PipelineWorkers>> lanes_;
};

}  // namespace kvbm::transfer
