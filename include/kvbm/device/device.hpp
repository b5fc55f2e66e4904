// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "kvbm/core/types.hpp"
#include "kvbm/memory/memory_source.hpp"
#include "kvbm/memory/region.hpp"

namespace kvbm::device {

/// Which implementation is behind a Device.
enum class Backend {
  Host,  ///< ordinary memory and threads behind the same interface; runs on any machine
  Cuda,  ///< an NVIDIA GPU
};

/// "host" or "cuda".
std::string_view to_string(Backend backend) noexcept;

/// A point in a stream's work. Shared by whoever records and whoever waits.
///
/// Never recorded: complete. Recorded again: waits that were enqueued before still mean the former
/// point (CUDA's semantics).
/// Threads  safe to use concurrently.
class Event {
 public:
  virtual ~Event() = default;
  /// Whether the work recorded last has ended.
  [[nodiscard]] virtual bool is_complete() const = 0;
  /// Blocks until the work recorded last has ended.
  virtual void wait() const = 0;
  /// cudaEvent_t of a CUDA event, else nullptr.
  [[nodiscard]] virtual void* native_handle() const noexcept { return nullptr; }
};
using EventPtr = std::shared_ptr<Event>;

/// A FIFO queue of work on one device: pieces run in order, one at a time; streams run side by side.
///
/// Threads  safe to enqueue from several threads; the order is that of the calls.
/// Lifetime the destructor waits for what was enqueued. It may run on the stream's own thread (the
///          last reference dropped inside a piece of work): then it does not wait for itself.
class Stream {
 public:
  virtual ~Stream() = default;
  [[nodiscard]] virtual Backend backend() const noexcept = 0;
  [[nodiscard]] virtual DeviceId device_id() const noexcept = 0;
  [[nodiscard]] virtual std::string const& name() const noexcept = 0;

  /// Runs `work` on a host thread when everything before it ended; what is enqueued after it waits
  /// for it. It must not throw (an exception ends in the log) nor wait for this stream.
  virtual void enqueue(std::function<void()> work) = 0;
  /// Marks the present end of the stream in `event` (an event of the same backend).
  virtual void record(EventPtr const& event) = 0;
  /// What is enqueued after this call waits for the point `event` marks now.
  virtual void wait(EventPtr const& event) = 0;
  /// Blocks the caller until everything enqueued so far has ended.
  virtual void synchronize() = 0;
  /// Whether nothing is enqueued or running.
  [[nodiscard]] virtual bool is_idle() const = 0;
  /// cudaStream_t of a CUDA stream, else nullptr.
  [[nodiscard]] virtual void* native_handle() const noexcept { return nullptr; }
};
using StreamPtr = std::shared_ptr<Stream>;

/// What a memory pool holds right now, in bytes.
struct MemoryPoolStats {
  std::uint64_t reserved_bytes = 0;      ///< held from the device, used or not
  std::uint64_t used_bytes = 0;          ///< handed out
  std::uint64_t peak_used_bytes = 0;
  std::uint64_t num_allocations = 0;     ///< ever
  std::uint64_t num_device_allocations = 0;  ///< how often the pool had to ask the device
};

/// Device memory for temporaries: stream-ordered, reuses what was freed.
///
/// `reserve_bytes` are taken at construction; after a free, free memory beyond `release_threshold`
/// bytes goes back to the device.
/// Threads  safe to use concurrently.
class MemoryPool {
 public:
  virtual ~MemoryPool() = default;
  /// A region that returns to the pool, in the order of `stream`, when its last copy is gone.
  /// @throws Error(OutOfMemory)
  virtual memory::Region allocate(std::uint64_t bytes, StreamPtr const& stream) = 0;
  [[nodiscard]] virtual MemoryPoolStats stats() const = 0;
};

/// One device: memory, streams, events.
/// Threads  safe to use concurrently.
class Device : public std::enable_shared_from_this<Device> {
 public:
  virtual ~Device() = default;
  [[nodiscard]] virtual Backend backend() const noexcept = 0;
  [[nodiscard]] virtual DeviceId id() const noexcept = 0;
  /// "host device 0 (4 GiB)", "NVIDIA H200".
  [[nodiscard]] virtual std::string const& name() const noexcept = 0;
  [[nodiscard]] virtual std::uint64_t total_bytes() const = 0;
  [[nodiscard]] virtual std::uint64_t used_bytes() const = 0;

  /// Memory of this device, zeroed, alive as long as the Region.
  /// @throws Error(OutOfMemory) naming asked, used and total bytes
  virtual memory::Region allocate(std::uint64_t bytes, std::uint64_t alignment) = 0;
  /// What is known of `address` if it belongs to this device.
  [[nodiscard]] virtual std::optional<memory::PointerInfo> classify(void const* address) const = 0;
  /// Whether the CPU may dereference this device's memory.
  [[nodiscard]] virtual bool is_host_accessible() const noexcept = 0;

  /// A new stream of its own. @param name  shown in logs and thread names
  [[nodiscard]] virtual StreamPtr create_stream(std::string name) = 0;
  [[nodiscard]] virtual EventPtr create_event() = 0;
  /// A pool for temporaries; see MemoryPool.
  [[nodiscard]] virtual std::unique_ptr<MemoryPool> create_memory_pool(
      std::uint64_t reserve_bytes, std::uint64_t release_threshold_bytes) = 0;
  /// Blocks until all streams of this device are idle.
  virtual void synchronize() = 0;
};
using DevicePtr = std::shared_ptr<Device>;

/// How emulated devices are made.
struct HostDeviceOptions {
  std::uint64_t memory_bytes = std::uint64_t{4} << 30U;  ///< capacity of each device
};

/// One emulated device with id `id`: memory accounting, FIFO stream threads, events, a pool.
DevicePtr make_host_device(DeviceId id, HostDeviceOptions const& options = {});

/// CUDA device `id`.
/// @throws UnsupportedError "no CUDA device: <reason>" in a build or on a machine without CUDA
DevicePtr make_cuda_device(DeviceId id);

/// Why make_cuda_device would fail here; empty where CUDA devices are present.
std::string cuda_unavailable_reason();

/// Hands out a fixed set of streams, round robin.
/// Threads  safe to use concurrently.
class StreamPool {
 public:
  /// @param count  >= 1  @throws Error(InvalidArgument)
  StreamPool(Device& device, std::string const& name, std::size_t count);
  /// The next stream in turn; the pool keeps it too.
  [[nodiscard]] StreamPtr acquire();
  [[nodiscard]] std::size_t size() const noexcept { return streams_.size(); }
  [[nodiscard]] std::vector<StreamPtr> const& streams() const noexcept { return streams_; }

 private:
  std::vector<StreamPtr> streams_;
  std::shared_ptr<std::atomic<std::size_t>> next_;
};

/// System and Pinned memory, files, and the memory of `devices`: what a manager gives to layouts.
/// @throws Error(InvalidArgument) two devices with one id
std::shared_ptr<memory::MemorySource> make_memory_source(std::vector<DevicePtr> devices);

}  // namespace kvbm::device
