// SPDX-License-Identifier: Apache-2.0
#include "device/cuda/cuda_event.hpp"

#include <fmt/format.h>

#include <utility>

#include "device/cuda/adaptive_wait.hpp"
#include "kvbm/core/error.hpp"
#include "kvbm/device/device.hpp"

namespace kvbm::device {

CudaEventHandle::CudaEventHandle(std::shared_ptr<CudaContext> context)
    : context_(std::move(context)), owned_(true) {
  CudaScope const scope(*context_);
  context_->check("cudaEventCreate", cudaEventCreateWithFlags(&handle_, cudaEventDisableTiming));
}

CudaEventHandle::CudaEventHandle(std::shared_ptr<CudaContext> context, cudaEvent_t foreign)
    : context_(std::move(context)), handle_(foreign), owned_(false) {}

CudaEventHandle::~CudaEventHandle() {
  if (!owned_) { return; }
  CudaScope const scope(*context_);
  // Work that it marks may be under way: the driver keeps what that needs.
  if (cudaEventDestroy(handle_) != cudaSuccess) { forget_last_cuda_error(); }
}

cudaError_t CudaEventHandle::query() const noexcept {
  CudaScope const scope(*context_);
  cudaError_t const status = cudaEventQuery(handle_);
  if (status != cudaSuccess) { forget_last_cuda_error(); }
  return status;
}

cudaError_t CudaEventHandle::wait() const noexcept {
  CudaScope const scope(*context_);
  return wait_for_event(handle_);
}

CudaEvent::CudaEvent(std::shared_ptr<CudaEventHandle> handle) : handle_(std::move(handle)) {
  point_.event = handle_;
}

CudaPoint CudaEvent::point() const {
  std::lock_guard const lock(mutex_);
  return point_;
}

bool CudaEvent::is_complete() const {
  CudaPoint const now = point();
  cudaError_t const status = now.event->query();
  if (status == cudaErrorNotReady) { return false; }
  now.event->context().check("cudaEventQuery", status);
  return true;
}

void CudaEvent::wait() const {
  CudaPoint const now = point();
  auto const& stream = now.host_work.stream;
  KVBM_EXPECTS(stream == nullptr || now.host_work.is_complete() || !stream->on_own_thread(),
               InvalidArgument,
               fmt::format("stream '{}': its own work waits for an event that marks its end: it "
                           "would wait for itself; wait on another thread",
                           stream->name()));
  now.event->context().check("cudaEventQuery", now.event->wait());
}

void* CudaEvent::native_handle() const noexcept {
  std::lock_guard const lock(mutex_);
  return handle_->get();
}

void CudaEvent::record(std::shared_ptr<CudaContext> const& context, cudaStream_t stream,
                       CudaPoint recorded) {
  CudaPoint former;  // let go outside the lock
  std::lock_guard const lock(mutex_);
  // CUDA records an event only on streams of the GPU on which it was created.
  bool const elsewhere = handle_->context().device_id() != context->device_id();
  KVBM_EXPECTS(!elsewhere || handle_->is_owned(), InvalidArgument,
               fmt::format("an event of CUDA device {} that was wrapped cannot be recorded on a "
                           "stream of device {}: create one there",
                           handle_->context().device_id(), context->device_id()));
  // Two references are the event's own; any other is somebody who waits for the former point.
  bool const is_awaited = handle_.use_count() > 2;
  auto handle = handle_->is_owned() && (elsewhere || is_awaited)
                    ? std::make_shared<CudaEventHandle>(context)
                    : handle_;
  {
    CudaScope const scope(*context);
    context->check("cudaEventRecord", cudaEventRecord(handle->get(), stream));
  }
  recorded.event = handle;
  handle_ = std::move(handle);
  former = std::exchange(point_, std::move(recorded));
}

EventPtr wrap_cuda_event(DeviceId id, void* native_handle) {
  auto context = open_cuda_context(id);
  KVBM_EXPECTS(native_handle != nullptr, InvalidArgument,
               fmt::format("CUDA device {}: null is no event to wrap", id));
  return std::make_shared<CudaEvent>(std::make_shared<CudaEventHandle>(
      std::move(context), static_cast<cudaEvent_t>(native_handle)));
}

}  // namespace kvbm::device
