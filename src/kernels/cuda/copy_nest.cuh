// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "kvbm/kernels/kernels.h"

namespace kvbm::kernels {

/// Units of one launch: their numbers stay below 2^31, where a division is one multiplication.
inline constexpr std::uint64_t kMaxUnits = (std::uint64_t{1} << 31U) - (1U << 20U);

/// Division of numbers below 2^31 by a constant of the launch: the upper half of a product, shifted
/// (Granlund, Montgomery: Division by invariant integers using multiplication, 1994).
struct FastDivider {
  std::uint32_t divisor = 1;
  std::uint32_t magic = 0;
  std::uint32_t shift = 0;

  FastDivider() = default;
  explicit FastDivider(std::uint64_t d) : divisor(static_cast<std::uint32_t>(d)) {
    if (d == 1) return;
    auto const bits = static_cast<unsigned>(64 - __builtin_clzll(d - 1));  // ceil(log2(d))
    magic = static_cast<std::uint32_t>(((std::uint64_t{1} << (31 + bits)) + d - 1) / d);
    shift = bits - 1;
  }
#ifdef __CUDACC__
  __device__ __forceinline__ std::uint32_t divide(std::uint32_t n) const {
    return divisor == 1 ? n : __umulhi(n, magic) >> shift;
  }
#endif
};

struct NestDim {
  FastDivider extent;
  std::int64_t src_stride;
  std::int64_t dst_stride;
};

/// The loops of every box as a kernel sees them: numbers of units, a run being cut into units of
/// `unit_bytes` (the last one of a run may be shorter).
struct CopyNest {
  std::uint64_t run_bytes;
  std::uint32_t unit_bytes;
  std::uint32_t num_units;  ///< of all boxes
  FastDivider units_per_run;
  std::uint32_t num_dims;
  NestDim dims[KVBM_MAX_COPY_DIMS];  ///< innermost first

  /// @pre shape is reduced, and its units fit
  CopyNest(kvbm_copy_template const& shape, std::uint64_t bytes_per_unit, std::uint64_t num_boxes)
      : run_bytes(shape.run_bytes),
        unit_bytes(static_cast<std::uint32_t>(bytes_per_unit)),
        units_per_run((shape.run_bytes + bytes_per_unit - 1) / bytes_per_unit),
        num_dims(shape.num_dims) {
    std::uint64_t units = num_boxes * units_per_run.divisor;
    for (std::uint32_t i = 0; i < num_dims; ++i) {
      kvbm_copy_dim const& dim = shape.dims[num_dims - 1 - i];
      dims[i] = {FastDivider(dim.extent), dim.src_stride, dim.dst_stride};
      units *= dim.extent;
    }
    num_units = static_cast<std::uint32_t>(units);
  }

#ifdef __CUDACC__
  struct Unit {
    char const* src;
    char* dst;
    std::uint64_t bytes_left;  ///< of the run, from this unit on
  };

  template <class Source>
  __device__ __forceinline__ Unit locate(Source const& source, std::uint32_t unit) const {
    std::uint32_t run = units_per_run.divide(unit);
    std::uint64_t const offset = std::uint64_t{unit - run * units_per_run.divisor} * unit_bytes;
    std::int64_t src = static_cast<std::int64_t>(offset);
    std::int64_t dst = src;
#pragma unroll
    for (int i = 0; i < KVBM_MAX_COPY_DIMS; ++i) {
      if (i >= num_dims) break;
      std::uint32_t const next = dims[i].extent.divide(run);
      auto const at = static_cast<std::int64_t>(run - next * dims[i].extent.divisor);
      src += at * dims[i].src_stride;
      dst += at * dims[i].dst_stride;
      run = next;
    }
    auto const box = source.at(run);
    return {box.src + src, box.dst + dst, run_bytes - offset};
  }
#endif
};

/// Units that one box of a reduced template has; kMaxUnits + 1 stands for more than a launch takes.
inline std::uint64_t units_per_box(kvbm_copy_template const& shape, std::uint64_t unit_bytes) {
  std::uint64_t units = (shape.run_bytes + unit_bytes - 1) / unit_bytes;
  for (std::uint32_t i = 0; i < shape.num_dims; ++i) {
    if (__builtin_mul_overflow(units, shape.dims[i].extent, &units)) return kMaxUnits + 1;
  }
  return units <= kMaxUnits ? units : kMaxUnits + 1;
}

#ifdef __CUDACC__
struct Box {
  char const* src;
  char* dst;
};
#endif

/// Boxes of a kvbm_copy_boxes, which travel as a kernel parameter. Bytes: of the tables.
template <unsigned Bytes>
struct ParamBoxes {
  static constexpr unsigned kTableBytes = Bytes;
  std::uint64_t src_block_stride;
  std::uint64_t dst_block_stride;
  FastDivider inner;  ///< extent of the inner one of blocks and segments
  std::uint32_t segments_inside;
  std::uint32_t num_segments;
  std::uint32_t num_blocks;
  std::uint64_t tables[Bytes / 8];  ///< source segments, destination segments, ids of both sides

#ifdef __CUDACC__
  __device__ __forceinline__ Box at(std::uint32_t box) const {
    std::uint32_t const outer = inner.divide(box);
    std::uint32_t const in = box - outer * inner.divisor;
    std::uint32_t const segment = segments_inside != 0 ? in : outer;
    std::uint32_t const block = segments_inside != 0 ? outer : in;
    auto const* const ids = reinterpret_cast<std::uint32_t const*>(tables) + 4 * num_segments;
    return {reinterpret_cast<char const*>(tables[segment] + ids[block] * src_block_stride),
            reinterpret_cast<char*>(tables[num_segments + segment] +
                                    ids[num_blocks + block] * dst_block_stride)};
  }
#endif
};

/// Pairs of addresses in tables that the device reads.
struct TablePairs {
  void const* const* src_ptrs;
  void* const* dst_ptrs;

#ifdef __CUDACC__
  __device__ __forceinline__ Box at(std::uint32_t pair) const {
    return {static_cast<char const*>(src_ptrs[pair]), static_cast<char*>(dst_ptrs[pair])};
  }
#endif
};

/// Operational chunks against their slices of universal blocks, in tables that the device reads.
template <bool ToUniversal>
struct TableChunks {
  void* const* universal_ptrs;
  void* const* chunk_ptrs;
  FastDivider chunks_per_block;
  std::uint64_t slice_bytes;

#ifdef __CUDACC__
  __device__ __forceinline__ Box at(std::uint32_t chunk) const {
    std::uint32_t const block = chunks_per_block.divide(chunk);
    std::uint32_t const in_block = chunk - block * chunks_per_block.divisor;
    char* const universal = static_cast<char*>(universal_ptrs[block]) + in_block * slice_bytes;
    char* const operational = static_cast<char*>(chunk_ptrs[chunk]);
    if constexpr (ToUniversal) return {operational, universal};
    return {universal, operational};
  }
#endif
};

}  // namespace kvbm::kernels
