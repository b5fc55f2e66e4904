// SPDX-License-Identifier: Apache-2.0
#include "kvbm/kernels/compat.h"

#include "kvbm/kernels/kernels.h"

namespace {

// Numbers of cudaError_t, spelled out because builds without CUDA have the names, too.
constexpr int kCudaSuccess = 0;
constexpr int kCudaErrorInvalidValue = 1;
constexpr int kCudaErrorNotSupported = 801;
constexpr int kCudaErrorUnknown = 999;

int cuda_error(kvbm_status status) noexcept {
  switch (status) {
    case KVBM_STATUS_OK: return kCudaSuccess;
    case KVBM_STATUS_INVALID_VALUE: return kCudaErrorInvalidValue;
    case KVBM_STATUS_NOT_SUPPORTED: return kCudaErrorNotSupported;
    case KVBM_STATUS_CUDA_ERROR: return kvbm_cuda_last_error();
    case KVBM_STATUS_INTERNAL: break;
  }
  return kCudaErrorUnknown;
}

}  // namespace

extern "C" {

int kvbm_kernels_launch_universal_from_block(void* const* universal_ptrs_device,
                                             void const* const* block_ptrs_device,
                                             size_t num_blocks, size_t nh, size_t nl, size_t no,
                                             size_t nt, size_t hd, int dtype, int layout,
                                             void* stream) {
  return cuda_error(kvbm_cuda_universal_from_block(
      universal_ptrs_device, block_ptrs_device, num_blocks, nh, nl, no, nt, hd,
      static_cast<kvbm_dtype>(dtype), static_cast<kvbm_block_order>(layout), stream));
}

int kvbm_kernels_launch_block_from_universal(void const* const* universal_ptrs_device,
                                             void* const* block_ptrs_device, size_t num_blocks,
                                             size_t nh, size_t nl, size_t no, size_t nt, size_t hd,
                                             int dtype, int layout, void* stream) {
  return cuda_error(kvbm_cuda_block_from_universal(
      universal_ptrs_device, block_ptrs_device, num_blocks, nh, nl, no, nt, hd,
      static_cast<kvbm_dtype>(dtype), static_cast<kvbm_block_order>(layout), stream));
}

int kvbm_kernels_launch_vectorized_copy(void* const* src_ptrs_device, void* const* dst_ptrs_device,
                                        size_t copy_size_bytes, int num_pairs, void* stream) {
  return cuda_error(kvbm_cuda_vectorized_copy(const_cast<void const* const*>(src_ptrs_device),
                                              dst_ptrs_device, copy_size_bytes, num_pairs, stream));
}

int kvbm_kernels_has_memcpy_batch_async(void) { return kvbm_cuda_has_memcpy_batch(); }

int kvbm_kernels_is_stub_build(void) { return kvbm_cuda_is_built() == 0 ? 1 : 0; }

}  // extern "C"
