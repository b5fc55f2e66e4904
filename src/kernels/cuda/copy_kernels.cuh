// SPDX-License-Identifier: Apache-2.0
#pragma once

// The copy kernels. All of them walk the units of a CopyNest with a persistent grid; where a box
// lies is asked of `Source`, so that tables in parameters and tables in memory share them.

#include <cuda_runtime.h>

#include "kernels/cuda/copy_nest.cuh"

namespace kvbm::kernels {

inline constexpr unsigned kWarp = 32;
inline constexpr unsigned kMaxThreads = 1024;

template <unsigned Width>
struct VectorOf;
template <>
struct VectorOf<16> {
  using Type = uint4;
};
template <>
struct VectorOf<8> {
  using Type = uint2;
};
template <>
struct VectorOf<4> {
  using Type = unsigned int;
};
template <>
struct VectorOf<2> {
  using Type = unsigned short;
};
template <>
struct VectorOf<1> {
  using Type = unsigned char;
};

/// Whole vectors are read once; narrower ones share lines with their neighbours, which L1 keeps.
template <class T>
__device__ __forceinline__ T load_vector(char const* at) {
  return __ldg(reinterpret_cast<T const*>(at));
}
template <>
__device__ __forceinline__ uint4 load_vector<uint4>(char const* at) {
  uint4 value;
  asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(value.x), "=r"(value.y), "=r"(value.z), "=r"(value.w)
               : "l"(__cvta_generic_to_global(at)));
  return value;
}

template <class T>
__device__ __forceinline__ void store_vector(char* at, T value) {
  __stcs(reinterpret_cast<T*>(at), value);
}

/// Copies `count` vectors with one warp; all loads of a round are issued before its first store.
template <unsigned Width, int Unroll>
__device__ __forceinline__ void copy_vectors(char const* src, char* dst, std::uint32_t count,
                                             unsigned lane) {
  using T = typename VectorOf<Width>::Type;
  constexpr std::uint32_t kStep = kWarp * Width;
  src += lane * Width;
  dst += lane * Width;
  T values[Unroll];
#pragma unroll 1
  for (; count >= kWarp * Unroll; count -= kWarp * Unroll) {
#pragma unroll
    for (int i = 0; i < Unroll; ++i)
      values[i] = load_vector<T>(src + i * kStep);
#pragma unroll
    for (int i = 0; i < Unroll; ++i)
      store_vector<T>(dst + i * kStep, values[i]);
    src += Unroll * kStep;
    dst += Unroll * kStep;
  }
  if (count == 0) return;
#pragma unroll
  for (int i = 0; i < Unroll; ++i) {
    if (lane + i * kWarp < count) values[i] = load_vector<T>(src + i * kStep);
  }
#pragma unroll
  for (int i = 0; i < Unroll; ++i) {
    if (lane + i * kWarp < count) store_vector<T>(dst + i * kStep, values[i]);
  }
}

__device__ __forceinline__ void copy_bytes(char const* src, char* dst, std::uint32_t count,
                                           unsigned lane) {
  if (lane < count) dst[lane] = src[lane];
}

/// Copies one stretch with one warp, by the widest vectors for which both sides are aligned alike.
template <int Unroll>
__device__ __forceinline__ void copy_stretch(char const* src, char* dst, std::uint32_t bytes,
                                             unsigned lane) {
  auto const from = reinterpret_cast<std::uintptr_t>(src);
  auto const different = static_cast<std::uint32_t>(from ^ reinterpret_cast<std::uintptr_t>(dst));
  std::uint32_t const width = (different & 15U) == 0 ? 16U : different & (0U - different);
  std::uint32_t const to_boundary = static_cast<std::uint32_t>(0U - from) & (width - 1);
  std::uint32_t const head = to_boundary < bytes ? to_boundary : bytes;
  if (head != 0) {
    copy_bytes(src, dst, head, lane);
    src += head;
    dst += head;
    bytes -= head;
  }
  std::uint32_t const body = bytes & ~(width - 1);
  constexpr int kNarrowUnroll = 4;
  switch (width) {
    case 16: copy_vectors<16, Unroll>(src, dst, body / 16, lane); break;
    case 8: copy_vectors<8, kNarrowUnroll>(src, dst, body / 8, lane); break;
    case 4: copy_vectors<4, kNarrowUnroll>(src, dst, body / 4, lane); break;
    case 2: copy_vectors<2, kNarrowUnroll>(src, dst, body / 2, lane); break;
    default: copy_vectors<1, kNarrowUnroll>(src, dst, body, lane); break;
  }
  if (body != bytes) copy_bytes(src + body, dst + body, bytes - body, lane);
}

/// Long runs: a unit is a stretch of a run, and a warp copies it; one lookup a stretch.
template <class Source, int Unroll>
__global__ void __launch_bounds__(kMaxThreads, 1)
    copy_stretches(__grid_constant__ Source const source, __grid_constant__ CopyNest const nest) {
  unsigned const lane = threadIdx.x % kWarp;
  std::uint32_t const num_warps = gridDim.x * (blockDim.x / kWarp);
  // Neighbouring stretches go to different thread blocks: all of them end at the same time.
  std::uint32_t const first = threadIdx.x / kWarp * gridDim.x + blockIdx.x;
  for (std::uint32_t unit = first; unit < nest.num_units; unit += num_warps) {
    auto const [src, dst, left] = nest.locate(source, unit);
    auto const bytes = left < nest.unit_bytes ? static_cast<std::uint32_t>(left) : nest.unit_bytes;
    copy_stretch<Unroll>(src, dst, bytes, lane);
  }
}

/// Short runs: a unit is one vector of `Width` bytes, and a warp takes 32 * Unroll of them.
template <class Source, unsigned Width, int Unroll>
__global__ void __launch_bounds__(kMaxThreads, 1)
    copy_units(__grid_constant__ Source const source, __grid_constant__ CopyNest const nest) {
  using T = typename VectorOf<Width>::Type;
  unsigned const lane = threadIdx.x % kWarp;
  std::uint32_t const step = gridDim.x * (blockDim.x / kWarp) * (kWarp * Unroll);
  std::uint32_t const first =
      (threadIdx.x / kWarp * gridDim.x + blockIdx.x) * (kWarp * Unroll) + lane;
  for (std::uint32_t at = first; at < nest.num_units; at += step) {
    T values[Unroll];
    char* dst[Unroll];
#pragma unroll
    for (int i = 0; i < Unroll; ++i) {
      std::uint32_t const unit = at + static_cast<unsigned>(i) * kWarp;
      if (unit < nest.num_units) {
        auto const where = nest.locate(source, unit);
        dst[i] = where.dst;
        values[i] = load_vector<T>(where.src);
      }
    }
#pragma unroll
    for (int i = 0; i < Unroll; ++i) {
      if (at + static_cast<unsigned>(i) * kWarp < nest.num_units)
        store_vector<T>(dst[i], values[i]);
    }
  }
}

template <unsigned Width>
__device__ __forceinline__ void copy_piecewise(char const* src, char* dst, std::uint32_t bytes) {
  using T = typename VectorOf<Width>::Type;
  for (std::uint32_t at = 0; at < bytes; at += Width) {
    *reinterpret_cast<T*>(dst + at) = *reinterpret_cast<T const*>(src + at);
  }
}

/// Copies up to 16 bytes unless they are a whole vector, which the caller is told.
__device__ __forceinline__ bool copy_if_narrow(char const* src, char* dst,
                                               std::uint64_t bytes_left) {
  auto const bytes = bytes_left < 16 ? static_cast<std::uint32_t>(bytes_left) : 16U;
  auto const bits = static_cast<std::uint32_t>(reinterpret_cast<std::uintptr_t>(src) |
                                               reinterpret_cast<std::uintptr_t>(dst)) |
                    bytes;
  if (bits % 16 == 0) return true;
  if (bits % 8 == 0) {
    copy_piecewise<8>(src, dst, bytes);
  } else if (bits % 4 == 0) {
    copy_piecewise<4>(src, dst, bytes);
  } else if (bits % 2 == 0) {
    copy_piecewise<2>(src, dst, bytes);
  } else {
    copy_piecewise<1>(src, dst, bytes);
  }
  return false;
}

/// Short runs whose addresses only the device knows: a unit is up to 16 bytes, and every lane finds
/// out how its own ones are aligned.
template <class Source, int Unroll>
__global__ void __launch_bounds__(kMaxThreads, 1)
    copy_slots(__grid_constant__ Source const source, __grid_constant__ CopyNest const nest) {
  unsigned const lane = threadIdx.x % kWarp;
  std::uint32_t const step = gridDim.x * (blockDim.x / kWarp) * (kWarp * Unroll);
  std::uint32_t const first =
      (threadIdx.x / kWarp * gridDim.x + blockIdx.x) * (kWarp * Unroll) + lane;
  for (std::uint32_t at = first; at < nest.num_units; at += step) {
    uint4 values[Unroll];
    char* dst[Unroll];
    unsigned wholes = 0;
#pragma unroll
    for (int i = 0; i < Unroll; ++i) {
      std::uint32_t const unit = at + static_cast<unsigned>(i) * kWarp;
      bool whole = false;
      if (unit < nest.num_units) {
        auto const where = nest.locate(source, unit);
        whole = copy_if_narrow(where.src, where.dst, where.bytes_left);
        dst[i] = where.dst;
        if (whole) values[i] = load_vector<uint4>(where.src);
      }
      wholes |= static_cast<unsigned>(whole) << i;
    }
#pragma unroll
    for (int i = 0; i < Unroll; ++i) {
      if ((wholes >> i & 1U) != 0) store_vector<uint4>(dst[i], values[i]);
    }
  }
}

}  // namespace kvbm::kernels
