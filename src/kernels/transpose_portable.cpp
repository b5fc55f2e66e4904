// SPDX-License-Identifier: Apache-2.0
#include "kernels/transpose_tiles.hpp"

namespace kvbm::kernels {
namespace {

template <std::size_t Width>
void transpose(std::byte const* src, std::byte* dst, Nest const& nest) noexcept {
  for (std::uint64_t column = 0; column < nest.outer.extent; column += kTileColumns<Width>) {
    std::uint64_t const columns = std::min(kTileColumns<Width>, nest.outer.extent - column);
    for (std::uint64_t row = 0; row < nest.inner.extent; row += kTileRows<Width>) {
      std::uint64_t const rows = std::min(kTileRows<Width>, nest.inner.extent - row);
      transpose_elements<Width>({advanced(src + column * Width, row, nest.inner.src_stride),
                                 advanced(dst + row * Width, column, nest.outer.dst_stride),
                                 nest.inner.src_stride, nest.outer.dst_stride},
                                rows, columns);
    }
  }
}

}  // namespace

NestKernel portable_transpose_kernel(std::uint64_t width) noexcept {
  switch (width) {
    case 1: return transpose<1>;
    case 2: return transpose<2>;
    case 4: return transpose<4>;
    case 8: return transpose<8>;
    default: return nullptr;
  }
}

NestKernel select_transpose_kernel(std::uint64_t width, bool non_temporal) noexcept {
#if KVBM_KERNELS_X86
  return have_avx2() ? avx2_transpose_kernel(width, non_temporal) : sse2_transpose_kernel(width);
#else
  static_cast<void>(non_temporal);
  return portable_transpose_kernel(width);
#endif
}

}  // namespace kvbm::kernels
