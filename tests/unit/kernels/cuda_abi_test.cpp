// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <array>
#include <cstring>
#include <limits>
#include <vector>

#include "kvbm/kernels/kernels.h"

// What the CUDA functions answer without touching a device, in every build.
namespace {

bool built() { return kvbm_cuda_is_built() != 0; }

/// `status` in a build with CUDA, else NOT_SUPPORTED.
kvbm_status if_built(kvbm_status status) { return built() ? status : KVBM_STATUS_NOT_SUPPORTED; }

TEST(CudaAbi, K5_BuildWithoutCudaAnswersAndDoesNotAbort) {
  if (built()) GTEST_SKIP() << "this build has CUDA";
  EXPECT_EQ(kvbm_cuda_has_memcpy_batch(), 0);
  EXPECT_EQ(kvbm_cuda_last_error(), 0);
  EXPECT_NE(kvbm_cuda_error_string(1), nullptr);
  EXPECT_EQ(kvbm_cuda_make_current(0, nullptr), KVBM_STATUS_NOT_SUPPORTED);
  EXPECT_EQ(kvbm_cuda_strided_copy(nullptr, nullptr, nullptr), KVBM_STATUS_NOT_SUPPORTED);
  EXPECT_EQ(
      kvbm_cuda_strided_dma(nullptr, nullptr, KVBM_MEMCPY_FALLBACK_ONLY, nullptr, nullptr, nullptr),
      KVBM_STATUS_NOT_SUPPORTED);
  EXPECT_EQ(kvbm_cuda_vectorized_copy(nullptr, nullptr, 1, 1, nullptr), KVBM_STATUS_NOT_SUPPORTED);
  EXPECT_EQ(
      kvbm_cuda_memcpy_batch(nullptr, nullptr, 1, 1, KVBM_MEMCPY_FALLBACK_ONLY, nullptr, nullptr),
      KVBM_STATUS_NOT_SUPPORTED);
}

TEST(CudaAbi, K3_NothingToDoIsFineWithoutADevice) {
  for (int const mode : {0, 1, 2, 77}) {
    auto path = KVBM_MEMCPY_PATH_BATCHED;
    EXPECT_EQ(kvbm_cuda_memcpy_batch(nullptr, nullptr, 0, 5,
                                     static_cast<kvbm_memcpy_batch_mode>(mode), &path, nullptr),
              if_built(KVBM_STATUS_OK));
    EXPECT_EQ(kvbm_cuda_memcpy_batch(nullptr, nullptr, 5, 0,
                                     static_cast<kvbm_memcpy_batch_mode>(mode), nullptr, nullptr),
              if_built(KVBM_STATUS_OK));
    if (built()) { EXPECT_EQ(path, KVBM_MEMCPY_PATH_NONE); }
  }
  EXPECT_EQ(kvbm_cuda_vectorized_copy(nullptr, nullptr, 0, 3, nullptr), if_built(KVBM_STATUS_OK));
  EXPECT_EQ(kvbm_cuda_vectorized_copy(nullptr, nullptr, 3, 0, nullptr), if_built(KVBM_STATUS_OK));
  for (std::size_t zero = 0; zero < 6; ++zero) {
    std::array<std::size_t, 6> n{1, 1, 1, 1, 1, 1};
    n[zero] = 0;
    EXPECT_EQ(kvbm_cuda_universal_from_block(nullptr, nullptr, n[0], n[1], n[2], n[3], n[4], n[5],
                                             KVBM_DTYPE_F16, KVBM_BLOCK_NHD, nullptr),
              if_built(KVBM_STATUS_OK));
    EXPECT_EQ(kvbm_cuda_block_from_universal(nullptr, nullptr, n[0], n[1], n[2], n[3], n[4], n[5],
                                             KVBM_DTYPE_F16, KVBM_BLOCK_HND, nullptr),
              if_built(KVBM_STATUS_OK));
  }
  kvbm_copy_template shape{};
  kvbm_copy_boxes boxes{};
  kvbm_cuda_launch const launch{};
  EXPECT_EQ(kvbm_cuda_strided_copy(&shape, &boxes, &launch), if_built(KVBM_STATUS_OK));
  std::size_t num_dma = 9;
  EXPECT_EQ(kvbm_cuda_strided_dma(&shape, &boxes, KVBM_MEMCPY_BATCHED_WITH_FALLBACK, nullptr,
                                  nullptr, &num_dma),
            if_built(KVBM_STATUS_OK));
  if (built()) { EXPECT_EQ(num_dma, 0U); }
}

TEST(CudaAbi, K3_InvalidArgumentsAreRefusedWithoutADevice) {
  kvbm_status const invalid = if_built(KVBM_STATUS_INVALID_VALUE);
  std::byte memory{};
  void* pointer = &memory;
  void const* constant = &memory;
  std::size_t const huge = std::numeric_limits<std::size_t>::max() / 2;
  EXPECT_EQ(kvbm_cuda_vectorized_copy(nullptr, &pointer, 1, 1, nullptr), invalid);
  EXPECT_EQ(kvbm_cuda_vectorized_copy(&constant, nullptr, 1, 1, nullptr), invalid);
  EXPECT_EQ(kvbm_cuda_vectorized_copy(&constant, &pointer, 1, -1, nullptr), invalid);
  EXPECT_EQ(kvbm_cuda_vectorized_copy(&constant, &pointer, huge, 3, nullptr), invalid);
  EXPECT_EQ(kvbm_cuda_memcpy_batch(&constant, &pointer, 1, 1,
                                   static_cast<kvbm_memcpy_batch_mode>(3), nullptr, nullptr),
            invalid);
  void* null = nullptr;
  EXPECT_EQ(
      kvbm_cuda_memcpy_batch(&constant, &null, 1, 1, KVBM_MEMCPY_FALLBACK_ONLY, nullptr, nullptr),
      invalid);
  EXPECT_EQ(
      kvbm_cuda_memcpy_batch(nullptr, &pointer, 1, 1, KVBM_MEMCPY_FALLBACK_ONLY, nullptr, nullptr),
      invalid);
  auto const permute = [&](void* const* universal, void const* const* chunks, std::size_t nh,
                           int dtype, int order) {
    return kvbm_cuda_universal_from_block(universal, chunks, 1, nh, 1, 1, 1, 8,
                                          static_cast<kvbm_dtype>(dtype),
                                          static_cast<kvbm_block_order>(order), nullptr);
  };
  EXPECT_EQ(permute(nullptr, &constant, 1, 0, 0), invalid);
  EXPECT_EQ(permute(&pointer, nullptr, 1, 0, 0), invalid);
  EXPECT_EQ(permute(&pointer, &constant, 1, 99, 0), invalid);
  EXPECT_EQ(permute(&pointer, &constant, 1, 0, 2), invalid);
  EXPECT_EQ(permute(&pointer, &constant, huge, 3, 0), invalid);

  kvbm_copy_template shape{};
  shape.run_bytes = 16;
  std::uintptr_t const address = 4096;
  std::uintptr_t const zero = 0;
  std::uint32_t const id = 0;
  kvbm_copy_boxes const good{1, &address, &address, 16, 16, 1, &id, &id};
  kvbm_cuda_launch launch{};
  EXPECT_EQ(kvbm_cuda_strided_copy(nullptr, &good, &launch), invalid);
  EXPECT_EQ(kvbm_cuda_strided_copy(&shape, nullptr, &launch), invalid);
  EXPECT_EQ(kvbm_cuda_strided_copy(&shape, &good, nullptr), invalid);
  launch.way = static_cast<kvbm_cuda_way>(7);
  EXPECT_EQ(kvbm_cuda_strided_copy(&shape, &good, &launch), invalid);
  launch.way = KVBM_CUDA_WAY_AUTO;
  kvbm_copy_boxes bad = good;
  bad.src_segments = &zero;
  EXPECT_EQ(kvbm_cuda_strided_copy(&shape, &bad, &launch), invalid);
  EXPECT_EQ(
      kvbm_cuda_strided_dma(&shape, &bad, KVBM_MEMCPY_FALLBACK_ONLY, nullptr, nullptr, nullptr),
      invalid);
  bad = good;
  bad.dst_blocks = nullptr;
  EXPECT_EQ(kvbm_cuda_strided_copy(&shape, &bad, &launch), invalid);
  shape.num_dims = KVBM_MAX_COPY_DIMS + 1;
  EXPECT_EQ(kvbm_cuda_strided_copy(&shape, &good, &launch), invalid);
  EXPECT_EQ(
      kvbm_cuda_strided_dma(&shape, &good, KVBM_MEMCPY_FALLBACK_ONLY, nullptr, nullptr, nullptr),
      invalid);
}

TEST(CudaAbi, K5_MachineWithoutADeviceGetsAnErrorWithItsCause) {
  int previous = 0;
  if (!built() || kvbm_cuda_make_current(0, &previous) == KVBM_STATUS_OK) {
    GTEST_SKIP() << "no CUDA in this build, or a device on this machine";
  }
  std::byte memory[2]{};
  void* to = memory;
  void const* from = memory + 1;
  EXPECT_EQ(kvbm_cuda_vectorized_copy(&from, &to, 1, 1, nullptr), KVBM_STATUS_CUDA_ERROR);
  EXPECT_NE(kvbm_cuda_last_error(), 0);
  EXPECT_GT(std::strlen(kvbm_cuda_error_string(kvbm_cuda_last_error())), 0U);
}

}  // namespace
