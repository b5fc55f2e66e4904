// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstring>

#include "kernels/nest_kernels.hpp"

namespace kvbm::kernels {

/// A matrix of elements, contiguous along its columns at the source and along its rows at the
/// destination: element (row, column) moves from src + row * src_stride + column * width to
/// dst + column * dst_stride + row * width.
struct Tile {
  std::byte const* src = nullptr;
  std::byte* dst = nullptr;
  std::int64_t src_stride = 0;
  std::int64_t dst_stride = 0;
};

template <std::size_t Width>
inline void transpose_elements(Tile const& tile, std::uint64_t rows,
                               std::uint64_t columns) noexcept {
  for (std::uint64_t column = 0; column < columns; ++column) {
    std::byte const* from = tile.src + column * Width;
    std::byte* to = advanced(tile.dst, column, tile.dst_stride);
    for (std::uint64_t row = 0; row < rows; ++row) {
      std::memcpy(to + row * Width, from, Width);
      from += tile.src_stride;
    }
  }
}

/// Rows and columns of a cache tile: one line of the destination, two of the source.
template <std::size_t Width>
inline constexpr std::uint64_t kTileRows = 64 / Width;
template <std::size_t Width>
inline constexpr std::uint64_t kTileColumns = 128 / Width;

}  // namespace kvbm::kernels
