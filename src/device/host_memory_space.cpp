// SPDX-License-Identifier: Apache-2.0
#include "device/host_memory_space.hpp"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <iterator>
#include <utility>

#include "kvbm/core/checked.hpp"
#include "kvbm/core/error.hpp"

namespace kvbm::device {
namespace {

std::uint64_t page_bytes() {
  static auto const bytes = static_cast<std::uint64_t>(sysconf(_SC_PAGESIZE));
  return bytes;
}

std::shared_ptr<memory::MemorySource> make_system_memory(bool shareable) {
  return memory::make_host_memory_source(
      memory::HostMemoryOptions{[](DeviceId) { return -1; }, shareable});
}

}  // namespace

// One allocation: known while it lives, forgotten before its memory goes, refunded after that.
class HostMemorySpace::Allocation {
 public:
  Allocation(std::shared_ptr<HostMemorySpace> space, std::uint64_t bytes, std::uint64_t alignment,
             bool shareable)
      : charge_(std::move(space), bytes), memory_(take_memory(bytes, alignment, shareable)) {
    std::lock_guard const lock(charge_.space->mutex_);
    charge_.space->bytes_by_address_.emplace(memory_.address(), bytes);
  }
  ~Allocation() {
    std::lock_guard const lock(charge_.space->mutex_);
    charge_.space->bytes_by_address_.erase(memory_.address());
  }
  Allocation(Allocation const&) = delete;
  Allocation& operator=(Allocation const&) = delete;

  [[nodiscard]] void* data() const noexcept { return memory_.host_data(); }
  [[nodiscard]] std::optional<memory::SharedMemoryName> shared_name() const {
    return memory_.shared_name();
  }

 private:
  struct Charge {
    Charge(std::shared_ptr<HostMemorySpace> owner, std::uint64_t asked)
        : space(std::move(owner)), bytes(checked_align_up(asked, page_bytes())) {
      space->charge(asked, bytes);
    }
    ~Charge() { space->refund(bytes); }
    Charge(Charge const&) = delete;
    Charge& operator=(Charge const&) = delete;
    std::shared_ptr<HostMemorySpace> space;
    std::uint64_t bytes;
  };

  [[nodiscard]] memory::Region take_memory(std::uint64_t bytes, std::uint64_t alignment,
                                           bool shareable) const {
    HostMemorySpace const& space = *charge_.space;
    try {
      // Less than a page could not be shared; otherwise no more than asked, so that sanitizers see
      // who goes beyond it.
      return shareable ? space.shareable_memory_->allocate(
                             {memory::StorageKind::System, charge_.bytes, alignment, -1})
                       : space.private_memory_->allocate(
                             {memory::StorageKind::System, bytes, alignment, -1});
    } catch (Error const& error) {
      if (error.code() != ErrorCode::OutOfMemory) { throw; }
      throw_error(ErrorCode::OutOfMemory,
                  fmt::format("host device {} has room for {} bytes, but this machine has not: {}",
                              space.device_id_, bytes, error.what()),
                  error.native_code());
    }
  }

  Charge charge_;
  memory::Region memory_;
};

// Another process's memory: known while it is mapped, charged to nobody here.
class HostMemorySpace::Mapped {
 public:
  Mapped(std::shared_ptr<HostMemorySpace> space, memory::Region region)
      : space_(std::move(space)), region_(std::move(region)) {
    std::lock_guard const lock(space_->mutex_);
    space_->bytes_by_address_.emplace(region_.address(), region_.bytes());
  }
  ~Mapped() {
    std::lock_guard const lock(space_->mutex_);
    space_->bytes_by_address_.erase(region_.address());
  }
  Mapped(Mapped const&) = delete;
  Mapped& operator=(Mapped const&) = delete;

 private:
  std::shared_ptr<HostMemorySpace> space_;
  memory::Region region_;
};

HostMemorySpace::HostMemorySpace(DeviceId device_id, std::uint64_t total_bytes, bool shareable)
    : device_id_(device_id),
      total_bytes_(total_bytes),
      private_memory_(make_system_memory(false)),
      shareable_memory_(shareable ? make_system_memory(true) : nullptr) {}

std::uint64_t HostMemorySpace::used_bytes() const {
  std::lock_guard const lock(mutex_);
  return used_bytes_;
}

memory::Region HostMemorySpace::allocate(std::uint64_t bytes, std::uint64_t alignment) {
  return allocate(bytes, alignment, shareable_memory_ != nullptr);
}

memory::Region HostMemorySpace::allocate_private(std::uint64_t bytes, std::uint64_t alignment) {
  return allocate(bytes, alignment, false);
}

memory::Region HostMemorySpace::allocate(std::uint64_t bytes, std::uint64_t alignment,
                                         bool shareable) {
  KVBM_EXPECTS(bytes > 0, InvalidArgument,
               fmt::format("host device {}: 0 bytes asked for", device_id_));
  KVBM_EXPECTS(
      is_power_of_two(alignment), InvalidArgument,
      fmt::format("host device {}: alignment {} is not a power of two", device_id_, alignment));
  auto allocation = std::make_shared<Allocation>(shared_from_this(), bytes,
                                                 std::max(alignment, page_bytes()), shareable);
  void* const data = allocation->data();
  auto const shared_name = allocation->shared_name();
  auto region = memory::Region::of_memory(memory::StorageKind::Device, data, bytes, device_id_,
                                          true, std::move(allocation));
  return shared_name ? region.with_shared_name(*shared_name) : region;
}

std::optional<memory::SharedMemoryName> HostMemorySpace::share(memory::Region const& region) const {
  return shareable_memory_ == nullptr ? region.shared_name() : shareable_memory_->share(region);
}

memory::Region HostMemorySpace::open_shared(memory::ProcessName const& owner,
                                            memory::SharedMemoryName const& name,
                                            std::uint64_t bytes) {
  auto region = memory::map_shared(owner, name, bytes, memory::StorageKind::Device, device_id_);
  void* const data = region.host_data();
  return memory::Region::of_memory(memory::StorageKind::Device, data, bytes, device_id_, true,
                                   std::make_shared<Mapped>(shared_from_this(), std::move(region)));
}

std::optional<memory::PointerInfo> HostMemorySpace::classify(void const* address) const {
  auto const at = reinterpret_cast<std::uintptr_t>(address);
  std::lock_guard const lock(mutex_);
  auto const next = bytes_by_address_.upper_bound(at);
  if (next == bytes_by_address_.begin()) { return std::nullopt; }
  auto const [begin, bytes] = *std::prev(next);
  if (at - begin >= bytes) { return std::nullopt; }
  return memory::PointerInfo{memory::StorageKind::Device, device_id_, bytes - (at - begin)};
}

void HostMemorySpace::charge(std::uint64_t bytes, std::uint64_t charged) {
  std::lock_guard const lock(mutex_);
  KVBM_EXPECTS(charged <= total_bytes_ - used_bytes_, OutOfMemory,
               fmt::format("host device {}: {} bytes asked for, {} of {} bytes are used; give the "
                           "device more memory or free some",
                           device_id_, bytes, used_bytes_, total_bytes_));
  used_bytes_ += charged;
}

void HostMemorySpace::refund(std::uint64_t charged) noexcept {
  std::lock_guard const lock(mutex_);
  used_bytes_ -= charged;
}

}  // namespace kvbm::device
