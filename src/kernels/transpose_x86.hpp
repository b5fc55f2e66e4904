// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "kernels/transpose_tiles.hpp"

#if KVBM_KERNELS_X86

#include <immintrin.h>

namespace kvbm::kernels {

#define KVBM_INLINE __attribute__((always_inline)) inline

template <std::size_t Width>
KVBM_INLINE __m128i interleave_low(__m128i a, __m128i b) noexcept {
  if constexpr (Width == 1) return _mm_unpacklo_epi8(a, b);
  if constexpr (Width == 2) return _mm_unpacklo_epi16(a, b);
  if constexpr (Width == 4) return _mm_unpacklo_epi32(a, b);
  if constexpr (Width == 8) return _mm_unpacklo_epi64(a, b);
}

template <std::size_t Width>
KVBM_INLINE __m128i interleave_high(__m128i a, __m128i b) noexcept {
  if constexpr (Width == 1) return _mm_unpackhi_epi8(a, b);
  if constexpr (Width == 2) return _mm_unpackhi_epi16(a, b);
  if constexpr (Width == 4) return _mm_unpackhi_epi32(a, b);
  if constexpr (Width == 8) return _mm_unpackhi_epi64(a, b);
}

/// Elements of a 16-byte vector, and the bits that number them.
template <std::size_t Width>
inline constexpr std::size_t kLanes = 16 / Width;
template <std::size_t Width>
inline constexpr std::size_t kLaneBits = Width == 1   ? 4
                                         : Width == 2 ? 3
                                         : Width == 4 ? 2
                                                      : 1;

// One step interleaves register i with register i + n / 2: the bits of (register, lane) rotate by
// one. As many steps as a lane number has bits exchange register and lane, which is the
// transposition. With half as many registers, one step less leaves two columns in each, and as
// many steps take two rows in each.

template <std::size_t Width, std::size_t Steps, std::size_t Registers>
KVBM_INLINE void transpose_registers(__m128i (&rows)[Registers]) noexcept {
#pragma GCC unroll 4
  for (std::size_t step = 0; step < Steps; ++step) {
    __m128i next[Registers];
#pragma GCC unroll 8
    for (std::size_t i = 0; i < Registers / 2; ++i) {
      next[2 * i] = interleave_low<Width>(rows[i], rows[i + Registers / 2]);
      next[2 * i + 1] = interleave_high<Width>(rows[i], rows[i + Registers / 2]);
    }
#pragma GCC unroll 16
    for (std::size_t i = 0; i < Registers; ++i)
      rows[i] = next[i];
  }
}

/// As many rows as columns: 16, 8, 4 or 2 of each.
template <std::size_t Width>
KVBM_INLINE void transpose_square(Tile const& tile) noexcept {
  constexpr std::size_t kCount = kLanes<Width>;
  __m128i rows[kCount];
#pragma GCC unroll 16
  for (std::size_t i = 0; i < kCount; ++i) {
    rows[i] =
        _mm_loadu_si128(reinterpret_cast<__m128i const*>(advanced(tile.src, i, tile.src_stride)));
  }
  transpose_registers<Width, kLaneBits<Width>>(rows);
#pragma GCC unroll 16
  for (std::size_t i = 0; i < kCount; ++i) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(advanced(tile.dst, i, tile.dst_stride)), rows[i]);
  }
}

/// Half as many rows as columns, for heads or tokens that are few.
template <std::size_t Width>
KVBM_INLINE void transpose_flat(Tile const& tile) noexcept {
  constexpr std::size_t kCount = kLanes<Width> / 2;
  __m128i rows[kCount];
#pragma GCC unroll 8
  for (std::size_t i = 0; i < kCount; ++i) {
    rows[i] =
        _mm_loadu_si128(reinterpret_cast<__m128i const*>(advanced(tile.src, i, tile.src_stride)));
  }
  transpose_registers<Width, kLaneBits<Width> - 1>(rows);
#pragma GCC unroll 8
  for (std::size_t i = 0; i < kCount; ++i) {
    auto* const even = advanced(tile.dst, 2 * i, tile.dst_stride);
    auto* const odd = advanced(tile.dst, 2 * i + 1, tile.dst_stride);
    _mm_storel_epi64(reinterpret_cast<__m128i*>(even), rows[i]);
    _mm_storel_epi64(reinterpret_cast<__m128i*>(odd), _mm_unpackhi_epi64(rows[i], rows[i]));
  }
}

/// Half as many columns as rows.
template <std::size_t Width>
KVBM_INLINE void transpose_narrow(Tile const& tile) noexcept {
  constexpr std::size_t kCount = kLanes<Width> / 2;
  __m128i rows[kCount];
#pragma GCC unroll 8
  for (std::size_t i = 0; i < kCount; ++i) {
    auto const* const even = advanced(tile.src, 2 * i, tile.src_stride);
    auto const* const odd = advanced(tile.src, 2 * i + 1, tile.src_stride);
    rows[i] = _mm_unpacklo_epi64(_mm_loadl_epi64(reinterpret_cast<__m128i const*>(even)),
                                 _mm_loadl_epi64(reinterpret_cast<__m128i const*>(odd)));
  }
  transpose_registers<Width, kLaneBits<Width>>(rows);
#pragma GCC unroll 8
  for (std::size_t i = 0; i < kCount; ++i) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(advanced(tile.dst, i, tile.dst_stride)), rows[i]);
  }
}

/// `tile` moved by rows and columns.
template <std::size_t Width>
KVBM_INLINE Tile subtile(Tile const& tile, std::uint64_t row, std::uint64_t column) noexcept {
  return {advanced(tile.src + column * Width, row, tile.src_stride),
          advanced(tile.dst + row * Width, column, tile.dst_stride), tile.src_stride,
          tile.dst_stride};
}

/// What the wide registers left over: rows from `row` on, columns a multiple of kLanes.
template <std::size_t Width>
KVBM_INLINE void transpose_remaining_rows(Tile const& tile, std::uint64_t row, std::uint64_t rows,
                                          std::uint64_t columns) noexcept {
  constexpr std::uint64_t kCount = kLanes<Width>;
  for (; row + kCount <= rows; row += kCount) {
    for (std::uint64_t column = 0; column < columns; column += kCount) {
      transpose_square<Width>(subtile<Width>(tile, row, column));
    }
  }
  if constexpr (kCount >= 4) {
    if (row + kCount / 2 <= rows) {
      for (std::uint64_t column = 0; column < columns; column += kCount) {
        transpose_flat<Width>(subtile<Width>(tile, row, column));
      }
      row += kCount / 2;
    }
  }
  if (row < rows) transpose_elements<Width>(subtile<Width>(tile, row, 0), rows - row, columns);
}

/// The columns that are left over, fewer than kLanes.
template <std::size_t Width>
KVBM_INLINE void transpose_remaining_columns(Tile const& tile, std::uint64_t column,
                                             std::uint64_t rows, std::uint64_t columns) noexcept {
  constexpr std::uint64_t kCount = kLanes<Width>;
  if constexpr (kCount >= 4) {
    if (column + kCount / 2 <= columns) {
      std::uint64_t row = 0;
      for (; row + kCount <= rows; row += kCount) {
        transpose_narrow<Width>(subtile<Width>(tile, row, column));
      }
      transpose_elements<Width>(subtile<Width>(tile, row, column), rows - row, kCount / 2);
      column += kCount / 2;
    }
  }
  transpose_elements<Width>(subtile<Width>(tile, 0, column), rows, columns - column);
}

}  // namespace kvbm::kernels

#endif
