// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "kvbm/layout/config.hpp"
#include "kvbm/layout/format.hpp"

#include <cstdint>
#include <span>

/// Checks and sums over byte strides, shared by formats, geometry and views.
namespace kvbm::layout::detail {

/// One dimension of a strided piece of memory.
struct StridedDim {
  char const* name = "";
  std::uint64_t extent = 1;
  std::uint64_t stride = 0;  ///< bytes
};

/// Index of a dimension in a PerDim.
constexpr std::size_t index_of(BlockDim dim) noexcept { return static_cast<std::size_t>(dim); }

/// Bytes from the first element's first byte to behind the last element's last one.
/// @throws Error(Overflow) beyond kMaxBytes
std::uint64_t reach_bytes(std::span<StridedDim const> dims, std::uint64_t element_bytes);

/// Refuses strides with which distinct elements could share bytes: sorted by stride, every
/// dimension has to step over all that lies inside it. Dimensions of extent 1 do not count.
/// @throws Error(InvalidArgument) naming the dimension and its stride
void expect_disjoint(std::span<StridedDim const> dims, std::uint64_t element_bytes,
                     char const* what);

/// Extents of a block's dimensions as `format` sees them (Unknown: one head of inner_dim elements).
/// @throws Error(InvalidArgument) the format needs num_heads
PerDim<std::uint64_t> block_extents(LayoutConfig const& config, KvBlockLayout const& format);

/// The dimensions of `strides` with their extents, from BlockDim `first` on.
std::array<StridedDim, kNumBlockDims> named_dims(BlockStrides const& strides,
                                                 PerDim<std::uint64_t> const& extents);

/// Checks explicit strides of the dimensions from `first` (Layer, Outer or Token) to HeadDim:
/// disjoint, multiples of the element's width, inside the footprint.
/// @throws Error(InvalidArgument)
void check_strided(BlockStrides const& strides, PerDim<std::uint64_t> const& extents,
                   std::uint64_t element_bytes, BlockDim first);

/// a * b within kMaxBytes. @throws Error(Overflow) naming `what` and both
std::uint64_t bounded_mul(std::uint64_t a, std::uint64_t b, char const* what);

}  // namespace kvbm::layout::detail
