// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string_view>

#include "kvbm/memory/storage_kind.hpp"

namespace kvbm::remote {

/// The place of a layout in the hierarchy of tiers, the same name on every worker.
enum class LogicalLayoutHandle {
  G1,  ///< device memory
  G2,  ///< host memory
  G3,  ///< local disk
  G4,  ///< object store
};
inline constexpr int kNumTiers = 4;

/// "G1", ...
std::string_view to_string(LogicalLayoutHandle tier) noexcept;
/// The tier of that name. @throws Error(InvalidArgument) naming the tiers there are
LogicalLayoutHandle tier_from_string(std::string_view name);
/// The tier that a kind of storage belongs to: Device G1, System and Pinned G2, Disk G3, Object G4.
LogicalLayoutHandle tier_of(memory::StorageKind kind) noexcept;

}  // namespace kvbm::remote
