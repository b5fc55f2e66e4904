// SPDX-License-Identifier: Apache-2.0
#include "kvbm/layout/typed_view.hpp"

#include "kvbm/core/error.hpp"
#include "layout/spec.hpp"
#include "layout/strides.hpp"

#include <fmt/format.h>

#include <algorithm>

namespace kvbm::layout::detail {

HostAddressing host_addressing(PhysicalLayout const& layout, std::size_t element_bytes) {
  auto const& geometry = layout.geometry();
  KVBM_EXPECTS(element_bytes == geometry.element_bytes, InvalidArgument,
               fmt::format("elements of {} bytes for a layout with dtype_width_bytes {}",
                           element_bytes, geometry.element_bytes));
  HostAddressing addressing;
  for (auto const& region : layout.regions()) {
    if (region.host_data() == nullptr) {
      throw UnsupportedError(
          fmt::format("the CPU cannot reach {} memory of device {}: copy it to "
                      "System or Pinned first",
                      memory::to_string(region.kind()), region.device_id()));
    }
    addressing.bases.push_back(region.host_data());
  }
  addressing.layers_are_regions = geometry.layers_are_regions;
  addressing.extents[0] = layout.config().num_blocks();
  addressing.strides[0] = geometry.block_stride;
  for (std::size_t i = 0; i < kNumBlockDims; ++i) {
    addressing.extents[i + 1] = geometry.extents[i];
    addressing.strides[i + 1] = static_cast<std::uint64_t>(geometry.strides[i]);
  }
  return addressing;
}

void check_indices(HostAddressing const& addressing,
                   std::array<std::uint64_t, kNumDims> const& indices) {
  for (std::size_t i = 0; i < kNumDims; ++i) {
    KVBM_EXPECTS(indices[i] < addressing.extents[i], OutOfRange,
                 fmt::format("index {} of axis {} with extent {}", indices[i],
                             to_string(static_cast<Dim>(i)), addressing.extents[i]));
  }
}

void check_contiguous(PhysicalLayout const& layout, bool whole_block) {
  auto const& geometry = layout.geometry();
  auto const first = whole_block ? BlockDim::Layer : BlockDim::Token;
  auto const split = whole_block && geometry.layers_are_regions && geometry.extents[0] > 1;
  auto const all = named_dims({geometry.strides, 0}, geometry.extents);
  auto const dims = std::span(all).subspan(index_of(first));
  std::uint64_t elements = 1;
  for (auto const& dim : dims) {
    elements *= dim.extent;
  }
  // Elements never overlap, so that they lie densely if and only if they reach no further.
  if (split || reach_bytes(dims, geometry.element_bytes) != elements * geometry.element_bytes) {
    throw UnsupportedError(fmt::format("a {} of {} is not contiguous, take single elements",
                                       whole_block ? "block" : "chunk", layout.to_string()));
  }
}

}  // namespace kvbm::layout::detail
