// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/box_plan.hpp"

#if defined(__x86_64__) && (defined(__GNUC__) || defined(__clang__))
#define KVBM_KERNELS_X86 1
/// For functions that only run where the CPU was found to have AVX2.
#define KVBM_TARGET_AVX2 __attribute__((target("avx2")))
#define KVBM_TARGET_AVX2_INLINE __attribute__((target("avx2"), always_inline)) inline
#else
#define KVBM_KERNELS_X86 0
#endif

namespace kvbm::kernels {

/// Kernel that copies runs of `run_bytes`; any strides, any alignment. Never null.
NestKernel select_run_kernel(std::uint64_t run_bytes, bool non_temporal) noexcept;

/// Kernel that transposes elements of `width` bytes (1, 2, 4 or 8) where the source is contiguous
/// along nest.outer and the destination along nest.inner; null for other widths.
NestKernel select_transpose_kernel(std::uint64_t width, bool non_temporal) noexcept;

/// Whether this CPU has AVX2.
bool have_avx2() noexcept;

// Families behind the selection. The portable ones exist everywhere; the AVX2 ones return null
// where the build or the run length has none.
NestKernel portable_run_kernel(std::uint64_t run_bytes) noexcept;
NestKernel avx2_run_kernel(std::uint64_t run_bytes, bool non_temporal) noexcept;
NestKernel portable_transpose_kernel(std::uint64_t width) noexcept;
NestKernel sse2_transpose_kernel(std::uint64_t width) noexcept;
NestKernel avx2_transpose_kernel(std::uint64_t width, bool non_temporal) noexcept;

/// Copies `bytes` with stores around the caches where the destination's lines are whole; ordinary
/// stores at both ends. Any alignment. Needs AVX2 on x86-64, is memcpy elsewhere.
void stream_copy_avx2(std::byte* dst, std::byte const* src, std::uint64_t bytes) noexcept;

/// src or dst moved by `index` times a stride.
template <class Byte>
Byte* advanced(Byte* base, std::uint64_t index, std::int64_t stride) noexcept {
  return base + static_cast<std::int64_t>(index) * stride;
}

}  // namespace kvbm::kernels
