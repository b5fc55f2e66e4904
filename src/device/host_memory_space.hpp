// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <optional>

#include "kvbm/core/types.hpp"
#include "kvbm/memory/memory_source.hpp"
#include "kvbm/memory/region.hpp"

namespace kvbm::device {

/// The memory of one host device: its budget, and which addresses belong to it. Kept alive by what
/// it handed out.
class HostMemorySpace : public std::enable_shared_from_this<HostMemorySpace> {
 public:
  HostMemorySpace(DeviceId device_id, std::uint64_t total_bytes, bool shareable = false);

  [[nodiscard]] DeviceId device_id() const noexcept { return device_id_; }
  [[nodiscard]] std::uint64_t total_bytes() const noexcept { return total_bytes_; }
  [[nodiscard]] std::uint64_t used_bytes() const;

  /// See Device::allocate().
  [[nodiscard]] memory::Region allocate(std::uint64_t bytes, std::uint64_t alignment);
  /// The same, never to be mapped by other processes: of pools, which hand it out again and again.
  [[nodiscard]] memory::Region allocate_private(std::uint64_t bytes, std::uint64_t alignment);
  [[nodiscard]] std::optional<memory::PointerInfo> classify(void const* address) const;
  /// See Device::share() and Device::open_shared().
  [[nodiscard]] std::optional<memory::SharedMemoryName> share(memory::Region const& region) const;
  [[nodiscard]] memory::Region open_shared(memory::ProcessName const& owner,
                                           memory::SharedMemoryName const& name,
                                           std::uint64_t bytes);

 private:
  class Allocation;
  class Mapped;

  [[nodiscard]] memory::Region allocate(std::uint64_t bytes, std::uint64_t alignment,
                                        bool shareable);
  /// Takes `charged` of the budget for `bytes` asked. @throws Error(OutOfMemory)
  void charge(std::uint64_t bytes, std::uint64_t charged);
  void refund(std::uint64_t charged) noexcept;

  DeviceId const device_id_;
  std::uint64_t const total_bytes_;
  std::shared_ptr<memory::MemorySource> const private_memory_;
  std::shared_ptr<memory::MemorySource> const shareable_memory_;  // null: none is

  mutable std::mutex mutex_;
  std::uint64_t used_bytes_ = 0;
  std::map<std::uintptr_t, std::uint64_t> bytes_by_address_;
};

}  // namespace kvbm::device
