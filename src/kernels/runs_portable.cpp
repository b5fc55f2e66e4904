// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cstring>

#include "kernels/nest_kernels.hpp"

namespace kvbm::kernels {
namespace {

/// The loops around runs of a length that the compiler knows.
template <std::size_t RunBytes>
void copy_fixed_runs(std::byte const* src, std::byte* dst, Nest const& nest) noexcept {
  Loop const& inner = nest.inner;
  for (std::uint64_t start = 0; start < inner.extent; start += nest.tile) {
    std::uint64_t const count = std::min(nest.tile, inner.extent - start);
    std::byte const* src_row = advanced(src, start, inner.src_stride);
    std::byte* dst_row = advanced(dst, start, inner.dst_stride);
    for (std::uint64_t j = 0; j < nest.outer.extent; ++j) {
      std::byte const* from = src_row;
      std::byte* to = dst_row;
      for (std::uint64_t i = 0; i < count; ++i) {
        std::memcpy(to, from, RunBytes);
        from += inner.src_stride;
        to += inner.dst_stride;
      }
      src_row += nest.outer.src_stride;
      dst_row += nest.outer.dst_stride;
    }
  }
}

void copy_any_runs(std::byte const* src, std::byte* dst, Nest const& nest) noexcept {
  Loop const& inner = nest.inner;
  for (std::uint64_t start = 0; start < inner.extent; start += nest.tile) {
    std::uint64_t const count = std::min(nest.tile, inner.extent - start);
    for (std::uint64_t j = 0; j < nest.outer.extent; ++j) {
      std::byte const* from =
          advanced(advanced(src, start, inner.src_stride), j, nest.outer.src_stride);
      std::byte* to = advanced(advanced(dst, start, inner.dst_stride), j, nest.outer.dst_stride);
      for (std::uint64_t i = 0; i < count; ++i) {
        std::memcpy(to, from, nest.run_bytes);
        from += inner.src_stride;
        to += inner.dst_stride;
      }
    }
  }
}

}  // namespace

NestKernel portable_run_kernel(std::uint64_t run_bytes) noexcept {
  switch (run_bytes) {
    case 1: return copy_fixed_runs<1>;
    case 2: return copy_fixed_runs<2>;
    case 3: return copy_fixed_runs<3>;
    case 4: return copy_fixed_runs<4>;
    case 6: return copy_fixed_runs<6>;
    case 8: return copy_fixed_runs<8>;
    case 12: return copy_fixed_runs<12>;
    case 16: return copy_fixed_runs<16>;
    case 24: return copy_fixed_runs<24>;
    case 32: return copy_fixed_runs<32>;
    case 48: return copy_fixed_runs<48>;
    case 64: return copy_fixed_runs<64>;
    case 128: return copy_fixed_runs<128>;
    case 256: return copy_fixed_runs<256>;
    default: return copy_any_runs;
  }
}

NestKernel select_run_kernel(std::uint64_t run_bytes, bool non_temporal) noexcept {
  if (have_avx2()) {
    if (NestKernel const kernel = avx2_run_kernel(run_bytes, non_temporal)) return kernel;
  }
  return portable_run_kernel(run_bytes);
}

bool have_avx2() noexcept {
#if KVBM_KERNELS_X86
  return __builtin_cpu_supports("avx2") != 0;
#else
  return false;
#endif
}

}  // namespace kvbm::kernels
