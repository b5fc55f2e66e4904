// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "kvbm/core/types.hpp"
#include "kvbm/layout/format.hpp"
#include "kvbm/layout/handle.hpp"
#include "kvbm/layout/physical_layout.hpp"

namespace kvbm::transfer {

/// Blocks of one layout with, optionally, another reading of their format. Checked when made.
/// Lifetime keeps the layout alive. Threads  immutable.
class KvBlocks {
 public:
  /// Blocks of a layout that needs no registration.
  /// @throws Error(OutOfRange) naming the first bad block id; Error(InvalidArgument) the override
  /// has other
  ///         bytes a block, needs heads that the config lacks, or does not fit the layout's kind
  static KvBlocks of(layout::PhysicalLayout layout, std::vector<BlockId> block_ids,
                     std::optional<layout::KvBlockLayout> override_format = {});

  /// The layout, read in the override's format where there is one.
  [[nodiscard]] layout::PhysicalLayout const& layout() const noexcept { return layout_; }
  /// The handle, where it came from a manager.
  [[nodiscard]] std::optional<layout::LayoutHandle> const& handle() const noexcept {
    return handle_;
  }
  [[nodiscard]] std::vector<BlockId> const& block_ids() const noexcept { return block_ids_; }
  /// The override; nullopt also where it equals the layout's own format.
  [[nodiscard]] std::optional<layout::KvBlockLayout> const& override_format() const noexcept {
    return override_;
  }
  /// Whether bytes would have to be rearranged to go to `other`.
  [[nodiscard]] bool requires_transform_to(KvBlocks const& other) const;

  /// The same blocks, known to come from `handle`.
  [[nodiscard]] KvBlocks with_handle(layout::LayoutHandle handle) const;

 private:
  KvBlocks(layout::PhysicalLayout layout, std::vector<BlockId> ids,
           std::optional<layout::KvBlockLayout> override_format)
      : layout_(std::move(layout)), block_ids_(std::move(ids)), override_(override_format) {}
  layout::PhysicalLayout layout_;
  std::optional<layout::LayoutHandle> handle_;
  std::vector<BlockId> block_ids_;
  std::optional<layout::KvBlockLayout> override_;
};

}  // namespace kvbm::transfer
