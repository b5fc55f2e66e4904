// SPDX-License-Identifier: Apache-2.0
//
// XXH3-128 of blocks in device memory, in the order of their logical tensors.
#include <cuda_runtime.h>

#include <algorithm>
#include <cstdint>
#include <limits>

#include "kernels/cuda/copy_nest.cuh"
#include "kernels/cuda/load_kernels.hpp"
#include "kernels/cuda/status.hpp"
#include "kernels/xxh3_parallel.hpp"
#include "kvbm/kernels/kernels.h"

namespace kvbm::kernels {
namespace {

constexpr std::uint32_t kChunkBytes = 16;  // one load
constexpr std::size_t kMaxSegments = 512;
constexpr std::size_t kMaxBlocks = 6000;  // with the segments just below the limit of parameters

struct Dim {
  FastDivider extent;
  std::int64_t stride;
};

/// Everything that says where the bytes of every unit are; travels as a kernel parameter.
struct Units {
  std::uint64_t unit_bytes;
  std::uint64_t block_stride;
  std::uint64_t num_units;
  std::uint32_t segments_per_unit;
  std::uint32_t units_per_block;
  FastDivider chunks_per_box;
  FastDivider chunks_per_run;
  std::uint32_t num_dims;
  Dim dims[KVBM_MAX_COPY_DIMS];  // innermost first
  std::uintptr_t segments[kMaxSegments];
  std::uint32_t blocks[kMaxBlocks];

  /// Address of chunk `chunk` of a unit.
  __device__ std::uintptr_t address(std::uint64_t unit, std::uint32_t chunk) const {
    std::uint32_t const box = chunks_per_box.divide(chunk);
    std::uint32_t const in_box = chunk - box * chunks_per_box.divisor;
    std::uint32_t run = chunks_per_run.divide(in_box);
    std::uint32_t const in_run = in_box - run * chunks_per_run.divisor;
    auto const block = static_cast<std::uint32_t>(unit / units_per_block);
    auto const part = static_cast<std::uint32_t>(unit - std::uint64_t{block} * units_per_block);
    std::uintptr_t at = segments[part * segments_per_unit + box] + blocks[block] * block_stride +
                        std::uint64_t{in_run} * kChunkBytes;
    for (std::uint32_t d = 0; d < num_dims; ++d) {
      std::uint32_t const next = dims[d].extent.divide(run);
      at += static_cast<std::uint64_t>(
          static_cast<std::int64_t>(run - next * dims[d].extent.divisor) * dims[d].stride);
      run = next;
    }
    return at;
  }
};
static_assert(sizeof(Units) <= 32764);

struct Pair {
  std::uint64_t even;
  std::uint64_t odd;
};

__device__ ulonglong2 load(std::uintptr_t at) {
  return __ldcs(reinterpret_cast<ulonglong2 const*>(at));
}

/// One warp sums 1024 bytes: thread t takes chunks t and t + 32, which belong to the same lanes.
__global__ void __launch_bounds__(256)
    sum_blocks(__grid_constant__ Units const units, std::uint64_t* __restrict__ sums) {
  std::uint64_t const per_unit = xxh3::num_full_blocks(units.unit_bytes);
  std::uint64_t const num_warps = std::uint64_t{gridDim.x} * blockDim.x / 32;
  std::uint64_t const total = per_unit * units.num_units;
  unsigned const thread = threadIdx.x % 32;
  unsigned const secret = xxh3::stripe_secret(thread / 4) + thread % 4 * kChunkBytes;
  // Stripe s reads the secret from byte 8 s: thread t's second chunk is 8 stripes further.
  std::uint64_t const even_keys[2] = {xxh3::secret_at(secret), xxh3::secret_at(secret + 64)};
  std::uint64_t const odd_keys[2] = {xxh3::secret_at(secret + 8), xxh3::secret_at(secret + 72)};
  constexpr int kUnroll = 2;  // loads in flight: twice this many
  std::uint64_t const first = (std::uint64_t{blockIdx.x} * blockDim.x + threadIdx.x) / 32 * kUnroll;
  for (std::uint64_t at = first; at < total; at += num_warps * kUnroll) {
    ulonglong2 words[kUnroll][2];
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      if (at + u >= total) { break; }
      std::uint64_t const unit = (at + u) / per_unit;
      auto const block = static_cast<std::uint32_t>(at + u - unit * per_unit);
      words[u][0] = load(units.address(unit, block * 64 + thread));
      words[u][1] = load(units.address(unit, block * 64 + thread + 32));
    }
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      if (at + u >= total) { break; }
      Pair lanes{0, 0};
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        lanes.even += xxh3::product(words[u][half].x, even_keys[half]) + words[u][half].y;
        lanes.odd += xxh3::product(words[u][half].y, odd_keys[half]) + words[u][half].x;
      }
#pragma unroll
      for (int distance = 4; distance < 32; distance *= 2) {
        lanes.even += __shfl_xor_sync(0xffffffffU, lanes.even, distance);
        lanes.odd += __shfl_xor_sync(0xffffffffU, lanes.odd, distance);
      }
      if (thread < 4) {
        reinterpret_cast<ulonglong2*>(sums)[(at + u) * 4 + thread] =
            make_ulonglong2(lanes.even, lanes.odd);
      }
    }
  }
}

/// Eight threads walk one unit's chain, a lane each; then one of them puts the end to it.
__global__ void __launch_bounds__(64)
    chain(__grid_constant__ Units const units, std::uint64_t const* __restrict__ sums,
          std::uint64_t* __restrict__ results) {
  std::uint64_t const unit = (std::uint64_t{blockIdx.x} * blockDim.x + threadIdx.x) / 8;
  if (unit >= units.num_units) { return; }
  unsigned const lane = threadIdx.x % 8;
  unsigned const group = 0xffU << (threadIdx.x % 32 / 8 * 8);
  std::uint64_t const num_blocks = xxh3::num_full_blocks(units.unit_bytes);
  std::uint64_t const* const own = sums + unit * num_blocks * xxh3::kLanes + lane;
  std::uint64_t value = xxh3::initial_lane(lane);
  constexpr std::uint64_t kAhead = 16;  // the chain is short arithmetic: keep its loads in flight
  std::uint64_t next[kAhead];
#pragma unroll
  for (std::uint64_t i = 0; i < kAhead; ++i) {
    next[i] = i < num_blocks ? __ldcs(own + i * xxh3::kLanes) : 0;
  }
  for (std::uint64_t at = 0; at < num_blocks; at += kAhead) {
#pragma unroll
    for (std::uint64_t i = 0; i < kAhead; ++i) {
      std::uint64_t const sum = next[i];
      std::uint64_t const ahead = at + i + kAhead;
      if (ahead < num_blocks) { next[i] = __ldcs(own + ahead * xxh3::kLanes); }
      if (at + i < num_blocks) { value = xxh3::scramble(value + sum, lane); }
    }
  }
  auto const add_word = [&](std::uint64_t byte, unsigned secret_byte) {
    std::uintptr_t const chunk =
        units.address(unit, static_cast<std::uint32_t>(byte / kChunkBytes));
    std::uint64_t const word = *reinterpret_cast<std::uint64_t const*>(chunk + byte % kChunkBytes);
    std::uint64_t const other = __shfl_xor_sync(group, word, 1);
    value += xxh3::product(word, xxh3::secret_at(secret_byte + 8 * lane)) + other;
  };
  for (unsigned stripe = 0; stripe < xxh3::num_tail_stripes(units.unit_bytes); ++stripe) {
    add_word(num_blocks * xxh3::kBlockBytes + stripe * xxh3::kStripeBytes + 8 * lane,
             xxh3::stripe_secret(stripe));
  }
  add_word(units.unit_bytes - xxh3::kStripeBytes + 8 * lane, xxh3::kLastStripeSecret);

  std::uint64_t lanes[xxh3::kLanes];
#pragma unroll
  for (unsigned i = 0; i < xxh3::kLanes; ++i) {
    lanes[i] = __shfl_sync(group, value, static_cast<int>(i), 8);
  }
  if (lane == 0) { results[2 * unit] = xxh3::low_half(lanes, units.unit_bytes); }
  if (lane == 1) { results[2 * unit + 1] = xxh3::high_half(lanes, units.unit_bytes); }
}

std::uint64_t box_bytes_of(kvbm_copy_template const& shape) {
  std::uint64_t bytes = shape.run_bytes;
  for (std::uint32_t d = 0; d < shape.num_dims; ++d) {
    if (__builtin_mul_overflow(bytes, shape.dims[d].extent, &bytes)) { return 0; }
  }
  return bytes;
}

/// Whether every chunk of 16 bytes is aligned and inside one run, and the numbers fit.
bool is_supported(kvbm_copy_template const& shape, kvbm_hash_units const& units,
                  std::uint64_t box_bytes) {
  std::uint64_t bits = shape.run_bytes | units.block_stride;
  for (std::uint32_t d = 0; d < shape.num_dims; ++d) {
    bits |= static_cast<std::uint64_t>(shape.dims[d].src_stride);
    if (shape.dims[d].extent > std::numeric_limits<std::uint32_t>::max()) { return false; }
  }
  for (std::size_t s = 0; s < units.num_segments; ++s) {
    bits |= units.segments[s];
  }
  std::uint64_t unit_bytes = 0;
  return bits % kChunkBytes == 0 && units.num_segments <= kMaxSegments &&
         !__builtin_mul_overflow(box_bytes, units.segments_per_unit, &unit_bytes) &&
         unit_bytes >= xxh3::kMinBytes && unit_bytes / kChunkBytes <= kMaxUnits;
}

bool is_valid(kvbm_copy_template const* shape, kvbm_hash_units const* units) {
  return shape != nullptr && units != nullptr && shape->num_dims <= KVBM_MAX_COPY_DIMS &&
         shape->run_bytes != 0 && units->num_segments != 0 && units->segments != nullptr &&
         units->segments_per_unit != 0 && units->num_segments % units->segments_per_unit == 0 &&
         (units->num_blocks == 0 || units->blocks != nullptr) && box_bytes_of(*shape) != 0;
}

std::uint64_t unit_bytes_of(kvbm_copy_template const& shape, kvbm_hash_units const& units) {
  return box_bytes_of(shape) * units.segments_per_unit;
}

std::uint64_t scratch_bytes_per_block(kvbm_copy_template const& shape,
                                      kvbm_hash_units const& units) {
  return units.num_segments / units.segments_per_unit *
         xxh3::num_full_blocks(unit_bytes_of(shape, units)) * xxh3::kStripeBytes;
}

}  // namespace

cudaError_t load_checksum_kernels() {
  return load_kernels(
      {reinterpret_cast<void const*>(sum_blocks), reinterpret_cast<void const*>(chain)});
}

}  // namespace kvbm::kernels

using namespace kvbm::kernels;

extern "C" {

uint64_t kvbm_cuda_xxh3_128_scratch_bytes(kvbm_copy_template const* shape,
                                          kvbm_hash_units const* units) {
  if (!is_valid(shape, units)) { return 0; }
  return scratch_bytes_per_block(*shape, *units);
}

kvbm_status kvbm_cuda_xxh3_128(kvbm_copy_template const* shape, kvbm_hash_units const* units,
                               void* scratch, uint64_t scratch_bytes, uint64_t* results,
                               void* stream) {
  if (!is_valid(shape, units)) { return KVBM_STATUS_INVALID_VALUE; }
  if (units->num_blocks == 0) { return KVBM_STATUS_OK; }
  std::uint64_t const box_bytes = box_bytes_of(*shape);
  if (!is_supported(*shape, *units, box_bytes)) { return KVBM_STATUS_NOT_SUPPORTED; }
  std::uint64_t const per_block = scratch_bytes_per_block(*shape, *units);
  if (results == nullptr || (per_block != 0 && (scratch == nullptr || scratch_bytes < per_block))) {
    return KVBM_STATUS_INVALID_VALUE;
  }
  Units work{};
  work.unit_bytes = unit_bytes_of(*shape, *units);
  work.block_stride = units->block_stride;
  work.segments_per_unit = static_cast<std::uint32_t>(units->segments_per_unit);
  work.units_per_block = static_cast<std::uint32_t>(units->num_segments / units->segments_per_unit);
  work.chunks_per_box = FastDivider(static_cast<std::uint32_t>(box_bytes / kChunkBytes));
  work.chunks_per_run = FastDivider(static_cast<std::uint32_t>(shape->run_bytes / kChunkBytes));
  work.num_dims = shape->num_dims;
  for (std::uint32_t d = 0; d < shape->num_dims; ++d) {
    auto const& dim = shape->dims[shape->num_dims - 1 - d];
    work.dims[d] = {FastDivider(static_cast<std::uint32_t>(dim.extent)), dim.src_stride};
  }
  std::copy_n(units->segments, units->num_segments, work.segments);

  int device = 0;
  int multiprocessors = 0;
  if (auto const status = checked(cudaGetDevice(&device)); status != KVBM_STATUS_OK) {
    return status;
  }
  if (auto const status =
          checked(cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, device));
      status != KVBM_STATUS_OK) {
    return status;
  }
  std::size_t const at_once =
      std::min<std::uint64_t>(kMaxBlocks, per_block == 0 ? kMaxBlocks : scratch_bytes / per_block);
  auto* const sums = static_cast<std::uint64_t*>(scratch);
  auto* const cuda_stream = static_cast<cudaStream_t>(stream);
  for (std::size_t first = 0; first < units->num_blocks; first += at_once) {
    std::size_t const count = std::min(at_once, units->num_blocks - first);
    std::copy_n(units->blocks + first, count, work.blocks);
    work.num_units = count * work.units_per_block;
    constexpr unsigned kWarpsPerCta = 8;
    std::uint64_t const sum_tasks =
        (work.num_units * xxh3::num_full_blocks(work.unit_bytes) + kWarpsPerCta - 1) / kWarpsPerCta;
    if (sum_tasks != 0) {
      auto const ctas = static_cast<unsigned>(
          std::min<std::uint64_t>(sum_tasks, static_cast<std::uint64_t>(multiprocessors) * 8));
      sum_blocks<<<ctas, kWarpsPerCta * 32, 0, cuda_stream>>>(work, sums);
    }
    auto const groups = static_cast<unsigned>((work.num_units + 7) / 8);
    chain<<<groups, 64, 0, cuda_stream>>>(work, sums, results + 2 * first * work.units_per_block);
    if (auto const status = checked(cudaGetLastError()); status != KVBM_STATUS_OK) {
      return status;
    }
  }
  return KVBM_STATUS_OK;
}

}  // extern "C"
