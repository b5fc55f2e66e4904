// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "device/cuda/cuda_context.hpp"
#include "kvbm/memory/memory_source.hpp"
#include "kvbm/memory/region.hpp"

namespace kvbm::device {

/// Something that holds memory of a device and says how much.
class MemoryHolder {
 public:
  MemoryHolder() = default;
  MemoryHolder(MemoryHolder const&) = delete;
  MemoryHolder& operator=(MemoryHolder const&) = delete;
  virtual ~MemoryHolder() = default;
  [[nodiscard]] virtual std::uint64_t held_bytes() const noexcept = 0;
};

/// The memory that one Device took from its GPU. Kept alive by what it handed out.
class CudaMemorySpace : public std::enable_shared_from_this<CudaMemorySpace> {
 public:
  /// @throws Error(Device)
  explicit CudaMemorySpace(std::shared_ptr<CudaContext> context);
  ~CudaMemorySpace();
  CudaMemorySpace(CudaMemorySpace const&) = delete;
  CudaMemorySpace& operator=(CudaMemorySpace const&) = delete;

  [[nodiscard]] std::shared_ptr<CudaContext> const& context() const noexcept { return context_; }
  [[nodiscard]] DeviceId device_id() const noexcept { return context_->device_id(); }
  [[nodiscard]] std::uint64_t total_bytes() const noexcept { return total_bytes_; }
  /// What this Device holds, its pools included; not what others have of the GPU.
  [[nodiscard]] std::uint64_t used_bytes() const;

  [[nodiscard]] memory::Region allocate(std::uint64_t bytes, std::uint64_t alignment);
  /// Counts what `holder` has as long as it lives.
  void count(std::weak_ptr<MemoryHolder const> holder);
  /// "used by everybody" of the GPU, and its size, for messages.
  [[nodiscard]] std::string describe_use() const;
  /// A stream for our own short errands. Lowest priority, so that it shares no hardware queue with
  /// streams that wait for something.
  [[nodiscard]] cudaStream_t errand_stream() const noexcept { return errands_; }

 private:
  class Allocation;
  [[nodiscard]] void* allocate_raw(std::uint64_t bytes) const;

  std::shared_ptr<CudaContext> const context_;
  std::uint64_t total_bytes_ = 0;
  cudaStream_t errands_ = nullptr;

  mutable std::mutex mutex_;
  std::uint64_t used_bytes_ = 0;
  std::vector<std::weak_ptr<MemoryHolder const>> holders_;
};

/// What the driver knows of `address`: memory of a GPU, or pinned memory. nullopt for the rest.
[[nodiscard]] std::optional<memory::PointerInfo> classify_cuda_pointer(CudaContext const& context,
                                                                       void const* address);

/// First address after the one range, as the driver keeps it, in which `address` lies; 0: unknown.
[[nodiscard]] std::uintptr_t end_of_cuda_range(std::uintptr_t address) noexcept;

/// The driver's kind of memory at `address`, without complaint about what it does not know.
[[nodiscard]] cudaPointerAttributes cuda_attributes(std::uintptr_t address) noexcept;

}  // namespace kvbm::device
