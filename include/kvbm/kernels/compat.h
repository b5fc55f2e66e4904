/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KVBM_KERNELS_COMPAT_H
#define KVBM_KERNELS_COMPAT_H

/**
 * The C names under which callers of the former kernels library know these functions, so that they
 * link against kvbm_kernels_compat unchanged. New code includes kvbm/kernels/kernels.h.
 *
 * Each copy returns a cudaError_t as an int: 0 for success, 1 (cudaErrorInvalidValue) for arguments
 * that are refused, 801 (cudaErrorNotSupported) in a build without CUDA, else what CUDA said.
 * Tables of pointers lie in memory that the device reads; `stream` is a cudaStream_t. Work is
 * enqueued, and nothing is allocated.
 */

#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

/**
 * @param dtype   0 f16, 1 bf16, 2 f32, 3 f64
 * @param layout  0 NHD, 1 HND: order inside a block's chunks
 * @param block_ptrs_device  [num_blocks][nl * no], flattened
 */
int kvbm_kernels_launch_universal_from_block(void* const* universal_ptrs_device,
                                             void const* const* block_ptrs_device,
                                             size_t num_blocks, size_t nh, size_t nl, size_t no,
                                             size_t nt, size_t hd, int dtype, int layout,
                                             void* stream);

/** The inverse of kvbm_kernels_launch_universal_from_block. */
int kvbm_kernels_launch_block_from_universal(void const* const* universal_ptrs_device,
                                             void* const* block_ptrs_device, size_t num_blocks,
                                             size_t nh, size_t nl, size_t no, size_t nt, size_t hd,
                                             int dtype, int layout, void* stream);

/** Copies num_pairs pairs of copy_size_bytes each. */
int kvbm_kernels_launch_vectorized_copy(void* const* src_ptrs_device, void* const* dst_ptrs_device,
                                        size_t copy_size_bytes, int num_pairs, void* stream);

/** Whether memcpy batches run in one call. */
int kvbm_kernels_has_memcpy_batch_async(void);

/** Whether this build has no CUDA: every copy then answers 801. */
int kvbm_kernels_is_stub_build(void);

#ifdef __cplusplus
} /* extern "C" */
#endif

#endif /* KVBM_KERNELS_COMPAT_H */
