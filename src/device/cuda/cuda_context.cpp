// SPDX-License-Identifier: Apache-2.0
#include "device/cuda/cuda_context.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <cstddef>
#include <map>
#include <numeric>

#include "kvbm/core/error.hpp"
#include "kvbm/device/device.hpp"

namespace kvbm::device {
namespace {

constexpr std::size_t kPageBytes = 4096;
constexpr std::size_t kSlotBytes = 64;  // a cache line each: threads of their own write them

std::string describe_version(int version) {
  return fmt::format("{}.{}", version / 1000, version % 1000 / 10);
}

int num_gpus() {
  int count = 0;
  if (cudaGetDeviceCount(&count) != cudaSuccess) {
    forget_last_cuda_error();
    return 0;
  }
  return count;
}

CUcontext retain_primary_context(DeviceId id) {
  CudaDriver const& driver = cuda_driver();
  CUdevice device = 0;
  check_cuda(id, "cuDeviceGet", as_runtime_error(driver.device_get(&device, id)));
  CUcontext context = nullptr;
  check_cuda(id, "cuDevicePrimaryCtxRetain",
             as_runtime_error(driver.primary_context_retain(&context, device)));
  return context;
}

}  // namespace

std::string cuda_unavailable_reason() {
  int count = 0;
  cudaError_t const status = cudaGetDeviceCount(&count);
  if (status == cudaSuccess && count > 0) { return {}; }
  forget_last_cuda_error();
  if (status == cudaSuccess || status == cudaErrorNoDevice) {
    return "no GPU visible (see nvidia-smi, and CUDA_VISIBLE_DEVICES if that is set)";
  }
  int driver = 0;
  int runtime = 0;
  static_cast<void>(cudaDriverGetVersion(&driver));
  static_cast<void>(cudaRuntimeGetVersion(&runtime));
  if (driver == 0) { return "no NVIDIA driver found (libcuda.so.1)"; }
  if (status == cudaErrorInsufficientDriver) {
    return fmt::format("the driver (CUDA {}) is older than what this build needs (CUDA {})",
                       describe_version(driver), describe_version(runtime));
  }
  return describe_cuda_error(status);
}

std::shared_ptr<CudaContext> open_cuda_context(DeviceId id) {
  // What belongs to the process as a whole; each entry is made once and never changes.
  static std::mutex mutex;
  static std::map<DeviceId, std::shared_ptr<CudaContext>> contexts;
  std::lock_guard const lock(mutex);
  if (auto const at = contexts.find(id); at != contexts.end()) { return at->second; }
  std::string const reason = cuda_unavailable_reason();
  if (!reason.empty()) { throw UnsupportedError("no CUDA device: " + reason); }
  int const count = num_gpus();
  if (id < 0 || id >= count) {
    std::vector<DeviceId> known(static_cast<std::size_t>(count));
    std::iota(known.begin(), known.end(), 0);
    throw_error(ErrorCode::NotFound, fmt::format("CUDA device {} is unknown; there are [{}]", id,
                                                 fmt::join(known, ", ")));
  }
  auto context = std::make_shared<CudaContext>(id, retain_primary_context(id));
  contexts.emplace(id, context);
  return context;
}

TicketSlot CudaContext::take_ticket_slot() {
  std::lock_guard const lock(mutex_);
  if (free_slots_.empty()) {
    CudaScope const scope(*this);
    void* page = nullptr;
    check("cudaHostAlloc",
          cudaHostAlloc(&page, kPageBytes, cudaHostAllocPortable | cudaHostAllocMapped));
    void* mapped = nullptr;
    check("cudaHostGetDevicePointer", cudaHostGetDevicePointer(&mapped, page, 0));
    for (std::size_t offset = 0; offset < kPageBytes; offset += kSlotBytes) {
      TicketSlot const slot{
          reinterpret_cast<std::uint64_t*>(static_cast<std::byte*>(page) + offset),
          reinterpret_cast<CUdeviceptr>(mapped) + offset};
      slot.store(0);
      free_slots_.push_back(slot);
    }
  }
  TicketSlot const slot = free_slots_.back();
  free_slots_.pop_back();
  return slot;
}

void CudaContext::give_back(TicketSlot slot) noexcept {
  std::lock_guard const lock(mutex_);
  free_slots_.push_back(slot);  // within the capacity that it had when it was taken
}

CudaScope::CudaScope(CudaContext const& context) noexcept {
  CudaDriver const& driver = cuda_driver();
  CUcontext current = nullptr;
  driver.context_get_current(&current);
  if (current != context.handle()) {
    pushed_ = driver.context_push(context.handle()) == CUDA_SUCCESS;
  }
  // Waiting for other threads' captures is not for a library; our calls touch none of their work.
  cudaThreadExchangeStreamCaptureMode(&capture_mode_);
}

CudaScope::~CudaScope() {
  cudaThreadExchangeStreamCaptureMode(&capture_mode_);
  if (pushed_) {
    CUcontext popped = nullptr;
    cuda_driver().context_pop(&popped);
  }
}

}  // namespace kvbm::device
