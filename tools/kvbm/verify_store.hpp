// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "kvbm/core/types.hpp"
#include "kvbm/layout/physical_layout.hpp"
#include "kvbm/memory/block_store.hpp"
#include "kvbm/memory/memory_source.hpp"
#include "progress.hpp"

namespace kvbm::cli {

/// A store to check: its blocks where it holds those of a layout, else single extents.
struct StoreUnits {
  std::shared_ptr<memory::BlockStore> store;
  std::optional<layout::PhysicalLayout> layout;
  std::string why_no_layout;

  struct Extent {
    std::uint32_t group = 0;
    std::uint64_t index = 0;
  };
  /// "block" or "extent".
  [[nodiscard]] char const* noun() const { return layout ? "block" : "extent"; }
  [[nodiscard]] std::uint64_t count() const;
  [[nodiscard]] std::uint32_t extents_per_unit() const;
  [[nodiscard]] Extent extent(std::uint64_t unit, std::uint32_t i) const;
};

/// Opens a file or a striped set read-only. @throws what memory::open_block_store throws
StoreUnits open_units(std::shared_ptr<memory::MemorySource> const& source, std::string const& path);

/// The units of a store by what was found.
struct Findings {
  struct Damage {
    std::uint64_t unit = 0;
    std::string reason;
  };
  std::uint64_t ok = 0;
  std::uint64_t bytes = 0;             ///< that were read and compared
  std::vector<std::uint64_t> missing;  ///< no extent was ever written
  std::vector<std::uint64_t> torn;     ///< a write did not come to its end: read as never written
  std::vector<Damage> damaged;         ///< some extent fails its checksum or cannot be read
};

/// Reads all that was written. @throws Error of the store that is no verdict on an extent
Findings verify_units(StoreUnits const& units, memory::MemorySource& source, Progress& progress);

}  // namespace kvbm::cli
