// SPDX-License-Identifier: Apache-2.0
#pragma once

// Bulk asynchronous copies through shared memory: the copy unit of a multiprocessor moves the
// bytes, a warp only keeps its ring of stages filled. What is in flight is bounded by shared
// memory, not by registers: one thread block hides the latency of a host link.

#include <cuda_runtime.h>

#include "kernels/cuda/copy_nest.cuh"

namespace kvbm::kernels {

inline constexpr unsigned kMaxBulkWarps = 8;
inline constexpr unsigned kBulkAlignment = 128;

#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900
#define KVBM_HAVE_BULK 1
#else
#define KVBM_HAVE_BULK 0
#endif

#if KVBM_HAVE_BULK && defined(__CUDACC__)
__device__ __forceinline__ std::uint32_t shared_address(void const* at) {
  return static_cast<std::uint32_t>(__cvta_generic_to_shared(at));
}
__device__ __forceinline__ void barrier_init(std::uint64_t* barrier) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;" ::"r"(shared_address(barrier)) : "memory");
}
__device__ __forceinline__ void barrier_expect(std::uint64_t* barrier, std::uint32_t bytes) {
  asm volatile(
      "mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(barrier)),
      "r"(bytes)
      : "memory");
}
__device__ __forceinline__ void barrier_wait(std::uint64_t* barrier, std::uint32_t parity) {
  std::uint32_t done = 0;
  while (done == 0) {
    asm volatile(
        "{\n.reg .pred p;\n"
        "mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\n"
        "selp.u32 %0, 1, 0, p;\n}"
        : "=r"(done)
        : "r"(shared_address(barrier)), "r"(parity)
        : "memory");
  }
}
__device__ __forceinline__ void bulk_load(void* shared, void const* global, std::uint32_t bytes,
                                          std::uint64_t* barrier) {
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::
          "r"(shared_address(shared)),
      "l"(__cvta_generic_to_global(global)), "r"(bytes), "r"(shared_address(barrier))
      : "memory");
}
__device__ __forceinline__ void bulk_store(void* global, void const* shared, std::uint32_t bytes) {
  asm volatile("cp.async.bulk.global.shared::cta.bulk_group [%0], [%1], %2;" ::"l"(
                   __cvta_generic_to_global(global)),
               "r"(shared_address(shared)), "r"(bytes)
               : "memory");
}
#endif

/// Every warp walks groups of `slots` units with a ring of Stages groups. After the store of a
/// group has been issued, the group Lag before it is waited for and its stage loaded again: Lag
/// stages are on their way out, the others on their way in. Shared memory: warps * Stages *
/// stage_bytes, plus kBulkAlignment.
template <class Source, int Stages, int Lag>
__global__ void __launch_bounds__(kMaxBulkWarps * 32)
    copy_bulk(__grid_constant__ Source const source, __grid_constant__ CopyNest const nest,
              std::uint32_t const slots, std::uint32_t const stage_bytes) {
#if KVBM_HAVE_BULK
  static_assert(Lag >= 0 && Lag < Stages);
  extern __shared__ char shared_memory[];
  __shared__ std::uint64_t barriers[kMaxBulkWarps * Stages];
  unsigned const lane = threadIdx.x % 32;
  unsigned const warp = threadIdx.x / 32;
  std::uint64_t* const full = barriers + warp * Stages;
  std::uint32_t const misfit = shared_address(shared_memory) % kBulkAlignment;
  char* const ring = shared_memory + (misfit == 0 ? 0 : kBulkAlignment - misfit) +
                     warp * Stages * stage_bytes + lane * nest.unit_bytes;
  if (lane == 0) {
#pragma unroll
    for (int s = 0; s < Stages; ++s)
      barrier_init(full + s);
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
  }
  __syncwarp();

  std::uint32_t const num_groups = (nest.num_units + slots - 1) / slots;
  std::uint32_t const num_warps = gridDim.x * (blockDim.x / 32);
  std::uint32_t const first = warp * gridDim.x + blockIdx.x;
  std::uint32_t const rounds = first < num_groups ? (num_groups - 1 - first) / num_warps + 1 : 0;

  char* dst[Stages];
  std::uint32_t bytes[Stages];
  auto const load = [&](std::uint32_t round, int stage) {
    std::uint32_t const unit = (first + round * num_warps) * slots + lane;
    char const* src = nullptr;
    bytes[stage] = 0;
    if (lane < slots && unit < nest.num_units) {
      auto const where = nest.locate(source, unit);
      src = where.src;
      dst[stage] = where.dst;
      bytes[stage] = where.bytes_left < nest.unit_bytes
                         ? static_cast<std::uint32_t>(where.bytes_left)
                         : nest.unit_bytes;
    }
    std::uint32_t const all = __reduce_add_sync(0xffffffffU, bytes[stage]);
    if (lane == 0) barrier_expect(full + stage, all);
    __syncwarp();
    if (bytes[stage] != 0) {
      bulk_load(ring + static_cast<unsigned>(stage) * stage_bytes, src, bytes[stage], full + stage);
    }
  };

#pragma unroll
  for (int s = 0; s < Stages; ++s) {
    if (static_cast<std::uint32_t>(s) < rounds) load(static_cast<std::uint32_t>(s), s);
  }
  std::uint32_t parity = 0;
  for (std::uint32_t base = 0; base < rounds; base += Stages, parity ^= 1U) {
#pragma unroll
    for (int s = 0; s < Stages; ++s) {
      std::uint32_t const round = base + static_cast<std::uint32_t>(s);
      if (round >= rounds) break;
      barrier_wait(full + s, parity);
      // Nobody may still look at this phase when the barrier is armed again.
      __syncwarp();
      if (bytes[s] != 0) {
        bulk_store(dst[s], ring + static_cast<unsigned>(s) * stage_bytes, bytes[s]);
      }
      asm volatile("cp.async.bulk.commit_group;" ::: "memory");
      if (round >= Lag && round - Lag + Stages < rounds) {
        asm volatile("cp.async.bulk.wait_group.read %0;" ::"n"(Lag) : "memory");
        load(round - Lag + Stages, (s - Lag + Stages) % Stages);
      }
    }
  }
  asm volatile("cp.async.bulk.wait_group 0;" ::: "memory");
#endif
}

}  // namespace kvbm::kernels
