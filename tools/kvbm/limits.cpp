// SPDX-License-Identifier: Apache-2.0
#include "limits.hpp"

#include <algorithm>
#include <atomic>
#include <cstring>

#include "measure.hpp"

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

namespace kvbm::cli {
namespace {

constexpr std::uint64_t kSliceBytes = std::uint64_t{1} << 20U;

memory::Region allocate(memory::MemorySource& source, std::uint64_t bytes, int value) {
  memory::AllocationRequest request;
  request.bytes = bytes;
  auto region = source.allocate(request);
  std::memset(region.host_data(), value, bytes);  // touches every page
  return region;
}

/// @pre both aligned to 64 bytes, bytes a multiple of 64
void stream_slice(std::byte* dst, std::byte const* src, std::uint64_t bytes) {
#if defined(__SSE2__)
  for (std::uint64_t i = 0; i < bytes; i += 64) {
    auto const* const from = reinterpret_cast<__m128i const*>(src + i);
    auto* const to = reinterpret_cast<__m128i*>(dst + i);
    __m128i const a = _mm_load_si128(from);
    __m128i const b = _mm_load_si128(from + 1);
    __m128i const c = _mm_load_si128(from + 2);
    __m128i const d = _mm_load_si128(from + 3);
    _mm_stream_si128(to, a);
    _mm_stream_si128(to + 1, b);
    _mm_stream_si128(to + 2, c);
    _mm_stream_si128(to + 3, d);
  }
  _mm_sfence();
#else
  std::memcpy(dst, src, bytes);
#endif
}

std::uint64_t sum_slice(std::byte const* src, std::uint64_t bytes) {
  constexpr std::uint64_t kLanes = 16;
  std::uint64_t sums[kLanes] = {};
  for (std::uint64_t i = 0; i < bytes; i += kLanes * sizeof(std::uint64_t)) {
    std::uint64_t words[kLanes];
    std::memcpy(words, src + i, sizeof words);
    for (std::uint64_t lane = 0; lane < kLanes; ++lane) {
      sums[lane] += words[lane];
    }
  }
  std::uint64_t total = 0;
  for (std::uint64_t const sum : sums) {
    total += sum;
  }
  return total;
}

}  // namespace

MemoryLimits::MemoryLimits(kernels::CopyEngine& engine, memory::MemorySource& source,
                           std::uint64_t bytes)
    : engine_(engine),
      bytes_(std::max<std::uint64_t>(1, (bytes + kSliceBytes - 1) / kSliceBytes) * kSliceBytes),
      src_(allocate(source, bytes_, 1)),
      dst_(allocate(source, bytes_, 2)) {}

template <typename Slice>
double MemoryLimits::in_slices(Slice&& slice) {
  return seconds([&] {
    engine_.parallel_for(bytes_ / kSliceBytes, 4, [&](std::size_t i) {
      slice(dst_.host_data() + i * kSliceBytes, src_.host_data() + i * kSliceBytes);
    });
  });
}

double MemoryLimits::stream_copy() {
  return in_slices(
      [](std::byte* dst, std::byte const* src) { stream_slice(dst, src, kSliceBytes); });
}

double MemoryLimits::memcpy_copy() {
  return in_slices(
      [](std::byte* dst, std::byte const* src) { std::memcpy(dst, src, kSliceBytes); });
}

double MemoryLimits::plain_read() {
  std::atomic<std::uint64_t> total{0};  // keeps the compiler from dropping the loop
  return in_slices([&total](std::byte const*, std::byte const* src) {
    total.fetch_add(sum_slice(src, kSliceBytes), std::memory_order_relaxed);
  });
}

}  // namespace kvbm::cli
