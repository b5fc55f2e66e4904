// SPDX-License-Identifier: Apache-2.0
#include "kernels/transpose_x86.hpp"

namespace kvbm::kernels {

#if KVBM_KERNELS_X86
namespace {

template <std::size_t Width>
void transpose(std::byte const* src, std::byte* dst, Nest const& nest) noexcept {
  Tile const whole{src, dst, nest.inner.src_stride, nest.outer.dst_stride};
  for (std::uint64_t column = 0; column < nest.outer.extent; column += kTileColumns<Width>) {
    std::uint64_t const columns = std::min(kTileColumns<Width>, nest.outer.extent - column);
    std::uint64_t const even_columns = columns / kLanes<Width> * kLanes<Width>;
    for (std::uint64_t row = 0; row < nest.inner.extent; row += kTileRows<Width>) {
      std::uint64_t const rows = std::min(kTileRows<Width>, nest.inner.extent - row);
      Tile const tile = subtile<Width>(whole, row, column);
      transpose_remaining_rows<Width>(tile, 0, rows, even_columns);
      transpose_remaining_columns<Width>(tile, even_columns, rows, columns);
    }
  }
}

}  // namespace

NestKernel sse2_transpose_kernel(std::uint64_t width) noexcept {
  switch (width) {
    case 1: return transpose<1>;
    case 2: return transpose<2>;
    case 4: return transpose<4>;
    case 8: return transpose<8>;
    default: return nullptr;
  }
}

#else

NestKernel sse2_transpose_kernel(std::uint64_t) noexcept { return nullptr; }

#endif

}  // namespace kvbm::kernels
