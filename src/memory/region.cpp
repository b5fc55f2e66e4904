// SPDX-License-Identifier: Apache-2.0
#include "kvbm/memory/region.hpp"

#include <fmt/format.h>

#include <limits>
#include <utility>

#include "kvbm/core/checked.hpp"
#include "kvbm/core/error.hpp"
#include "kvbm/memory/block_store.hpp"
#include "kvbm/memory/shared_memory.hpp"

namespace kvbm::memory {

Region Region::of_memory(StorageKind kind, void* address, std::uint64_t bytes, DeviceId device_id,
                         bool host_accessible, std::shared_ptr<void const> keep_alive) {
  KVBM_EXPECTS(is_memory(kind), InvalidArgument,
               fmt::format("a region at an address cannot be of kind {}: use System, Pinned or "
                           "Device",
                           to_string(kind)));
  KVBM_EXPECTS(bytes > 0, InvalidArgument, "a region of 0 bytes");
  KVBM_EXPECTS(address != nullptr, InvalidArgument,
               fmt::format("a region of {} bytes at a null address", bytes));
  auto const begin = reinterpret_cast<std::uintptr_t>(address);
  KVBM_EXPECTS(
      bytes <= std::numeric_limits<std::uintptr_t>::max() - begin, Overflow,
      fmt::format("a region of {} bytes at {:#x} wraps around the address space", bytes, begin));
  Region region;
  region.kind_ = kind;
  region.address_ = begin;
  region.bytes_ = bytes;
  region.device_id_ = device_id;
  region.host_accessible_ = host_accessible;
  region.keep_alive_ = std::move(keep_alive);
  return region;
}

Region Region::of_store(std::shared_ptr<BlockStore> store, std::uint32_t index,
                        std::uint64_t offset, std::uint64_t bytes) {
  KVBM_EXPECTS(store != nullptr, InvalidArgument, "a Disk or Object region without a store");
  KVBM_EXPECTS(bytes > 0, InvalidArgument, fmt::format("a region of 0 bytes in {}", store->name()));
  KVBM_EXPECTS(
      index < store->groups().size(), OutOfRange,
      fmt::format("extent group {} of {} in {}", index, store->groups().size(), store->name()));
  checked_add(offset, bytes);
  Region region;
  region.kind_ = store->kind();
  region.bytes_ = bytes;
  region.store_ = std::move(store);
  region.store_index_ = index;
  region.store_offset_ = offset;
  return region;
}

Region Region::subregion(std::uint64_t offset, std::uint64_t bytes) const {
  KVBM_EXPECTS(bytes > 0, InvalidArgument, "a subregion of 0 bytes");
  KVBM_EXPECTS(offset <= bytes_ && bytes <= bytes_ - offset, OutOfRange,
               fmt::format("{} bytes at offset {} of a region of {} bytes", bytes, offset, bytes_));
  Region part = *this;
  part.bytes_ = bytes;
  if (is_memory(kind_)) {
    part.address_ += offset;
    part.shared_offset_ += offset;
  } else {
    part.store_offset_ += offset;
  }
  return part;
}

Region Region::with_shared_name(SharedMemoryName const& name) const {
  KVBM_EXPECTS(is_memory(kind_), InvalidArgument,
               fmt::format("{} storage cannot be shared memory", to_string(kind_)));
  KVBM_EXPECTS(name.offset <= name.file_bytes && bytes_ <= name.file_bytes - name.offset,
               OutOfRange,
               fmt::format("a region of {} bytes at offset {} of {} bytes of shared memory", bytes_,
                           name.offset, name.file_bytes));
  Region named = *this;
  named.shared_ = std::make_shared<SharedMemoryName const>(name);
  named.shared_offset_ = 0;
  return named;
}

std::optional<SharedMemoryName> Region::shared_name() const {
  if (shared_ == nullptr) { return std::nullopt; }
  SharedMemoryName name = *shared_;
  name.offset += shared_offset_;
  return name;
}

std::byte* Region::host_data() const noexcept {
  return host_accessible_ ? reinterpret_cast<std::byte*>(address_) : nullptr;
}

}  // namespace kvbm::memory
