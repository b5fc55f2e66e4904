// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string_view>

namespace kvbm::memory {

/// Where bytes live.
enum class StorageKind {
  System,  ///< ordinary (pageable) host memory
  Pinned,  ///< page-locked host memory, reachable by a device's DMA engines
  Device,  ///< memory of a device (HBM; ordinary memory behind a device id on the host device)
  Disk,    ///< a file on local storage
  Object,  ///< an object store
};

/// "System", "Pinned", ...
std::string_view to_string(StorageKind kind) noexcept;

/// Whether it is host memory: System or Pinned.
[[nodiscard]] constexpr bool is_host(StorageKind kind) noexcept {
  return kind == StorageKind::System || kind == StorageKind::Pinned;
}

/// Whether it has addresses at all (System, Pinned, Device) rather than file offsets or keys.
[[nodiscard]] constexpr bool is_memory(StorageKind kind) noexcept {
  return is_host(kind) || kind == StorageKind::Device;
}

/// Whether blocks lie in a BlockStore there: Disk or Object.
[[nodiscard]] constexpr bool is_store(StorageKind kind) noexcept {
  return kind == StorageKind::Disk || kind == StorageKind::Object;
}

}  // namespace kvbm::memory
