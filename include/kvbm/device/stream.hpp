// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "kvbm/core/types.hpp"

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
/// Lifetime independent of stream and device: what was recorded ends even after they are gone.
class Event {
 public:
  Event() = default;
  Event(Event const&) = delete;
  Event& operator=(Event const&) = delete;
  virtual ~Event() = default;

  /// Whether the work recorded last has ended. Once true, its effects are visible to the caller.
  [[nodiscard]] virtual bool is_complete() const = 0;
  /// Blocks until the work recorded last has ended.
  /// @throws Error(InvalidArgument) called by that very work, which would wait for itself;
  ///         Error(Device) the device failed
  virtual void wait() const = 0;
  /// cudaEvent_t of a CUDA event, else nullptr. Recording the event again through a Stream may
  /// replace it: ask again then.
  [[nodiscard]] virtual void* native_handle() const noexcept { return nullptr; }
  [[nodiscard]] Backend backend() const noexcept {
    return native_handle() != nullptr ? Backend::Cuda : Backend::Host;
  }
};
using EventPtr = std::shared_ptr<Event>;

/// A FIFO queue of work on one device: pieces run in order, one at a time; streams run side by
/// side.
///
/// Threads  safe to enqueue from several threads, also from inside work; the order is that of the
///          calls.
/// Lifetime the destructor waits for what was enqueued. It may run on the stream's own thread (the
///          last reference dropped inside a piece of work): then it does not wait for itself, and
///          what is still enqueued runs nevertheless.
class Stream {
 public:
  Stream() = default;
  Stream(Stream const&) = delete;
  Stream& operator=(Stream const&) = delete;
  virtual ~Stream() = default;

  [[nodiscard]] virtual Backend backend() const noexcept = 0;
  [[nodiscard]] virtual DeviceId device_id() const noexcept = 0;
  [[nodiscard]] virtual std::string const& name() const noexcept = 0;

  /// Runs `work` on a host thread when everything before it ended; what is enqueued after it waits
  /// for it. It must not throw (an exception ends in the log) nor wait for this stream. `work` is
  /// destroyed, with what it holds, before it counts as ended. On a GPU the stream stands still
  /// meanwhile, and so may streams of the same priority that share its hardware queue, and calls
  /// that wait for the whole GPU (cudaFree, the first launch of a kernel): work must not wait for
  /// what is submitted later. After an error of the GPU work runs nevertheless.
  /// @throws Error(InvalidArgument) empty function; Error(Device) no thread could be started;
  ///         UnsupportedError the stream is being captured into a CUDA graph
  virtual void enqueue(std::function<void()> work) = 0;
  /// Marks the present end of the stream in `event` (an event of the same backend, any device).
  /// @throws Error(InvalidArgument) null event or one of another backend
  virtual void record(EventPtr const& event) = 0;
  /// What is enqueued after this call waits for the point `event` marks now.
  /// @throws Error(InvalidArgument) null event or one of another backend
  virtual void wait(EventPtr const& event) = 0;
  /// Blocks the caller until everything enqueued so far has ended.
  /// @throws Error(InvalidArgument) called by work of this stream, which would wait for itself;
  ///         Error(Device) the device failed
  virtual void synchronize() = 0;
  /// Whether nothing is enqueued or running.
  [[nodiscard]] virtual bool is_idle() const = 0;
  /// Whether what is enqueued goes into a CUDA graph instead of running.
  [[nodiscard]] virtual bool is_capturing() const { return false; }
  /// cudaStream_t of a CUDA stream, else nullptr.
  [[nodiscard]] virtual void* native_handle() const noexcept { return nullptr; }
};
using StreamPtr = std::shared_ptr<Stream>;

}  // namespace kvbm::device
