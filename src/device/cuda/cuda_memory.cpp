// SPDX-License-Identifier: Apache-2.0
#include "device/cuda/cuda_memory.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <limits>
#include <utility>

#include "kvbm/core/checked.hpp"
#include "kvbm/core/error.hpp"

namespace kvbm::device {
namespace {

constexpr std::uint64_t kAllocAlignment = 256;                 // what cudaMalloc promises
constexpr std::uint64_t kMinAlignment = 4096;                  // what Device::allocate promises
constexpr std::uint64_t kLargePage = std::uint64_t{2} << 20U;  // of the GPU
constexpr std::uint64_t kSmallGranularity = 512;               // of what shares a large page
constexpr int kMaxRanges = 65536;                              // of one address space, looked at

std::uint64_t charge_of(std::uint64_t bytes) {
  return checked_align_up(bytes, bytes >= kLargePage ? kLargePage : kSmallGranularity);
}

}  // namespace

class CudaMemorySpace::Allocation {
 public:
  Allocation(std::shared_ptr<CudaMemorySpace> space, std::uint64_t bytes, std::uint64_t alignment)
      : space_(std::move(space)) {
    // Large memory starts at a large page, which nearly always suffices without asking for more.
    if (bytes >= kLargePage) { take(bytes); }
    if (raw_ == nullptr || address() % alignment != 0) {
      drop();
      take(checked_add(bytes, alignment - kAllocAlignment));
    }
    offset_ = checked_align_up(address(), alignment) - address();
  }
  ~Allocation() { drop(); }
  Allocation(Allocation const&) = delete;
  Allocation& operator=(Allocation const&) = delete;

  [[nodiscard]] void* data() const noexcept { return static_cast<std::byte*>(raw_) + offset_; }

 private:
  [[nodiscard]] std::uintptr_t address() const noexcept {
    return reinterpret_cast<std::uintptr_t>(raw_);
  }
  void take(std::uint64_t bytes) {
    charge_ = charge_of(bytes);
    raw_ = space_->allocate_raw(bytes);
    std::lock_guard const lock(space_->mutex_);
    space_->used_bytes_ += charge_;
  }
  void drop() noexcept {
    if (raw_ == nullptr) { return; }
    {
      CudaScope const scope(*space_->context_);
      if (cudaFree(raw_) != cudaSuccess) { forget_last_cuda_error(); }
    }
    raw_ = nullptr;
    std::lock_guard const lock(space_->mutex_);
    space_->used_bytes_ -= charge_;
  }

  std::shared_ptr<CudaMemorySpace> const space_;
  void* raw_ = nullptr;
  std::uint64_t offset_ = 0;
  std::uint64_t charge_ = 0;
};

CudaMemorySpace::CudaMemorySpace(std::shared_ptr<CudaContext> context)
    : context_(std::move(context)) {
  CudaScope const scope(*context_);
  std::size_t free = 0;
  std::size_t total = 0;
  context_->check("cudaMemGetInfo", cudaMemGetInfo(&free, &total));
  total_bytes_ = total;
  int lowest = 0;
  int highest = 0;
  context_->check("cudaDeviceGetStreamPriorityRange",
                  cudaDeviceGetStreamPriorityRange(&lowest, &highest));
  context_->check("cudaStreamCreate",
                  cudaStreamCreateWithPriority(&errands_, cudaStreamNonBlocking, lowest));
}

CudaMemorySpace::~CudaMemorySpace() {
  CudaScope const scope(*context_);
  if (cudaStreamDestroy(errands_) != cudaSuccess) { forget_last_cuda_error(); }
}

std::uint64_t CudaMemorySpace::used_bytes() const {
  std::lock_guard const lock(mutex_);
  std::uint64_t used = used_bytes_;
  for (auto const& weak : holders_) {
    if (auto const holder = weak.lock()) { used += holder->held_bytes(); }
  }
  return used;
}

void CudaMemorySpace::count(std::weak_ptr<MemoryHolder const> holder) {
  std::lock_guard const lock(mutex_);
  std::erase_if(holders_, [](auto const& weak) { return weak.expired(); });
  holders_.push_back(std::move(holder));
}

std::string CudaMemorySpace::describe_use() const {
  CudaScope const scope(*context_);
  std::size_t free = 0;
  std::size_t total = 0;
  if (cudaMemGetInfo(&free, &total) != cudaSuccess) {
    forget_last_cuda_error();
    return fmt::format("{} of {} bytes are used by this device", used_bytes(), total_bytes_);
  }
  return fmt::format("{} of {} bytes are used by everybody on the GPU, {} by this device",
                     total - free, total_bytes_, used_bytes());
}

void* CudaMemorySpace::allocate_raw(std::uint64_t bytes) const {
  CudaScope const scope(*context_);
  void* raw = nullptr;
  cudaError_t const status = cudaMalloc(&raw, bytes);
  if (status == cudaErrorMemoryAllocation) {
    forget_last_cuda_error();
    throw_error(
        ErrorCode::OutOfMemory,
        fmt::format("CUDA device {}: no room for an allocation: {}", device_id(), describe_use()),
        static_cast<int>(status));
  }
  context_->check("cudaMalloc", status);
  return raw;
}

memory::Region CudaMemorySpace::allocate(std::uint64_t bytes, std::uint64_t alignment) {
  KVBM_EXPECTS(bytes > 0, InvalidArgument,
               fmt::format("CUDA device {}: 0 bytes asked for", device_id()));
  KVBM_EXPECTS(
      is_power_of_two(alignment), InvalidArgument,
      fmt::format("CUDA device {}: alignment {} is not a power of two", device_id(), alignment));
  std::shared_ptr<Allocation> allocation;
  try {
    allocation =
        std::make_shared<Allocation>(shared_from_this(), bytes, std::max(alignment, kMinAlignment));
  } catch (Error const& error) {
    if (error.code() != ErrorCode::OutOfMemory) { throw; }
    throw_error(ErrorCode::OutOfMemory, fmt::format("{} bytes asked for; {}", bytes, error.what()),
                error.native_code());
  }
  CudaScope const scope(*context_);
  context_->check("cudaMemset", cudaMemsetAsync(allocation->data(), 0, bytes, errands_));
  context_->check("cudaMemset", cudaStreamSynchronize(errands_));
  void* const data = allocation->data();
  return memory::Region::of_memory(memory::StorageKind::Device, data, bytes, device_id(), false,
                                   std::move(allocation));
}

cudaPointerAttributes cuda_attributes(std::uintptr_t address) noexcept {
  cudaPointerAttributes attributes{};
  if (cudaPointerGetAttributes(&attributes, reinterpret_cast<void const*>(address)) !=
      cudaSuccess) {
    forget_last_cuda_error();
    attributes.type = cudaMemoryTypeUnregistered;
  }
  return attributes;
}

std::uintptr_t end_of_cuda_range(std::uintptr_t address) noexcept {
  CudaDriver const& driver = cuda_driver();
  CUdeviceptr start = 0;
  std::size_t bytes = 0;
  if (driver.pointer_get_attribute(&start, CU_POINTER_ATTRIBUTE_RANGE_START_ADDR, address) !=
          CUDA_SUCCESS ||
      driver.pointer_get_attribute(&bytes, CU_POINTER_ATTRIBUTE_RANGE_SIZE, address) !=
          CUDA_SUCCESS ||
      address - start >= bytes) {
    return 0;
  }
  return start + bytes;
}

std::optional<memory::PointerInfo> classify_cuda_pointer(CudaContext const& context,
                                                         void const* address) {
  if (address == nullptr) { return std::nullopt; }
  CudaScope const scope(context);
  auto const begin = reinterpret_cast<std::uintptr_t>(address);
  cudaPointerAttributes const attributes = cuda_attributes(begin);
  memory::PointerInfo info;
  switch (attributes.type) {
    case cudaMemoryTypeDevice:
    // Managed memory moves between host and GPU; kernels and copies treat it as the GPU's.
    case cudaMemoryTypeManaged:
      info.kind = memory::StorageKind::Device;
      info.device_id = attributes.device;
      break;
    case cudaMemoryTypeHost: info.kind = memory::StorageKind::Pinned; break;
    default: return std::nullopt;
  }
  std::uintptr_t end = end_of_cuda_range(begin);
  if (end == 0) { return info; }
  // Memory of one cudaMalloc is one range. What is registered or mapped in pieces (pinned memory,
  // torch's expandable segments) is one for its users too, as far as the pieces touch.
  int legacy = 1;
  static_cast<void>(cuda_driver().pointer_get_attribute(
      &legacy, CU_POINTER_ATTRIBUTE_IS_LEGACY_CUDA_IPC_CAPABLE, begin));
  bool const in_pieces = attributes.type == cudaMemoryTypeHost || legacy == 0;
  for (int ranges = 1; in_pieces; ++ranges) {
    cudaPointerAttributes const next = cuda_attributes(end);
    if (next.type != attributes.type ||
        (next.type == cudaMemoryTypeDevice && next.device != attributes.device)) {
      break;
    }
    std::uintptr_t const next_end = end_of_cuda_range(end);
    if (next_end <= end || ranges == kMaxRanges) { return info; }
    end = next_end;
  }
  info.bytes_left = end - begin;
  return info;
}

}  // namespace kvbm::device
