// SPDX-License-Identifier: Apache-2.0
#include "kvbm/transfer/kv_blocks.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "kvbm/core/error.hpp"

namespace kvbm::transfer {

KvBlocks KvBlocks::of(layout::PhysicalLayout layout, std::vector<BlockId> block_ids,
                      std::optional<layout::KvBlockLayout> override_format) {
  std::uint64_t const num_blocks = layout.config().num_blocks();
  auto const bad = std::find_if(block_ids.begin(), block_ids.end(),
                                [num_blocks](BlockId id) { return id >= num_blocks; });
  KVBM_EXPECTS(bad == block_ids.end(), OutOfRange,
               fmt::format("block {} at position {} is beyond the layout's {} blocks", *bad,
                           bad - block_ids.begin(), num_blocks));
  if (override_format && *override_format == layout.format()) { override_format.reset(); }
  if (override_format) { layout = layout.with_format(*override_format); }
  return {std::move(layout), std::move(block_ids), override_format};
}

bool KvBlocks::requires_transform_to(KvBlocks const& other) const {
  return layout_.format().requires_transform(other.layout_.format(), layout_.config());
}

KvBlocks KvBlocks::with_handle(layout::LayoutHandle handle) const {
  KvBlocks copy = *this;
  copy.handle_ = handle;
  return copy;
}

}  // namespace kvbm::transfer
