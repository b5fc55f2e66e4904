// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "kvbm/layout/descriptor.hpp"
#include "kvbm/memory/block_store.hpp"
#include "layout/spec.hpp"

/// How a layout lies in a store: one extent group a region.
namespace kvbm::layout::detail {

/// The extents of region `index`, the regions lying one behind the other.
memory::ExtentGroup group_of(LayoutSpec const& spec, std::uint64_t index);

/// What is kept with a store of this layout.
LayoutDescriptor describe(LayoutSpec const& spec, memory::StorageKind kind);

/// The layout's regions in `store`.
std::vector<memory::Region> regions_of(LayoutSpec const& spec,
                                       std::shared_ptr<memory::BlockStore> const& store);

}  // namespace kvbm::layout::detail
