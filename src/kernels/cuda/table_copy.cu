// SPDX-License-Identifier: Apache-2.0
//
// Copies whose addresses lie in tables that only the device reads: pairs, and the named permutes.
#include <algorithm>
#include <cstdint>

#include "kernels/box_copier.hpp"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/reduced_shape.hpp"
#include "kernels/cuda/status.hpp"
#include "kernels/permute_shape.hpp"
#include "kvbm/core/checked.hpp"
#include "kvbm/kernels/kernels.h"

namespace kvbm::kernels {
namespace {

/// Copies `num_boxes` boxes that `source_at(first box, offsets)` finds.
/// @param granule  launches begin at multiples of this many boxes
template <class SourceAt>
kvbm_status copy_tables(kvbm_copy_template const& shape, std::uint64_t num_boxes,
                        std::uint64_t granule, void* stream, SourceAt const& source_at) {
  LaunchPlan plan{static_cast<cudaStream_t>(stream), 0, {}, {}};
  if (cudaError_t const error = current_device_traits(plan.device); error != cudaSuccess) {
    return checked(error);
  }
  kvbm_copy_template const simple = reduced(shape, Walk::Destination);
  bool const stretches = simple.run_bytes >= kNarrowStretchMinRun;
  int const unroll = simple.run_bytes >= 4096 ? 8 : 4;
  std::uint64_t const unit_bytes = stretches ? kWarp * 16 * static_cast<unsigned>(unroll) : 16;
  // A box too large for one launch would need a source with offsets: no such box fits a device.
  std::uint64_t const units = units_per_box(simple, unit_bytes);
  if (units > kMaxUnits) return KVBM_STATUS_INVALID_VALUE;
  std::uint64_t const at_once = std::max<std::uint64_t>(kMaxUnits / units / granule, 1) * granule;
  if (units * std::min(at_once, num_boxes) > kMaxUnits) return KVBM_STATUS_INVALID_VALUE;
  for (std::uint64_t first = 0; first < num_boxes; first += at_once) {
    auto const source = source_at(first);
    using Source = std::remove_cv_t<decltype(source)>;
    CopyNest const nest(simple, unit_bytes, std::min(at_once, num_boxes - first));
    auto* const kernel = !stretches    ? copy_slots<Source, 4>
                         : unroll == 8 ? copy_stretches<Source, 8>
                                       : copy_stretches<Source, 4>;
    cudaError_t const error =
        launch_loads<Source>(kernel, source, nest, stretches ? 1 : kWarp * 4, plan);
    if (error != cudaSuccess) return checked(error);
  }
  return KVBM_STATUS_OK;
}

template <bool ToUniversal>
kvbm_status permute(void* const* universal_ptrs, void* const* chunk_ptrs, PermuteShape shape,
                    void* stream) {
  if (shape.empty()) return KVBM_STATUS_OK;
  if (!shape.is_known() || !shape.derive() || universal_ptrs == nullptr || chunk_ptrs == nullptr ||
      shape.chunks_per_block() > kMaxUnits) {
    return KVBM_STATUS_INVALID_VALUE;
  }
  return copy_tables(shape.chunk_template(ToUniversal), shape.num_chunks, shape.chunks_per_block(),
                     stream, [&](std::uint64_t first) {
                       return TableChunks<ToUniversal>{
                           universal_ptrs + first / shape.chunks_per_block(), chunk_ptrs + first,
                           FastDivider(shape.chunks_per_block()), shape.slice_bytes};
                     });
}

}  // namespace
}  // namespace kvbm::kernels

using namespace kvbm::kernels;

extern "C" {

kvbm_status kvbm_cuda_vectorized_copy(void const* const* src_ptrs, void* const* dst_ptrs,
                                      size_t copy_size_bytes, int num_pairs, void* stream) {
  if (num_pairs < 0) return KVBM_STATUS_INVALID_VALUE;
  if (num_pairs == 0 || copy_size_bytes == 0) return KVBM_STATUS_OK;
  std::uint64_t total = 0;
  if (src_ptrs == nullptr || dst_ptrs == nullptr ||
      __builtin_mul_overflow(std::uint64_t{copy_size_bytes}, static_cast<std::uint64_t>(num_pairs),
                             &total) ||
      total > kvbm::kMaxBytes) {
    return KVBM_STATUS_INVALID_VALUE;
  }
  kvbm_copy_template shape{};
  shape.run_bytes = copy_size_bytes;
  return copy_tables(
      shape, static_cast<std::uint64_t>(num_pairs), 1, stream,
      [&](std::uint64_t first) { return TablePairs{src_ptrs + first, dst_ptrs + first}; });
}

kvbm_status kvbm_cuda_universal_from_block(void* const* universal_ptrs,
                                           void const* const* block_ptrs, size_t num_blocks,
                                           size_t nh, size_t nl, size_t no, size_t nt, size_t hd,
                                           kvbm_dtype dtype, kvbm_block_order order, void* stream) {
  return permute<true>(universal_ptrs, const_cast<void* const*>(block_ptrs),
                       {num_blocks, nh, nl, no, nt, hd, width_of(dtype), order}, stream);
}

kvbm_status kvbm_cuda_block_from_universal(void const* const* universal_ptrs,
                                           void* const* block_ptrs, size_t num_blocks, size_t nh,
                                           size_t nl, size_t no, size_t nt, size_t hd,
                                           kvbm_dtype dtype, kvbm_block_order order, void* stream) {
  return permute<false>(const_cast<void* const*>(universal_ptrs), block_ptrs,
                        {num_blocks, nh, nl, no, nt, hd, width_of(dtype), order}, stream);
}

}  // extern "C"
