// SPDX-License-Identifier: Apache-2.0
#include "layout/strides.hpp"

#include "kvbm/core/checked.hpp"
#include "kvbm/core/error.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <vector>

namespace kvbm::layout::detail {

std::uint64_t reach_bytes(std::span<StridedDim const> dims, std::uint64_t element_bytes) {
  std::uint64_t reach = element_bytes;
  for (auto const& dim : dims) {
    if (dim.extent > 1) { reach = checked_add(reach, checked_mul(dim.extent - 1, dim.stride)); }
  }
  KVBM_EXPECTS(
      reach <= kMaxBytes, Overflow,
      fmt::format("strides reach over {} bytes, at most {} are possible", reach, kMaxBytes));
  return reach;
}

void expect_disjoint(std::span<StridedDim const> dims, std::uint64_t element_bytes,
                     char const* what) {
  std::vector<StridedDim> sorted;
  std::copy_if(dims.begin(), dims.end(), std::back_inserter(sorted),
               [](StridedDim const& dim) { return dim.extent > 1; });
  std::sort(sorted.begin(), sorted.end(),
            [](StridedDim const& a, StridedDim const& b) { return a.stride < b.stride; });
  std::uint64_t inner_reach = element_bytes;
  for (auto const& dim : sorted) {
    KVBM_EXPECTS(dim.stride >= inner_reach, InvalidArgument,
                 fmt::format("{}: stride {} of {} (extent {}) makes elements overlap, it must be "
                             "at least the {} bytes that lie inside",
                             what, dim.stride, dim.name, dim.extent, inner_reach));
    inner_reach = checked_add(inner_reach, checked_mul(dim.extent - 1, dim.stride));
  }
}

PerDim<std::uint64_t> block_extents(LayoutConfig const& config, KvBlockLayout const& format) {
  if (format.is_unknown()) {
    return {config.num_layers(), config.outer_dim(), config.page_size(), 1, config.inner_dim()};
  }
  KVBM_EXPECTS(
      config.num_heads().has_value(), InvalidArgument,
      fmt::format("format {} needs num_heads, which the config (inner_dim {}) does not set",
                  format.to_string(), config.inner_dim()));
  return {config.num_layers(), config.outer_dim(), config.page_size(), *config.num_heads(),
          config.head_dim()};
}

std::array<StridedDim, kNumBlockDims> named_dims(BlockStrides const& strides,
                                                 PerDim<std::uint64_t> const& extents) {
  std::array<StridedDim, kNumBlockDims> dims;
  for (std::size_t i = 0; i < kNumBlockDims; ++i) {
    dims[i] = {to_string(static_cast<BlockDim>(i)), extents[i],
               static_cast<std::uint64_t>(strides.bytes[i])};
  }
  return dims;
}

void check_strided(BlockStrides const& strides, PerDim<std::uint64_t> const& extents,
                   std::uint64_t element_bytes, BlockDim first) {
  auto const all = named_dims(strides, extents);
  auto const dims = std::span(all).subspan(index_of(first));
  for (auto const& dim : dims) {
    KVBM_EXPECTS(dim.extent == 1 || dim.stride % element_bytes == 0, InvalidArgument,
                 fmt::format("Strided format: stride {} of {} is not a multiple of the element's "
                             "{} bytes",
                             dim.stride, dim.name, element_bytes));
  }
  expect_disjoint(dims, element_bytes, "Strided format");
  auto const reach = reach_bytes(dims, element_bytes);
  KVBM_EXPECTS(reach <= strides.footprint, InvalidArgument,
               fmt::format("Strided format: elements reach over {} bytes, footprint is {}", reach,
                           strides.footprint));
  KVBM_EXPECTS(strides.footprint % element_bytes == 0, InvalidArgument,
               fmt::format("Strided format: footprint {} is not a multiple of the element's {} "
                           "bytes",
                           strides.footprint, element_bytes));
}

std::uint64_t bounded_mul(std::uint64_t a, std::uint64_t b, char const* what) {
  KVBM_EXPECTS(a == 0 || b <= kMaxBytes / a, Overflow,
               fmt::format("{}: {} * {} exceeds {} bytes", what, a, b, kMaxBytes));
  return a * b;
}

}  // namespace kvbm::layout::detail
