// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

#include "kvbm/kernels/kernels.h"

namespace kvbm::kernels {

/// The calls that DMA copies are made of. Tests pass tables of their own, without a batch function
/// or without a GPU.
struct CudaDmaApi {
  /// Whether runtime and driver both have the batch function.
  bool (*has_batch)() noexcept;
  cudaError_t (*batch)(void* const* dst, void const* const* src, std::size_t const* bytes,
                       std::size_t count, cudaStream_t stream) noexcept;
  cudaError_t (*copy)(void* dst, void const* src, std::size_t bytes, cudaStream_t stream) noexcept;
  cudaError_t (*copy_rows)(void* dst, std::size_t dst_pitch, void const* src, std::size_t src_pitch,
                           std::size_t bytes, std::size_t rows, cudaStream_t stream) noexcept;
  /// Whether `stream` is being captured into a graph, where the batch function is refused.
  cudaError_t (*is_capturing)(cudaStream_t stream, bool& capturing) noexcept;
  /// Whether CUDA knows the memory at `address`: device, pinned or managed.
  cudaError_t (*is_registered)(std::uintptr_t address, bool& registered) noexcept;
};

/// The runtime's own.
CudaDmaApi const& cuda_dma_api() noexcept;

/// What is open about a DMA copy.
struct DmaTuning {
  std::size_t max_batch = 4096;    ///< descriptors a call
  std::size_t max_individual = 2;  ///< as few copies are made one by one
  std::uint64_t min_individual_bytes = std::uint64_t{8} << 20U;  ///< copies as large as this, too
  std::size_t min_rows = 0;  ///< rows from which a two-dimensional copy is made; 0: never
};

/// kvbm_cuda_strided_dma by the calls of `api`.
kvbm_status strided_dma(kvbm_copy_template const* shape, kvbm_copy_boxes const* boxes,
                        kvbm_memcpy_batch_mode mode, void* stream, kvbm_memcpy_batch_path* path,
                        std::size_t* num_dma, CudaDmaApi const& api, DmaTuning const& tuning);

/// kvbm_cuda_memcpy_batch by the calls of `api`.
kvbm_status memcpy_batch(void const* const* src_ptrs, void* const* dst_ptrs, std::size_t bytes,
                         std::size_t count, kvbm_memcpy_batch_mode mode,
                         kvbm_memcpy_batch_path* path, void* stream, CudaDmaApi const& api);

}  // namespace kvbm::kernels
