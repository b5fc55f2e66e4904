/* SPDX-License-Identifier: Apache-2.0
 *
 * The kernels from plain C: three blocks of a paged cache are gathered into one stretch, by the CPU
 * and, where there is a GPU, on it. A block is 4 rows of 256 bytes, 1024 bytes apart.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kvbm/kernels/kernels.h"

#ifdef KVBM_EXAMPLE_CUDA
#include <cuda_runtime_api.h>
#endif

/* NOLINTBEGIN(readability-identifier-naming): constants as C writes them */
enum { ROW = 256, ROWS = 4, PITCH = 1024, BLOCKS = 8, TAKEN = 3, BLOCK = ROW * ROWS };
enum { CACHE_BYTES = BLOCKS * ROWS * PITCH, OUT_BYTES = TAKEN * BLOCK };

static uint32_t const cache_blocks[TAKEN] = {6, 1, 3};
static uint32_t const out_blocks[TAKEN] = {0, 1, 2};
/* NOLINTEND(readability-identifier-naming) */

static kvbm_copy_template block_template(void) {
  kvbm_copy_template shape = {0};
  shape.num_dims = 1;
  shape.dims[0].extent = ROWS;
  shape.dims[0].src_stride = PITCH;
  shape.dims[0].dst_stride = ROW;
  shape.run_bytes = ROW;
  return shape;
}

static kvbm_copy_boxes boxes_between(uintptr_t const* cache, uintptr_t const* out) {
  kvbm_copy_boxes boxes = {0};
  boxes.num_segments = 1;
  boxes.src_segments = cache;
  boxes.dst_segments = out;
  boxes.src_block_stride = ROWS * PITCH;
  boxes.dst_block_stride = BLOCK;
  boxes.num_blocks = TAKEN;
  boxes.src_blocks = cache_blocks;
  boxes.dst_blocks = out_blocks;
  return boxes;
}

static int expect(int condition, char const* what) {
  if (!condition) fprintf(stderr, "failed: %s\n", what);
  return condition;
}

static int gathered(unsigned char const* cache, unsigned char const* out) {
  for (int i = 0; i < OUT_BYTES; ++i) {
    int const block = i / BLOCK;
    int const row = i % BLOCK / ROW;
    if (out[i] != cache[((int)cache_blocks[block] * ROWS + row) * PITCH + i % ROW]) return 0;
  }
  return 1;
}

#ifdef KVBM_EXAMPLE_CUDA
static int gather_on_gpu(unsigned char const* cache) {
  if (kvbm_cuda_make_current(0, NULL) != KVBM_STATUS_OK) {
    printf("no CUDA device: %s\n", kvbm_cuda_error_string(kvbm_cuda_last_error()));
    return 1;
  }
  static unsigned char result[OUT_BYTES];
  void* device_cache = NULL;
  void* device_out = NULL;
  int good = expect(cudaMalloc(&device_cache, CACHE_BYTES) == cudaSuccess, "cudaMalloc") &&
             expect(cudaMalloc(&device_out, OUT_BYTES) == cudaSuccess, "cudaMalloc");
  if (good) {
    uintptr_t const from = (uintptr_t)device_cache;
    uintptr_t const to = (uintptr_t)device_out;
    kvbm_copy_template const shape = block_template();
    kvbm_copy_boxes const boxes = boxes_between(&from, &to);
    kvbm_cuda_launch const launch = {NULL, 0, KVBM_CUDA_WAY_AUTO};
    cudaMemcpy(device_cache, cache, CACHE_BYTES, cudaMemcpyDefault);
    good = expect(kvbm_cuda_strided_copy(&shape, &boxes, &launch) == KVBM_STATUS_OK, "launch") &&
           expect(cudaMemcpy(result, device_out, OUT_BYTES, cudaMemcpyDefault) == cudaSuccess,
                  "copy") &&
           expect(gathered(cache, result), "the GPU gathers the rows of the blocks");
    if (good) printf("gathered %d blocks on the GPU\n", TAKEN);
  }
  cudaFree(device_cache);
  cudaFree(device_out);
  return good;
}
#endif

int main(void) {
  static unsigned char cache[CACHE_BYTES];
  static unsigned char out[OUT_BYTES];
  for (int i = 0; i < CACHE_BYTES; ++i)
    cache[i] = (unsigned char)((unsigned)i * 2654435761U >> 13);
  uintptr_t const from = (uintptr_t)cache;
  uintptr_t const to = (uintptr_t)out;
  kvbm_copy_template const shape = block_template();
  kvbm_copy_boxes const boxes = boxes_between(&from, &to);
  kvbm_status const status = kvbm_cpu_strided_copy(&shape, &boxes);
  int good = expect(status == KVBM_STATUS_OK, kvbm_status_string(status)) &&
             expect(gathered(cache, out), "the CPU gathers the rows of the blocks");
  if (good) printf("gathered %d blocks on the CPU\n", TAKEN);
#ifdef KVBM_EXAMPLE_CUDA
  good = gather_on_gpu(cache) && good;
#endif
  return good ? EXIT_SUCCESS : EXIT_FAILURE;
}
