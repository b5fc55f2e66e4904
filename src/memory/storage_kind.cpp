// SPDX-License-Identifier: Apache-2.0
#include "kvbm/memory/storage_kind.hpp"

namespace kvbm::memory {

std::string_view to_string(StorageKind kind) noexcept {
  switch (kind) {
    case StorageKind::System: return "System";
    case StorageKind::Pinned: return "Pinned";
    case StorageKind::Device: return "Device";
    case StorageKind::Disk: return "Disk";
    case StorageKind::Object: return "Object";
  }
  return "Unknown";
}

}  // namespace kvbm::memory
