// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cstring>

#include "kernels/nest_kernels.hpp"

#if KVBM_KERNELS_X86
#include <immintrin.h>
#endif

namespace kvbm::kernels {

#if KVBM_KERNELS_X86
namespace {

constexpr std::uint64_t kVectorBytes = 32;
constexpr std::uint64_t kLineBytes = 64;

KVBM_TARGET_AVX2_INLINE __m256i load(std::byte const* from) noexcept {
  return _mm256_loadu_si256(reinterpret_cast<__m256i const*>(from));
}

template <bool NonTemporal>
KVBM_TARGET_AVX2_INLINE void store(std::byte* to, __m256i value) noexcept {
  if constexpr (NonTemporal) {
    _mm256_stream_si256(reinterpret_cast<__m256i*>(to), value);
  } else {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), value);
  }
}

/// Groups of four vectors, loads before stores: enough in flight to hide the latency of a line.
template <bool NonTemporal>
KVBM_TARGET_AVX2_INLINE void copy_vectors(std::byte* to, std::byte const* from,
                                          std::uint64_t bytes) noexcept {
  std::uint64_t at = 0;
  for (; at + 4 * kVectorBytes <= bytes; at += 4 * kVectorBytes) {
    __m256i const a = load(from + at);
    __m256i const b = load(from + at + kVectorBytes);
    __m256i const c = load(from + at + 2 * kVectorBytes);
    __m256i const d = load(from + at + 3 * kVectorBytes);
    store<NonTemporal>(to + at, a);
    store<NonTemporal>(to + at + kVectorBytes, b);
    store<NonTemporal>(to + at + 2 * kVectorBytes, c);
    store<NonTemporal>(to + at + 3 * kVectorBytes, d);
  }
  for (; at + kVectorBytes <= bytes; at += kVectorBytes) {
    store<NonTemporal>(to + at, load(from + at));
  }
}

/// Runs of a known multiple of 32 bytes.
template <std::uint64_t RunBytes, bool NonTemporal>
struct FixedRun {
  KVBM_TARGET_AVX2_INLINE static void copy(std::byte* to, std::byte const* from,
                                           std::uint64_t /*bytes*/) noexcept {
    copy_vectors<NonTemporal>(to, from, RunBytes);
  }
};

/// Runs of any multiple of 32 bytes.
template <bool NonTemporal>
struct VectorRun {
  KVBM_TARGET_AVX2_INLINE static void copy(std::byte* to, std::byte const* from,
                                           std::uint64_t bytes) noexcept {
    copy_vectors<NonTemporal>(to, from, bytes);
  }
};

/// Runs of 32 bytes and more: the last vector overlaps the one before it.
struct OverlappingRun {
  KVBM_TARGET_AVX2_INLINE static void copy(std::byte* to, std::byte const* from,
                                           std::uint64_t bytes) noexcept {
    __m256i const tail = load(from + bytes - kVectorBytes);
    copy_vectors<false>(to, from, bytes - 1);
    store<false>(to + bytes - kVectorBytes, tail);
  }
};

/// Runs of 16 bytes: half a vector.
template <bool NonTemporal>
struct Run16 {
  KVBM_TARGET_AVX2_INLINE static void copy(std::byte* to, std::byte const* from,
                                           std::uint64_t /*bytes*/) noexcept {
    __m128i const value = _mm_loadu_si128(reinterpret_cast<__m128i const*>(from));
    if constexpr (NonTemporal) {
      _mm_stream_si128(reinterpret_cast<__m128i*>(to), value);
    } else {
      _mm_storeu_si128(reinterpret_cast<__m128i*>(to), value);
    }
  }
};

/// Runs of 16 to 31 bytes.
struct HalfVectorRun {
  KVBM_TARGET_AVX2_INLINE static void copy(std::byte* to, std::byte const* from,
                                           std::uint64_t bytes) noexcept {
    auto const at = [](auto* p) { return reinterpret_cast<__m128i const*>(p); };
    __m128i const head = _mm_loadu_si128(at(from));
    __m128i const tail = _mm_loadu_si128(at(from + bytes - 16));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to), head);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to + bytes - 16), tail);
  }
};

/// Long runs through the caches: the C library knows best.
struct LibraryRun {
  static void copy(std::byte* to, std::byte const* from, std::uint64_t bytes) noexcept {
    std::memcpy(to, from, bytes);
  }
};

KVBM_TARGET_AVX2_INLINE void stream_copy(std::byte* dst, std::byte const* src,
                                         std::uint64_t bytes) noexcept {
  auto const misaligned = reinterpret_cast<std::uintptr_t>(dst) % kLineBytes;
  std::uint64_t const head =
      std::min<std::uint64_t>(misaligned == 0 ? 0 : kLineBytes - misaligned, bytes);
  std::memcpy(dst, src, head);
  std::uint64_t const body = (bytes - head) / kLineBytes * kLineBytes;
  copy_vectors<true>(dst + head, src + head, body);
  std::uint64_t const done = head + body;
  std::memcpy(dst + done, src + done, bytes - done);
}

/// Runs of any length whose whole lines go around the caches.
struct StreamRun {
  KVBM_TARGET_AVX2_INLINE static void copy(std::byte* to, std::byte const* from,
                                           std::uint64_t bytes) noexcept {
    stream_copy(to, from, bytes);
  }
};

template <class Run>
KVBM_TARGET_AVX2 void copy_runs(std::byte const* src, std::byte* dst, Nest const& nest) noexcept {
  Loop const inner = nest.inner;
  Loop const outer = nest.outer;
  std::uint64_t const run_bytes = nest.run_bytes;
  for (std::uint64_t start = 0; start < inner.extent; start += nest.tile) {
    std::uint64_t const count = std::min(nest.tile, inner.extent - start);
    std::byte const* src_row = advanced(src, start, inner.src_stride);
    std::byte* dst_row = advanced(dst, start, inner.dst_stride);
    for (std::uint64_t j = 0; j < outer.extent; ++j) {
      std::byte const* from = src_row;
      std::byte* to = dst_row;
      for (std::uint64_t i = 0; i < count; ++i) {
        Run::copy(to, from, run_bytes);
        from += inner.src_stride;
        to += inner.dst_stride;
      }
      src_row += outer.src_stride;
      dst_row += outer.dst_stride;
    }
  }
}

/// Non-temporal where the nest writes whole lines, else through the caches: a line that is streamed
/// in parts costs more than a cached one. Asked once per nest.
template <class NonTemporalRun, class CachedRun>
KVBM_TARGET_AVX2 void copy_aligned_runs(std::byte const* src, std::byte* dst,
                                        Nest const& nest) noexcept {
  auto const bits = reinterpret_cast<std::uintptr_t>(dst) |
                    static_cast<std::uintptr_t>(nest.inner.dst_stride) |
                    static_cast<std::uintptr_t>(nest.outer.dst_stride);
  bool const one_stream =
      nest.inner.dst_stride == static_cast<std::int64_t>(nest.run_bytes) && nest.inner.extent >= 8;
  if (one_stream ? bits % std::min(nest.run_bytes, kVectorBytes) == 0
                 : (bits | nest.run_bytes) % kLineBytes == 0) {
    copy_runs<NonTemporalRun>(src, dst, nest);
  } else {
    copy_runs<CachedRun>(src, dst, nest);
  }
}

template <std::uint64_t RunBytes>
NestKernel fixed_kernel(bool non_temporal) noexcept {
  return non_temporal ? copy_aligned_runs<FixedRun<RunBytes, true>, FixedRun<RunBytes, false>>
                      : copy_runs<FixedRun<RunBytes, false>>;
}

// From here on the C library's copy and a stream with ragged ends cost nothing a run.
constexpr std::uint64_t kLongRunBytes = 2048;

}  // namespace

NestKernel avx2_run_kernel(std::uint64_t run_bytes, bool non_temporal) noexcept {
  if (run_bytes < 16) return nullptr;
  if (run_bytes == 16) {
    return non_temporal ? copy_aligned_runs<Run16<true>, Run16<false>> : copy_runs<Run16<false>>;
  }
  if (run_bytes < kVectorBytes) return copy_runs<HalfVectorRun>;
  switch (run_bytes) {
    case 32: return fixed_kernel<32>(non_temporal);
    case 64: return fixed_kernel<64>(non_temporal);
    case 128: return fixed_kernel<128>(non_temporal);
    case 256: return fixed_kernel<256>(non_temporal);
    case 512: return fixed_kernel<512>(non_temporal);
    default: break;
  }
  if (run_bytes >= kLongRunBytes) {
    return non_temporal ? copy_runs<StreamRun> : copy_runs<LibraryRun>;
  }
  if (run_bytes % kVectorBytes == 0) {
    return non_temporal ? copy_aligned_runs<VectorRun<true>, VectorRun<false>>
                        : copy_runs<VectorRun<false>>;
  }
  return copy_runs<OverlappingRun>;
}

KVBM_TARGET_AVX2 void stream_copy_avx2(std::byte* dst, std::byte const* src,
                                       std::uint64_t bytes) noexcept {
  stream_copy(dst, src, bytes);
}

#else

NestKernel avx2_run_kernel(std::uint64_t, bool) noexcept { return nullptr; }

void stream_copy_avx2(std::byte* dst, std::byte const* src, std::uint64_t bytes) noexcept {
  std::memcpy(dst, src, bytes);
}

#endif

}  // namespace kvbm::kernels
