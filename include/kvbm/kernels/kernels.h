/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KVBM_KERNELS_KERNELS_H
#define KVBM_KERNELS_KERNELS_H

/**
 * C ABI of kvbm's copy kernels: raw pointers and sizes in, a status out, no allocation of results,
 * no exceptions. The `kvbm_cuda_*` functions enqueue work on a CUDA stream. The `kvbm_cpu_*`
 * functions are their CPU twins: multithreaded, synchronous, and the oracle that the CUDA kernels
 * are tested against.
 *
 * Every function is safe to call from several threads at once; the CPU ones share the threads of
 * one process-wide engine that starts with the first call.
 */

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/** Status of every function below. */
typedef enum kvbm_status {
  KVBM_STATUS_OK = 0,
  KVBM_STATUS_INVALID_VALUE = 1, /**< null table, unknown tag, size that overflows */
  KVBM_STATUS_NOT_SUPPORTED = 2, /**< no such path in this build or on this machine */
  KVBM_STATUS_INTERNAL = 3,
  KVBM_STATUS_CUDA_ERROR = 4 /**< a CUDA call failed: see kvbm_cuda_last_error */
} kvbm_status;

/** The status in words; never null. */
char const* kvbm_status_string(kvbm_status status);

/** One loop of a strided copy; strides in bytes, may be negative or zero on the source side. */
typedef struct kvbm_copy_dim {
  uint64_t extent;
  int64_t src_stride;
  int64_t dst_stride;
} kvbm_copy_dim;

enum { KVBM_MAX_COPY_DIMS = 6 };

/**
 * What is copied for every box: a nest of loops, outermost first, around `run_bytes` bytes that
 * are contiguous on both sides. num_dims 0 is one run.
 */
typedef struct kvbm_copy_template {
  uint32_t num_dims;
  kvbm_copy_dim dims[KVBM_MAX_COPY_DIMS];
  uint64_t run_bytes;
} kvbm_copy_template;

/**
 * Where it is copied: one box per (block, segment). The box of block i and segment s starts at
 * src_segments[s] + src_blocks[i] * src_block_stride, likewise on the other side. A fully
 * contiguous block has one segment, a block with a region per layer one segment a layer.
 */
typedef struct kvbm_copy_boxes {
  size_t num_segments;
  uintptr_t const* src_segments; /* [num_segments] addresses */
  uintptr_t const* dst_segments; /* [num_segments] addresses */
  uint64_t src_block_stride;     /* bytes */
  uint64_t dst_block_stride;     /* bytes */
  size_t num_blocks;
  uint32_t const* src_blocks; /* [num_blocks] block ids */
  uint32_t const* dst_blocks; /* [num_blocks] block ids */
} kvbm_copy_boxes;

/** The general copy: any layout into any layout. Source and destination must not overlap. */
kvbm_status kvbm_cpu_strided_copy(kvbm_copy_template const* shape, kvbm_copy_boxes const* boxes);

/**
 * Copies num_pairs pairs of copy_size_bytes each; any alignment. Zero pairs or bytes: OK.
 * @param src_ptrs, dst_ptrs  [num_pairs]
 */
kvbm_status kvbm_cpu_vectorized_copy(void const* const* src_ptrs, void* const* dst_ptrs,
                                     size_t copy_size_bytes, int num_pairs);

/* The last enumerator of each tag type makes the type as wide as an int, so that a tag that nobody
   knows can be passed, seen and refused. */

/** Modes of memcpy_batch, numbered as the original numbers them. */
typedef enum kvbm_memcpy_batch_mode {
  KVBM_MEMCPY_BATCHED_WITH_FALLBACK = 0,
  KVBM_MEMCPY_FALLBACK_ONLY = 1,
  KVBM_MEMCPY_BATCH_WITHOUT_FALLBACK = 2,
  KVBM_MEMCPY_BATCH_MODE_MAX = 0x7fffffff
} kvbm_memcpy_batch_mode;

/** Which way a memcpy_batch call took. */
typedef enum kvbm_memcpy_batch_path {
  KVBM_MEMCPY_PATH_NONE = 0, /**< nothing to do */
  KVBM_MEMCPY_PATH_BATCHED = 1,
  KVBM_MEMCPY_PATH_INDIVIDUAL = 2
} kvbm_memcpy_batch_path;

/**
 * Copies `count` pairs of `bytes` bytes. On the CPU the batched path is the parallel engine and the
 * fallback a loop of memcpy in the calling thread. Zero count or bytes: OK, path NONE.
 * @param path  receives the way taken; may be null
 */
kvbm_status kvbm_cpu_memcpy_batch(void const* const* src_ptrs, void* const* dst_ptrs, size_t bytes,
                                  size_t count, kvbm_memcpy_batch_mode mode,
                                  kvbm_memcpy_batch_path* path);

/** Element types of the named permutes; only the width matters, bits are copied. */
typedef enum kvbm_dtype {
  KVBM_DTYPE_F16 = 0,
  KVBM_DTYPE_BF16 = 1,
  KVBM_DTYPE_F32 = 2,
  KVBM_DTYPE_F64 = 3,
  KVBM_DTYPE_U8 = 4,
  KVBM_DTYPE_MAX = 0x7fffffff
} kvbm_dtype;

/** Order of token and head inside an operational chunk. */
typedef enum kvbm_block_order {
  KVBM_BLOCK_NHD = 0,
  KVBM_BLOCK_HND = 1,
  KVBM_BLOCK_ORDER_MAX = 0x7fffffff
} kvbm_block_order;

/**
 * Stacks of nl * no operational chunks -> one universal block [nh, nl, no, nt, hd].
 * @param universal_ptrs  [num_blocks]
 * @param block_ptrs      [num_blocks][nl * no], each a chunk [nt, nh, hd] (NHD) or [nh, nt, hd]
 * (HND)
 */
kvbm_status kvbm_cpu_universal_from_block(void* const* universal_ptrs,
                                          void const* const* block_ptrs, size_t num_blocks,
                                          size_t nh, size_t nl, size_t no, size_t nt, size_t hd,
                                          kvbm_dtype dtype, kvbm_block_order order);

/** The inverse of kvbm_cpu_universal_from_block. */
kvbm_status kvbm_cpu_block_from_universal(void const* const* universal_ptrs,
                                          void* const* block_ptrs, size_t num_blocks, size_t nh,
                                          size_t nl, size_t no, size_t nt, size_t hd,
                                          kvbm_dtype dtype, kvbm_block_order order);

/*
 * CUDA. All of it exists in every build: without the CUDA backend each call answers
 * KVBM_STATUS_NOT_SUPPORTED, and the same binary starts on machines without a driver.
 *
 * Pointers are device memory or host memory that the device can reach (pinned, mapped), on either
 * side. Work is enqueued on `stream` (a cudaStream_t of the calling thread's current device, null
 * for the legacy default stream) and may be captured into a CUDA graph. Nothing is allocated, and
 * host arrays given to a call may be freed when it returns.
 */

/** 1 if this build contains the CUDA kernels. */
int kvbm_cuda_is_built(void);

/** 1 if runtime and driver both have cudaMemcpyBatchAsync (12.9 or newer). */
int kvbm_cuda_has_memcpy_batch(void);

/** The cudaError_t behind the calling thread's last KVBM_STATUS_CUDA_ERROR; 0 if there was none. */
int kvbm_cuda_last_error(void);

/** The name and words of a cudaError_t; never null. */
char const* kvbm_cuda_error_string(int cuda_error);

/**
 * Makes `device` the calling thread's current device.
 * @param previous  receives the one that was; may be null
 */
kvbm_status kvbm_cuda_make_current(int device, int* previous);

/**
 * Loads the kernels behind kvbm_cuda_strided_copy and kvbm_cuda_xxh3_128 onto the current device.
 * CUDA loads a kernel with its first launch and may then wait for all work of the device: for ever,
 * if that work waits for the caller.
 */
kvbm_status kvbm_cuda_load_kernels(void);

/** How kvbm_cuda_strided_copy moves bytes. */
typedef enum kvbm_cuda_way {
  KVBM_CUDA_WAY_AUTO = 0,
  KVBM_CUDA_WAY_LOADS = 1, /**< vector loads and stores of all threads; any alignment */
  KVBM_CUDA_WAY_BULK = 2,  /**< bulk asynchronous copies through shared memory (compute capability
                                9.0, runs and strides in multiples of 16 bytes); else LOADS */
  KVBM_CUDA_WAY_MAX = 0x7fffffff
} kvbm_cuda_way;

/** Where and how widely a kernel runs. */
typedef struct kvbm_cuda_launch {
  void* stream;      /**< cudaStream_t */
  uint32_t max_ctas; /**< thread blocks at most, each on a multiprocessor of its own; 0 = as many as
                          fill the device. A few saturate a host link. */
  kvbm_cuda_way way;
} kvbm_cuda_launch;

/**
 * The general copy on the device, kvbm_cpu_strided_copy's twin. Segments and block ids are read in
 * the call and travel as kernel parameters: there is no table to upload.
 */
kvbm_status kvbm_cuda_strided_copy(kvbm_copy_template const* shape, kvbm_copy_boxes const* boxes,
                                   kvbm_cuda_launch const* launch);

/**
 * The same copy by the copy engines: one DMA a contiguous run, adjacent runs of neighbouring blocks
 * merged, submitted in capped batches (modes as for memcpy_batch). Pageable host memory works too,
 * individually and slowly.
 * @param path     receives the way taken; may be null
 * @param num_dma  receives the number of copies submitted; may be null
 */
kvbm_status kvbm_cuda_strided_dma(kvbm_copy_template const* shape, kvbm_copy_boxes const* boxes,
                                  kvbm_memcpy_batch_mode mode, void* stream,
                                  kvbm_memcpy_batch_path* path, size_t* num_dma);

/**
 * Copies num_pairs pairs of copy_size_bytes each; the widest access that fits is chosen pair by
 * pair. Zero pairs or bytes: OK without touching the device.
 * @param src_ptrs, dst_ptrs  [num_pairs] addresses, in memory that the device can read
 */
kvbm_status kvbm_cuda_vectorized_copy(void const* const* src_ptrs, void* const* dst_ptrs,
                                      size_t copy_size_bytes, int num_pairs, void* stream);

/**
 * cudaMemcpyBatchAsync where runtime and driver have it, else (modes) one cudaMemcpyAsync each.
 * @param src_ptrs, dst_ptrs  [count] host arrays
 * @param path  receives the way taken; may be null
 */
kvbm_status kvbm_cuda_memcpy_batch(void const* const* src_ptrs, void* const* dst_ptrs, size_t bytes,
                                   size_t count, kvbm_memcpy_batch_mode mode,
                                   kvbm_memcpy_batch_path* path, void* stream);

/** As kvbm_cpu_universal_from_block; the tables lie in memory that the device can read. */
kvbm_status kvbm_cuda_universal_from_block(void* const* universal_ptrs,
                                           void const* const* block_ptrs, size_t num_blocks,
                                           size_t nh, size_t nl, size_t no, size_t nt, size_t hd,
                                           kvbm_dtype dtype, kvbm_block_order order, void* stream);

/** As kvbm_cpu_block_from_universal; the tables lie in memory that the device can read. */
kvbm_status kvbm_cuda_block_from_universal(void const* const* universal_ptrs,
                                           void* const* block_ptrs, size_t num_blocks, size_t nh,
                                           size_t nl, size_t no, size_t nt, size_t hd,
                                           kvbm_dtype dtype, kvbm_block_order order, void* stream);

/**
 * What kvbm_cuda_xxh3_128 hashes: for every block its segments in groups of segments_per_unit, a
 * group being one input, read segment by segment in the order of the template's loops.
 */
typedef struct kvbm_hash_units {
  size_t num_segments;
  uintptr_t const* segments; /* [num_segments] addresses of block 0's */
  uint64_t block_stride;     /* bytes */
  size_t segments_per_unit;  /* divides num_segments */
  size_t num_blocks;
  uint32_t const* blocks; /* [num_blocks] block ids */
} kvbm_hash_units;

/** Bytes of scratch memory that one block needs; more lets more blocks be hashed side by side. */
uint64_t kvbm_cuda_xxh3_128_scratch_bytes(kvbm_copy_template const* shape,
                                          kvbm_hash_units const* units);

/**
 * XXH3-128 (default secret, no seed) of device memory, at the speed of that memory. Only the
 * template's source strides are looked at. NOT_SUPPORTED for inputs below 241 bytes or with runs,
 * strides or addresses that are not multiples of 16.
 * @param scratch  device memory, aligned to 16, of at least one block's need
 * @param results  [num_blocks][num_segments / segments_per_unit] pairs of (low, high) half, in
 *                 memory that the device can write
 */
kvbm_status kvbm_cuda_xxh3_128(kvbm_copy_template const* shape, kvbm_hash_units const* units,
                               void* scratch, uint64_t scratch_bytes, uint64_t* results,
                               void* stream);

#ifdef __cplusplus
} /* extern "C" */
#endif

#endif /* KVBM_KERNELS_KERNELS_H */
