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
#include "transfer/file_workers.hpp"

namespace kvbm::transfer {

/// Which pool of a device's streams.
enum class Direction { HostToDevice, DeviceToHost, DeviceToDevice };

/// The state behind TransferContext. Members are destroyed in the reverse of the order in which
/// work flows: workers first, then streams, then events.
class TransferContext::Impl {
 public:
  explicit Impl(ContextOptions options);
  ~Impl();
  Impl(Impl const&) = delete;
  Impl& operator=(Impl const&) = delete;

  /// The next stream of a device's pool. @throws Error(NotFound)
  device::StreamPtr acquire_stream(DeviceId device, Direction direction);
  /// First device: its streams serve host work that has to wait.
  [[nodiscard]] DeviceId first_device() const { return options_.devices.front()->id(); }

  /// Counts work that the destructor has to wait for.
  void begin_work();
  void end_work() noexcept;

  ContextOptions options_;

 private:
  std::mutex mutex_;
  std::condition_variable idle_;
  std::uint64_t in_flight_ = 0;

 public:
  kernels::CopyEngine copy_engine_;
  struct DeviceStreams {
    device::StreamPool h2d;
    device::StreamPool d2h;
    device::StreamPool d2d;
  };
  std::unique_ptr<device::MemoryPool> memory_pool_;
  std::map<DeviceId, DeviceStreams> streams_;
  BlockLeases block_leases_;
  std::unique_ptr<FileWorkers> file_workers_;
};

}  // namespace kvbm::transfer
