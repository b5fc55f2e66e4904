// SPDX-License-Identifier: Apache-2.0
//
// What a build without the CUDA backend answers.
#include "kvbm/kernels/kernels.h"

extern "C" {

int kvbm_cuda_is_built(void) { return 0; }

int kvbm_cuda_has_memcpy_batch(void) { return 0; }

int kvbm_cuda_last_error(void) { return 0; }

char const* kvbm_cuda_error_string(int /*cuda_error*/) { return "this build has no CUDA backend"; }

kvbm_status kvbm_cuda_make_current(int /*device*/, int* /*previous*/) {
  return KVBM_STATUS_NOT_SUPPORTED;
}

kvbm_status kvbm_cuda_load_kernels(void) { return KVBM_STATUS_NOT_SUPPORTED; }

kvbm_status kvbm_cuda_strided_copy(kvbm_copy_template const* /*shape*/,
                                   kvbm_copy_boxes const* /*boxes*/,
                                   kvbm_cuda_launch const* /*launch*/) {
  return KVBM_STATUS_NOT_SUPPORTED;
}

kvbm_status kvbm_cuda_strided_dma(kvbm_copy_template const* /*shape*/,
                                  kvbm_copy_boxes const* /*boxes*/, kvbm_memcpy_batch_mode /*mode*/,
                                  void* /*stream*/, kvbm_memcpy_batch_path* /*path*/,
                                  size_t* /*num_dma*/) {
  return KVBM_STATUS_NOT_SUPPORTED;
}

kvbm_status kvbm_cuda_vectorized_copy(void const* const* /*src_ptrs*/, void* const* /*dst_ptrs*/,
                                      size_t /*copy_size_bytes*/, int /*num_pairs*/,
                                      void* /*stream*/) {
  return KVBM_STATUS_NOT_SUPPORTED;
}

kvbm_status kvbm_cuda_memcpy_batch(void const* const* /*src_ptrs*/, void* const* /*dst_ptrs*/,
                                   size_t /*bytes*/, size_t /*count*/,
                                   kvbm_memcpy_batch_mode /*mode*/,
                                   kvbm_memcpy_batch_path* /*path*/, void* /*stream*/) {
  return KVBM_STATUS_NOT_SUPPORTED;
}

kvbm_status kvbm_cuda_universal_from_block(void* const* /*universal_ptrs*/,
                                           void const* const* /*block_ptrs*/, size_t /*num_blocks*/,
                                           size_t /*nh*/, size_t /*nl*/, size_t /*no*/,
                                           size_t /*nt*/, size_t /*hd*/, kvbm_dtype /*dtype*/,
                                           kvbm_block_order /*order*/, void* /*stream*/) {
  return KVBM_STATUS_NOT_SUPPORTED;
}

kvbm_status kvbm_cuda_block_from_universal(void const* const* /*universal_ptrs*/,
                                           void* const* /*block_ptrs*/, size_t /*num_blocks*/,
                                           size_t /*nh*/, size_t /*nl*/, size_t /*no*/,
                                           size_t /*nt*/, size_t /*hd*/, kvbm_dtype /*dtype*/,
                                           kvbm_block_order /*order*/, void* /*stream*/) {
  return KVBM_STATUS_NOT_SUPPORTED;
}

uint64_t kvbm_cuda_xxh3_128_scratch_bytes(kvbm_copy_template const* /*shape*/,
                                          kvbm_hash_units const* /*units*/) {
  return 0;
}

kvbm_status kvbm_cuda_xxh3_128(kvbm_copy_template const* /*shape*/,
                               kvbm_hash_units const* /*units*/, void* /*scratch*/,
                               uint64_t /*scratch_bytes*/, uint64_t* /*results*/,
                               void* /*stream*/) {
  return KVBM_STATUS_NOT_SUPPORTED;
}

}  // extern "C"
