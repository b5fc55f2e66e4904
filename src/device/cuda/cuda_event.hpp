// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>
#include <memory>
#include <mutex>

#include "device/cuda/cuda_context.hpp"
#include "device/stream_state.hpp"
#include "kvbm/device/stream.hpp"

namespace kvbm::device {

/// One cudaEvent_t, destroyed with it unless it is somebody else's.
class CudaEventHandle {
 public:
  /// A new one, without timing, which costs less. @throws Error(Device)
  explicit CudaEventHandle(std::shared_ptr<CudaContext> context);
  /// Somebody else's.
  CudaEventHandle(std::shared_ptr<CudaContext> context, cudaEvent_t foreign);
  ~CudaEventHandle();
  CudaEventHandle(CudaEventHandle const&) = delete;
  CudaEventHandle& operator=(CudaEventHandle const&) = delete;

  [[nodiscard]] cudaEvent_t get() const noexcept { return handle_; }
  [[nodiscard]] bool is_owned() const noexcept { return owned_; }
  [[nodiscard]] CudaContext const& context() const noexcept { return *context_; }
  /// success, not ready, or the error in which the device ended; leaves no last error behind.
  [[nodiscard]] cudaError_t query() const noexcept;
  /// Waits until it is complete. @return as query()
  [[nodiscard]] cudaError_t wait() const noexcept;

 private:
  std::shared_ptr<CudaContext> const context_;
  cudaEvent_t handle_ = nullptr;
  bool const owned_;
};

/// What an event means at one time.
struct CudaPoint {
  std::shared_ptr<CudaEventHandle const> event;
  Point host_work;                  ///< of the stream, to notice work that waits for itself
  std::uint64_t stream_number = 0;  ///< 0: recorded by somebody else, if at all
  std::uint64_t position = 0;       ///< grows with every record on that stream
};

/// The point that was recorded last. Whoever takes its point keeps the cudaEvent_t: recorded again
/// meanwhile, the event gets a new one, so a point never moves and native_handle() may change.
class CudaEvent final : public Event {
 public:
  explicit CudaEvent(std::shared_ptr<CudaEventHandle> handle);

  [[nodiscard]] bool is_complete() const override;
  void wait() const override;
  [[nodiscard]] void* native_handle() const noexcept override;

  [[nodiscard]] CudaPoint point() const;
  /// Records the end of `stream`, which belongs to `context`.
  void record(std::shared_ptr<CudaContext> const& context, cudaStream_t stream, CudaPoint recorded);

 private:
  mutable std::mutex mutex_;
  CudaPoint point_;
  std::shared_ptr<CudaEventHandle> handle_;  // the point's
};

}  // namespace kvbm::device
