// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string_view>
#include <vector>

#include "device/cuda/cuda_driver.hpp"
#include "device/cuda/cuda_error.hpp"
#include "kvbm/core/types.hpp"

namespace kvbm::device {

/// A 64-bit counter in pinned memory that a GPU can wait for. It only ever grows, also from one
/// owner to the next: a wait that a GPU still has before it when its owner goes remains fulfilled.
struct TicketSlot {
  std::uint64_t* host = nullptr;
  CUdeviceptr device = 0;

  [[nodiscard]] std::uint64_t load() const noexcept {
    return std::atomic_ref<std::uint64_t>(*host).load(std::memory_order_acquire);
  }
  void store(std::uint64_t ticket) const noexcept {
    std::atomic_ref<std::uint64_t>(*host).store(ticket, std::memory_order_release);
  }
};

/// The primary context of one GPU, which all users of CUDA in the process share, and what its
/// streams need of it. One per GPU and process; kept alive by whatever was made in it.
class CudaContext {
 public:
  CudaContext(DeviceId device_id, CUcontext handle) : device_id_(device_id), handle_(handle) {}
  CudaContext(CudaContext const&) = delete;
  CudaContext& operator=(CudaContext const&) = delete;
  /// Leaves the context and the pinned pages of the tickets to the process: freeing pinned memory
  /// waits for the GPU, and at the end of the process CUDA may be gone already.
  ~CudaContext() = default;

  [[nodiscard]] DeviceId device_id() const noexcept { return device_id_; }
  [[nodiscard]] CUcontext handle() const noexcept { return handle_; }

  void check(std::string_view call, cudaError_t status) const {
    check_cuda(device_id_, call, status);
  }
  /// A number that no other stream of this context had.
  [[nodiscard]] std::uint64_t next_stream_number() noexcept { return ++last_stream_number_; }
  [[nodiscard]] TicketSlot take_ticket_slot();
  void give_back(TicketSlot slot) noexcept;

 private:
  DeviceId const device_id_;
  CUcontext const handle_;
  std::atomic<std::uint64_t> last_stream_number_{0};
  std::mutex mutex_;
  std::vector<TicketSlot> free_slots_;
};

/// The context of CUDA device `id`, made by the first call.
/// @throws as make_cuda_device
std::shared_ptr<CudaContext> open_cuda_context(DeviceId id);

/// While it lives, the calling thread's CUDA calls go to `context`, and are no offence to a graph
/// that another thread captures. Afterwards the thread is as it was, with whatever context or none:
/// cudaSetDevice would make one on the GPU that it goes back to.
class CudaScope {
 public:
  explicit CudaScope(CudaContext const& context) noexcept;
  ~CudaScope();
  CudaScope(CudaScope const&) = delete;
  CudaScope& operator=(CudaScope const&) = delete;

 private:
  bool pushed_ = false;
  cudaStreamCaptureMode capture_mode_ = cudaStreamCaptureModeRelaxed;
};

}  // namespace kvbm::device
