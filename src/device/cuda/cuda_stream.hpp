// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "device/cuda/cuda_context.hpp"
#include "device/cuda/cuda_event.hpp"
#include "device/stream_registry.hpp"
#include "device/stream_state.hpp"
#include "kvbm/device/stream.hpp"

namespace kvbm::device {

/// One cudaStream_t and the thread that runs host work in its order. Outlives its CudaStream as
/// long as host work, or memory that is freed in its order, needs it.
///
/// Host work is a piece for a host stream's thread, which first waits for an event of the GPU;
/// what follows on the GPU waits until the thread has counted a ticket up. The driver's own host
/// functions would neither be allowed to call CUDA nor run side by side.
class CudaStreamState : public std::enable_shared_from_this<CudaStreamState> {
 public:
  /// @param foreign  somebody else's stream, null for the legacy default one; nullopt: a new one
  /// @param worker   runs host work; names the stream
  CudaStreamState(std::shared_ptr<CudaContext> context, std::shared_ptr<StreamState> worker,
                  std::optional<cudaStream_t> foreign);
  ~CudaStreamState();
  CudaStreamState(CudaStreamState const&) = delete;
  CudaStreamState& operator=(CudaStreamState const&) = delete;

  [[nodiscard]] CudaContext const& context() const noexcept { return *context_; }
  [[nodiscard]] std::string const& name() const noexcept { return worker_->name(); }
  [[nodiscard]] cudaStream_t handle() const noexcept { return handle_; }
  [[nodiscard]] bool is_owned() const noexcept { return owned_; }
  [[nodiscard]] std::shared_ptr<StreamState> const& worker() const noexcept { return worker_; }

  void enqueue(std::function<void()> work);
  void record(CudaEvent& event);
  void wait(CudaPoint const& point);
  /// The present end.
  [[nodiscard]] CudaPoint end();
  /// Blocks until that point, and the host work before it, has ended.
  void wait_for(CudaPoint const& end) const;
  [[nodiscard]] bool is_idle() const;
  [[nodiscard]] bool is_capturing() const;
  /// Waits for everything, whatever comes of it.
  void drain() noexcept;

 private:
  [[nodiscard]] CudaPoint next_point();
  // An event at the present end for a piece of host work, and a slot for its ticket; null when the
  // context is lost, and with it all that the work would have to wait for.
  [[nodiscard]] std::shared_ptr<CudaEventHandle const> mark_for_host_work();
  void expect_not_capturing(char const* action) const;

  std::shared_ptr<CudaContext> const context_;
  std::shared_ptr<StreamState> const worker_;
  std::uint64_t const number_;
  bool const owned_;
  cudaStream_t handle_ = nullptr;

  std::mutex mutex_;  // held while something is submitted; then the driver's locks
  std::optional<TicketSlot> slot_;
  std::uint64_t last_ticket_ = 0;
  std::uint64_t position_ = 0;
};

/// The streams of one CUDA device.
class CudaStreamRegistry {
 public:
  void add(std::shared_ptr<CudaStreamState> const& stream);
  /// Blocks until everything enqueued so far has ended.
  void synchronize();
  /// The threads of streams that were destroyed by their own work.
  [[nodiscard]] StreamRegistry& threads() noexcept { return threads_; }

 private:
  std::mutex mutex_;
  std::vector<std::weak_ptr<CudaStreamState>> streams_;
  StreamRegistry threads_;
};

class CudaStream final : public Stream {
 public:
  CudaStream(std::shared_ptr<CudaStreamState> state, std::shared_ptr<CudaStreamRegistry> registry);
  ~CudaStream() override;
  CudaStream(CudaStream const&) = delete;
  CudaStream& operator=(CudaStream const&) = delete;

  [[nodiscard]] Backend backend() const noexcept override { return Backend::Cuda; }
  [[nodiscard]] DeviceId device_id() const noexcept override {
    return state_->context().device_id();
  }
  [[nodiscard]] std::string const& name() const noexcept override { return state_->name(); }
  void enqueue(std::function<void()> work) override;
  void record(EventPtr const& event) override;
  void wait(EventPtr const& event) override;
  void synchronize() override;
  [[nodiscard]] bool is_idle() const override { return state_->is_idle(); }
  [[nodiscard]] bool is_capturing() const override { return state_->is_capturing(); }
  [[nodiscard]] void* native_handle() const noexcept override { return state_->handle(); }

  [[nodiscard]] std::shared_ptr<CudaStreamState> const& state() const noexcept { return state_; }

 private:
  std::shared_ptr<CudaStreamState> state_;
  std::shared_ptr<CudaStreamRegistry> registry_;
};

/// A new stream of `context`, known to `registry`. @throws Error(Device)
StreamPtr make_cuda_stream(std::shared_ptr<CudaContext> context, std::string name,
                           std::shared_ptr<CudaStreamRegistry> registry);

}  // namespace kvbm::device
