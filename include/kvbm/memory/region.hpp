// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>

#include "kvbm/core/types.hpp"
#include "kvbm/memory/storage_kind.hpp"

namespace kvbm::memory {

class BlockStore;
struct SharedMemoryName;

/// A range of bytes in one kind of storage: a cheap value that shares ownership of what backs it.
///
/// Memory regions have an address; Disk and Object regions have address 0 and an offset into a
/// BlockStore.
/// Lifetime the backing memory or store lives as long as any Region of it; external memory is kept
///          alive by `keep_alive` where the caller gives one, else by the caller.
/// Threads  immutable after construction.
class Region {
 public:
  /// Memory at `address`. `host_accessible` says whether the CPU may dereference it.
  /// @throws Error(InvalidArgument) zero bytes, null address, kind not System/Pinned/Device;
  ///         Error(Overflow) if address + bytes wraps
  static Region of_memory(StorageKind kind, void* address, std::uint64_t bytes, DeviceId device_id,
                          bool host_accessible, std::shared_ptr<void const> keep_alive = {});

  /// Bytes [offset, offset + bytes) of `store`, of its kind; `index` is the store's extent group
  /// (one a region).
  /// @throws Error(InvalidArgument) null store, zero bytes; Error(OutOfRange) no such group;
  ///         Error(Overflow) offset + bytes too large
  static Region of_store(std::shared_ptr<BlockStore> store, std::uint32_t index,
                         std::uint64_t offset, std::uint64_t bytes);

  /// Bytes [offset, offset + bytes) of this region, sharing ownership.
  /// @throws Error(OutOfRange) beyond the end; Error(InvalidArgument) zero bytes
  [[nodiscard]] Region subregion(std::uint64_t offset, std::uint64_t bytes) const;

  /// The same region, known to others of this machine as `name`, whose offset is its first byte.
  [[nodiscard]] Region with_shared_name(SharedMemoryName const& name) const;

  [[nodiscard]] StorageKind kind() const noexcept { return kind_; }
  /// Address of the first byte; 0 for Disk and Object.
  [[nodiscard]] std::uintptr_t address() const noexcept { return address_; }
  [[nodiscard]] std::uint64_t bytes() const noexcept { return bytes_; }
  /// Owning device for Device regions, the near device for Pinned ones where known, else -1.
  [[nodiscard]] DeviceId device_id() const noexcept { return device_id_; }
  /// First byte where the CPU may dereference it, else nullptr.
  [[nodiscard]] std::byte* host_data() const noexcept;
  /// What is behind a Disk or Object region, else null.
  [[nodiscard]] std::shared_ptr<BlockStore> const& store() const noexcept { return store_; }
  /// Which extent group of store() this is.
  [[nodiscard]] std::uint32_t store_index() const noexcept { return store_index_; }
  /// Offset of the first byte in store().
  [[nodiscard]] std::uint64_t store_offset() const noexcept { return store_offset_; }
  /// How other processes of this machine map this memory while the region lives here; nullopt for
  /// memory that is private, or another's.
  [[nodiscard]] std::optional<SharedMemoryName> shared_name() const;

 private:
  Region() = default;
  StorageKind kind_ = StorageKind::System;
  std::uintptr_t address_ = 0;
  std::uint64_t bytes_ = 0;
  DeviceId device_id_ = -1;
  bool host_accessible_ = false;
  std::shared_ptr<void const> keep_alive_;
  std::shared_ptr<BlockStore> store_;
  std::uint32_t store_index_ = 0;
  std::uint64_t store_offset_ = 0;
  std::shared_ptr<SharedMemoryName const> shared_;
  std::uint64_t shared_offset_ = 0;  // added to that of shared_
};

}  // namespace kvbm::memory
