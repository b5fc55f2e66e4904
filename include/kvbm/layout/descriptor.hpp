// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "kvbm/core/types.hpp"
#include "kvbm/layout/config.hpp"
#include "kvbm/layout/dims.hpp"
#include "kvbm/layout/format.hpp"
#include "kvbm/layout/physical_layout.hpp"
#include "kvbm/memory/storage_kind.hpp"

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace kvbm::layout {

/// One region as another process sees it.
struct RegionDescriptor {
  memory::StorageKind kind = memory::StorageKind::System;
  DeviceId device_id = -1;
  std::uint64_t address = 0;  ///< Disk: offset in the file
  std::uint64_t bytes = 0;
  friend bool operator==(RegionDescriptor const&, RegionDescriptor const&) = default;
};

/// A layout without its memory, as it goes over the wire and into manifests.
struct LayoutDescriptor {
  static constexpr std::uint32_t kVersion = 1;
  /// Longest text that from_json looks at.
  static constexpr std::size_t kMaxJsonBytes = std::size_t{4} << 20U;

  LayoutConfig config;
  LayoutKind kind = LayoutKind::FullyContiguous;
  BlockDimension dimension = BlockDimension::First;
  KvBlockLayout format = KvBlockLayout::Unknown;
  std::optional<KvDimLayout> tensor;  ///< engine tensors in an order that no format names
  std::vector<RegionDescriptor> regions;

  /// Compact JSON with sorted keys, the same for equal descriptors.
  [[nodiscard]] std::string to_json() const;

  /// Reads what to_json wrote.
  /// @param text  untrusted: nothing is believed before it was checked, addresses are only
  ///              checked not to wrap and not to overlap
  /// @throws Error(VersionMismatch) "Unsupported version 999 ..."; CorruptError naming the field
  /// and
  ///         what is wrong: too long, not JSON, missing, unknown or repeated field, wrong type or
  ///         range, config or format that the builder would refuse, wrong number of regions, region
  ///         too small, wrapping or overlapping another, mixed kinds
  static LayoutDescriptor from_json(std::string_view text);

  /// Address arithmetic of the described layout. @throws like make_geometry
  [[nodiscard]] BlockGeometry geometry() const;

  /// Address (Disk: offset in the file) of chunk (block, layer, outer).
  /// @throws Error(OutOfRange) naming the index and its extent
  [[nodiscard]] std::uint64_t address(std::uint64_t block, std::uint64_t layer,
                                      std::uint64_t outer) const;

  /// Same values as those of the layout; see PhysicalLayout.
  [[nodiscard]] Checksum fingerprint() const;
  [[nodiscard]] Checksum shape_fingerprint() const;

  friend bool operator==(LayoutDescriptor const&, LayoutDescriptor const&) = default;
};

}  // namespace kvbm::layout
