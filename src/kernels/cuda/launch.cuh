// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cuda_runtime.h>

#include <algorithm>
#include <cstdint>

#include "kernels/cuda/bulk_kernel.cuh"
#include "kernels/cuda/copy_kernels.cuh"
#include "kernels/cuda/status.hpp"
#include "kernels/cuda/tuning.hpp"

namespace kvbm::kernels {

inline constexpr std::uint64_t kStretchMinRun = 2048;
inline constexpr std::uint64_t kNarrowStretchMinRun = 512;  // where a vector has less than 16 bytes
inline constexpr int kBulkStages = 6;

/// Everything about a launch but what it copies.
struct LaunchPlan {
  cudaStream_t stream = nullptr;
  std::uint32_t max_ctas = 0;
  DeviceTraits device;
  CopyTuning tuning;
};

/// Launches `kernel` with as many thread blocks as there is work for, `units_per_warp` at a time.
template <class Source>
cudaError_t launch_loads(void (*kernel)(Source, CopyNest), Source const& source,
                         CopyNest const& nest, std::uint64_t units_per_warp,
                         LaunchPlan const& plan) {
  std::uint64_t const warps = (nest.num_units + units_per_warp - 1) / units_per_warp;
  unsigned const multiprocessors = plan.device.num_multiprocessors;
  // Where the device is to be filled, more thread blocks than fit: they end at different times, and
  // the hardware balances what is left. Where multiprocessors are counted, one full block each.
  constexpr std::uint64_t kBlocksToBalance = 64;
  bool const fills = plan.max_ctas == 0;
  std::uint64_t const ctas = fills ? multiprocessors * kBlocksToBalance
                                   : std::min<std::uint64_t>(plan.max_ctas, multiprocessors);
  unsigned threads = plan.tuning.threads;
  if (threads == 0) {
    // Small copies are spread over many multiprocessors, which start side by side.
    std::uint64_t const share = (warps + ctas - 1) / ctas * kWarp;
    threads = share <= 128 ? 128 : share <= 256 || fills ? 256 : share <= 512 ? 512 : kMaxThreads;
  }
  std::uint64_t const needed = (warps * kWarp + threads - 1) / threads;
  void* arguments[] = {const_cast<Source*>(&source), const_cast<CopyNest*>(&nest)};
  return cudaLaunchKernel(reinterpret_cast<void const*>(kernel),
                          dim3(static_cast<unsigned>(std::min(ctas, needed))), dim3(threads),
                          arguments, 0, plan.stream);
}

template <class Source, int Lag>
cudaError_t launch_bulk(Source const& source, CopyNest const& nest, std::uint32_t slots,
                        std::uint32_t stage_bytes, LaunchPlan const& plan) {
  auto* const kernel = copy_bulk<Source, kBulkStages, Lag>;
  unsigned const warps = plan.tuning.bulk_warps;
  std::uint64_t const groups = (nest.num_units + slots - 1) / slots;
  std::uint64_t const ctas =
      std::min<std::uint64_t>(plan.max_ctas == 0 ? plan.device.num_multiprocessors : plan.max_ctas,
                              plan.device.num_multiprocessors);
  auto const grid = static_cast<unsigned>(std::min(ctas, groups));
  unsigned const shared_bytes = warps * kBulkStages * stage_bytes + kBulkAlignment;
  cudaError_t const error = cudaFuncSetAttribute(
      kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared_bytes));
  if (error != cudaSuccess) return error;
  void* arguments[] = {const_cast<Source*>(&source), const_cast<CopyNest*>(&nest), &slots,
                       &stage_bytes};
  return cudaLaunchKernel(reinterpret_cast<void const*>(kernel), dim3(grid), dim3(warps * kWarp),
                          arguments, shared_bytes, plan.stream);
}

/// Calls `launch(piece, src_offset, dst_offset)` for pieces of a reduced template that together are
/// the template and have at most kMaxUnits units each.
template <class Launch>
cudaError_t for_each_piece(kvbm_copy_template const& shape, std::uint64_t unit_bytes,
                           std::int64_t src_offset, std::int64_t dst_offset, Launch const& launch) {
  if (units_per_box(shape, unit_bytes) <= kMaxUnits) return launch(shape, src_offset, dst_offset);
  kvbm_copy_template first = shape;
  kvbm_copy_template second = shape;
  std::int64_t src = src_offset;
  std::int64_t dst = dst_offset;
  auto* const longest = std::max_element(
      first.dims, first.dims + first.num_dims,
      [](kvbm_copy_dim const& a, kvbm_copy_dim const& b) { return a.extent < b.extent; });
  if (first.num_dims != 0 && longest->extent > 1) {
    std::uint64_t const half = longest->extent / 2;
    second.dims[longest - first.dims].extent -= half;
    src += static_cast<std::int64_t>(half) * longest->src_stride;
    dst += static_cast<std::int64_t>(half) * longest->dst_stride;
    longest->extent = half;
  } else {
    first.run_bytes = shape.run_bytes / 2 / kBulkAlignment * kBulkAlignment;
    second.run_bytes = shape.run_bytes - first.run_bytes;
    src += static_cast<std::int64_t>(first.run_bytes);
    dst += static_cast<std::int64_t>(first.run_bytes);
  }
  cudaError_t const error = for_each_piece(first, unit_bytes, src_offset, dst_offset, launch);
  return error != cudaSuccess ? error : for_each_piece(second, unit_bytes, src, dst, launch);
}

}  // namespace kvbm::kernels
