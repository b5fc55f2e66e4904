// SPDX-License-Identifier: Apache-2.0
#include "kernels/transpose_x86.hpp"

namespace kvbm::kernels {

#if KVBM_KERNELS_X86
namespace {

template <std::size_t Width>
KVBM_TARGET_AVX2_INLINE __m256i wide_low(__m256i a, __m256i b) noexcept {
  if constexpr (Width == 1) return _mm256_unpacklo_epi8(a, b);
  if constexpr (Width == 2) return _mm256_unpacklo_epi16(a, b);
  if constexpr (Width == 4) return _mm256_unpacklo_epi32(a, b);
  if constexpr (Width == 8) return _mm256_unpacklo_epi64(a, b);
}

template <std::size_t Width>
KVBM_TARGET_AVX2_INLINE __m256i wide_high(__m256i a, __m256i b) noexcept {
  if constexpr (Width == 1) return _mm256_unpackhi_epi8(a, b);
  if constexpr (Width == 2) return _mm256_unpackhi_epi16(a, b);
  if constexpr (Width == 4) return _mm256_unpackhi_epi32(a, b);
  if constexpr (Width == 8) return _mm256_unpackhi_epi64(a, b);
}

/// The network of transpose_registers, in both halves of wide registers at once.
template <std::size_t Width, std::size_t Registers>
KVBM_TARGET_AVX2_INLINE void transpose_wide_registers(__m256i (&rows)[Registers]) noexcept {
#pragma GCC unroll 4
  for (std::size_t step = 0; step < kLaneBits<Width>; ++step) {
    __m256i next[Registers];
#pragma GCC unroll 8
    for (std::size_t i = 0; i < Registers / 2; ++i) {
      next[2 * i] = wide_low<Width>(rows[i], rows[i + Registers / 2]);
      next[2 * i + 1] = wide_high<Width>(rows[i], rows[i + Registers / 2]);
    }
#pragma GCC unroll 16
    for (std::size_t i = 0; i < Registers; ++i)
      rows[i] = next[i];
  }
}

/// Twice as many rows as columns: the upper halves of the registers hold the lower rows, so that
/// the lanes never have to cross and every store is a whole register.
template <std::size_t Width>
KVBM_TARGET_AVX2_INLINE void transpose_tall(Tile const& tile) noexcept {
  constexpr std::size_t kCount = kLanes<Width>;
  __m256i rows[kCount];
#pragma GCC unroll 16
  for (std::size_t i = 0; i < kCount; ++i) {
    auto const* upper = advanced(tile.src, i, tile.src_stride);
    auto const* lower = advanced(tile.src, i + kCount, tile.src_stride);
    rows[i] = _mm256_inserti128_si256(
        _mm256_castsi128_si256(_mm_loadu_si128(reinterpret_cast<__m128i const*>(upper))),
        _mm_loadu_si128(reinterpret_cast<__m128i const*>(lower)), 1);
  }
  transpose_wide_registers<Width>(rows);
#pragma GCC unroll 16
  for (std::size_t i = 0; i < kCount; ++i) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(advanced(tile.dst, i, tile.dst_stride)),
                        rows[i]);
  }
}

/// Twice as many columns as rows: each half of the registers is a square of its own.
template <std::size_t Width>
KVBM_TARGET_AVX2_INLINE void transpose_broad(Tile const& tile) noexcept {
  constexpr std::size_t kCount = kLanes<Width>;
  __m256i rows[kCount];
#pragma GCC unroll 16
  for (std::size_t i = 0; i < kCount; ++i) {
    rows[i] = _mm256_loadu_si256(
        reinterpret_cast<__m256i const*>(advanced(tile.src, i, tile.src_stride)));
  }
  transpose_wide_registers<Width>(rows);
#pragma GCC unroll 16
  for (std::size_t i = 0; i < kCount; ++i) {
    auto* const left = advanced(tile.dst, i, tile.dst_stride);
    auto* const right = advanced(tile.dst, i + kCount, tile.dst_stride);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(left), _mm256_castsi256_si128(rows[i]));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(right), _mm256_extracti128_si256(rows[i], 1));
  }
}

template <std::size_t Width>
KVBM_TARGET_AVX2_INLINE void transpose_tile(Tile const& tile, std::uint64_t rows,
                                            std::uint64_t columns) noexcept {
  constexpr std::uint64_t kCount = kLanes<Width>;
  std::uint64_t const even_columns = columns / kCount * kCount;
  std::uint64_t row = 0;
  for (; row + 2 * kCount <= rows; row += 2 * kCount) {
    for (std::uint64_t column = 0; column < even_columns; column += kCount) {
      transpose_tall<Width>(subtile<Width>(tile, row, column));
    }
  }
  if (row + kCount <= rows && even_columns >= 2 * kCount) {
    std::uint64_t column = 0;
    for (; column + 2 * kCount <= even_columns; column += 2 * kCount) {
      transpose_broad<Width>(subtile<Width>(tile, row, column));
    }
    for (; column < even_columns; column += kCount) {
      transpose_square<Width>(subtile<Width>(tile, row, column));
    }
    row += kCount;
  }
  transpose_remaining_rows<Width>(tile, row, rows, even_columns);
  transpose_remaining_columns<Width>(tile, even_columns, rows, columns);
}

template <std::size_t Width>
KVBM_TARGET_AVX2 void transpose(std::byte const* src, std::byte* dst, Nest const& nest) noexcept {
  Tile const whole{src, dst, nest.inner.src_stride, nest.outer.dst_stride};
  for (std::uint64_t column = 0; column < nest.outer.extent; column += kTileColumns<Width>) {
    std::uint64_t const columns = std::min(kTileColumns<Width>, nest.outer.extent - column);
    for (std::uint64_t row = 0; row < nest.inner.extent; row += kTileRows<Width>) {
      std::uint64_t const rows = std::min(kTileRows<Width>, nest.inner.extent - row);
      transpose_tile<Width>(subtile<Width>(whole, row, column), rows, columns);
    }
  }
}

/// Tiles are put together in L1 and leave it as whole lines, around the caches: the destination's
/// lines are never read.
template <std::size_t Width>
KVBM_TARGET_AVX2 void transpose_staged(std::byte const* src, std::byte* dst,
                                       Nest const& nest) noexcept {
  constexpr std::uint64_t kLineBytes = 64;
  constexpr std::uint64_t kRows = kTileRows<Width>;
  constexpr std::uint64_t kColumns = kTileColumns<Width>;
  auto const row_bytes = static_cast<std::int64_t>(nest.inner.extent * Width);
  bool const packed = nest.inner.extent <= kRows && nest.outer.dst_stride == row_bytes;
  bool const whole_lines =
      (reinterpret_cast<std::uintptr_t>(dst) | static_cast<std::uintptr_t>(nest.outer.dst_stride)) %
          kLineBytes ==
      0;
  if (!packed && !whole_lines) {
    transpose<Width>(src, dst, nest);
    return;
  }
  alignas(kLineBytes) std::byte stage[kColumns * kLineBytes];
  Tile const whole{src, dst, nest.inner.src_stride, nest.outer.dst_stride};
  for (std::uint64_t column = 0; column < nest.outer.extent; column += kColumns) {
    std::uint64_t const columns = std::min(kColumns, nest.outer.extent - column);
    for (std::uint64_t row = 0; row < nest.inner.extent; row += kRows) {
      std::uint64_t const rows = std::min(kRows, nest.inner.extent - row);
      Tile const tile = subtile<Width>(whole, row, column);
      if (!packed && rows < kRows) {
        transpose_tile<Width>(tile, rows, columns);
        continue;
      }
      Tile staged = tile;
      staged.dst = stage;
      staged.dst_stride = static_cast<std::int64_t>(rows * Width);
      transpose_tile<Width>(staged, rows, columns);
      if (packed) {
        stream_copy_avx2(tile.dst, stage, columns * rows * Width);
        continue;
      }
      for (std::uint64_t i = 0; i < columns; ++i) {
        auto const* from = reinterpret_cast<__m256i const*>(stage + i * kLineBytes);
        auto* to = reinterpret_cast<__m256i*>(advanced(tile.dst, i, tile.dst_stride));
        _mm256_stream_si256(to, _mm256_load_si256(from));
        _mm256_stream_si256(to + 1, _mm256_load_si256(from + 1));
      }
    }
  }
}

template <std::size_t Width>
NestKernel kernel(bool non_temporal) noexcept {
  return non_temporal ? transpose_staged<Width> : transpose<Width>;
}

}  // namespace

NestKernel avx2_transpose_kernel(std::uint64_t width, bool non_temporal) noexcept {
  switch (width) {
    case 1: return kernel<1>(non_temporal);
    case 2: return kernel<2>(non_temporal);
    case 4: return kernel<4>(non_temporal);
    case 8: return kernel<8>(non_temporal);
    default: return nullptr;
  }
}

#else

NestKernel avx2_transpose_kernel(std::uint64_t, bool) noexcept { return nullptr; }

#endif

}  // namespace kvbm::kernels
