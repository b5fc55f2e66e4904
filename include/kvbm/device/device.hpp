// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "kvbm/core/types.hpp"
#include "kvbm/device/memory_pool.hpp"
#include "kvbm/device/stream.hpp"
#include "kvbm/device/stream_pool.hpp"
#include "kvbm/memory/memory_source.hpp"
#include "kvbm/memory/region.hpp"
#include "kvbm/memory/shared_memory.hpp"

namespace kvbm::device {

/// What a device is, for people and for caches of measurements.
struct DeviceProperties {
  std::string uuid;                  ///< "GPU-8c1a...", empty for emulated devices
  std::string pci_address;           ///< "0000:1b:00.0", empty for emulated devices
  unsigned num_multiprocessors = 0;  ///< 0 for emulated devices
  int compute_capability = 0;        ///< 90 is 9.0; 0 for emulated devices
  int driver_version = 0;            ///< as CUDA counts, 13000 is 13.0
  int runtime_version = 0;
};

/// One device: memory, streams, events.
///
/// Threads  safe to use concurrently.
/// Lifetime regions, streams, events and pools may outlive the Device.
class Device : public std::enable_shared_from_this<Device> {
 public:
  Device() = default;
  Device(Device const&) = delete;
  Device& operator=(Device const&) = delete;
  virtual ~Device() = default;

  [[nodiscard]] virtual Backend backend() const noexcept = 0;
  [[nodiscard]] virtual DeviceId id() const noexcept = 0;
  /// "host device 0 (4 GiB)", "NVIDIA H200".
  [[nodiscard]] virtual std::string const& name() const noexcept = 0;
  [[nodiscard]] virtual std::uint64_t total_bytes() const = 0;
  /// Bytes taken by live allocations, in the device's own granularity (whole pages).
  [[nodiscard]] virtual std::uint64_t used_bytes() const = 0;

  /// Memory of this device, zeroed, aligned to a page at least, alive as long as the Region.
  /// @param alignment  power of two
  /// @throws Error(OutOfMemory) naming asked, used and total bytes; Error(InvalidArgument) zero
  ///         bytes, alignment no power of two
  virtual memory::Region allocate(std::uint64_t bytes, std::uint64_t alignment) = 0;
  /// What is known of `address` if it belongs to this device. What has been freed does not. A CUDA
  /// device tells all that the driver knows: also pinned host memory, and memory of other GPUs.
  [[nodiscard]] virtual std::optional<memory::PointerInfo> classify(void const* address) const = 0;
  /// Whether the CPU may dereference this device's memory.
  [[nodiscard]] virtual bool is_host_accessible() const noexcept = 0;
  /// NUMA node near this device, where its pinned memory should be; -1 where unknown.
  [[nodiscard]] virtual int numa_node() const noexcept { return -1; }
  [[nodiscard]] virtual DeviceProperties properties() const { return {}; }
  /// Whether kernels of this device can address memory of device `other`; asking makes it so.
  [[nodiscard]] virtual bool can_address(DeviceId other) { return other == id(); }

  /// Makes host memory reachable by the device's copy engines and kernels for the life of the
  /// returned region, which shares ownership of `host`. CUDA registers it in pieces that are cut at
  /// addresses that are multiples of 64 GiB: no single copy of the driver may span such an address.
  /// @throws Error(OutOfMemory), Error(Device) the driver refuses
  virtual memory::Region pin(memory::Region host) { return host; }

  /// How other processes of this machine can map `region`, memory of this device; valid as long as
  /// that memory lives. nullopt for what they cannot: an emulated device's memory unless it was
  /// made shareable; a GPU's memory of pools, or mapped in pieces (torch's expandable segments). A
  /// GPU shares memory in pages of 2 MiB: with a small region, others reach its neighbours too.
  /// @throws Error(Device)
  [[nodiscard]] virtual std::optional<memory::SharedMemoryName> share(
      memory::Region const& region) const {
    return region.shared_name();
  }
  /// Maps memory that another process shares, `name` from its share(), as memory of this device;
  /// counted in no statistics. An emulated device's lives on when the owner has gone; for a GPU's
  /// the owner must keep it until the region here has ended.
  /// @throws as memory::map_shared; Error(NotFound) memory of another GPU; Error(InvalidArgument) a
  ///         GPU's memory of this very process; Error(Unsupported) the device maps no such memory;
  ///         Error(Device)
  [[nodiscard]] virtual memory::Region open_shared(memory::ProcessName const& owner,
                                                   memory::SharedMemoryName const& name,
                                                   std::uint64_t bytes) = 0;

  /// A new stream of its own. @param name  shown in logs and thread names
  [[nodiscard]] virtual StreamPtr create_stream(std::string name) = 0;
  [[nodiscard]] virtual EventPtr create_event() = 0;
  /// A pool for temporaries; see MemoryPool.
  /// @throws Error(OutOfMemory) the device has less than `reserve_bytes` left
  [[nodiscard]] virtual std::unique_ptr<MemoryPool> create_memory_pool(
      std::uint64_t reserve_bytes, std::uint64_t release_threshold_bytes) = 0;
  /// Calls `callback` on a thread of this device within tens of microseconds after the point that
  /// `event` marks now has ended: with null, or with the error that the device ended in. Callbacks
  /// run one at a time; they must not block, throw, nor wait for this device. Every callback runs,
  /// also after the Device is gone. An event that was wrapped must not be recorded again before.
  /// @throws Error(InvalidArgument) null event or one of another backend, empty callback
  virtual void when_complete(EventPtr const& event,
                             std::function<void(std::exception_ptr)> callback) = 0;
  /// Blocks until everything enqueued so far on any stream of this device has ended.
  /// @throws Error(InvalidArgument) called by work of such a stream, which would wait for itself
  virtual void synchronize() = 0;
};
using DevicePtr = std::shared_ptr<Device>;

/// How emulated devices are made.
struct HostDeviceOptions {
  std::uint64_t memory_bytes = std::uint64_t{4} << 30U;  ///< capacity of each device
  /// Whether other processes of this machine can map its memory; see HostMemoryOptions.
  bool shareable = false;
};

/// One emulated device with id `id`: memory accounting, FIFO stream threads, events, a pool.
/// Memory is taken from the system when it is allocated, not before.
/// @throws Error(InvalidArgument) negative id, no memory
DevicePtr make_host_device(DeviceId id, HostDeviceOptions const& options = {});

/// CUDA device `id`, in its primary context, which it shares with the process's other users of
/// CUDA.
/// @throws UnsupportedError "no CUDA device: <reason>" in a build or on a machine without CUDA;
///         Error(NotFound) naming the ids there are
DevicePtr make_cuda_device(DeviceId id);

/// A Stream over a cudaStream_t that somebody else owns and keeps alive (torch, an engine), also
/// as long as memory that a pool gave out on it lives. Its destructor waits only for host work that
/// was enqueued through it.
/// @param native_handle  null for the legacy default stream
/// @throws UnsupportedError as make_cuda_device; Error(InvalidArgument) a stream of another device
StreamPtr wrap_cuda_stream(DeviceId id, void* native_handle);

/// An Event over a cudaEvent_t that somebody else owns and keeps alive.
/// @throws UnsupportedError as make_cuda_device; Error(InvalidArgument) null
EventPtr wrap_cuda_event(DeviceId id, void* native_handle);

/// Why make_cuda_device would fail here; empty where CUDA devices are present.
std::string cuda_unavailable_reason();

/// System and Pinned memory, files, and the memory of `devices`: what a manager gives to layouts.
/// An address is looked up in the devices first, then in host memory. Shared memory that a device
/// owns is opened by the GPU that it is on, or by the first emulated device.
/// @param shareable  whether other processes of this machine can map the System and Pinned memory;
///                   see HostMemoryOptions. Of the devices' memory they decide themselves.
/// @throws Error(InvalidArgument) two devices with one id, a null device
std::shared_ptr<memory::MemorySource> make_memory_source(
    std::vector<DevicePtr> devices, std::shared_ptr<memory::DiskIo> disk_io = {},
    bool shareable = false);

}  // namespace kvbm::device
