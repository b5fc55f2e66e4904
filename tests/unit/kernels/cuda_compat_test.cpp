// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <cstddef>

#include "kvbm/kernels/compat.h"
#include "kvbm/kernels/kernels.h"

namespace {

constexpr int kInvalidValue = 1;
constexpr int kNotSupported = 801;

TEST(KernelsCompat, K5_StubBuildSaysSoAndAnswers) {
  bool const stub = kvbm_kernels_is_stub_build() != 0;
  EXPECT_EQ(stub, kvbm_cuda_is_built() == 0);
  EXPECT_EQ(kvbm_kernels_has_memcpy_batch_async(), kvbm_cuda_has_memcpy_batch());
  if (!stub) GTEST_SKIP() << "this build has CUDA";
  EXPECT_EQ(kvbm_kernels_has_memcpy_batch_async(), 0);
  EXPECT_EQ(kvbm_kernels_launch_vectorized_copy(nullptr, nullptr, 1, 1, nullptr), kNotSupported);
}

TEST(KernelsCompat, K3_NothingToDoIsSuccessAndBadArgumentsAreInvalid) {
  if (kvbm_kernels_is_stub_build() != 0) GTEST_SKIP() << "this build has no CUDA";
  std::byte memory{};
  void* pointer = &memory;
  void const* constant = &memory;
  EXPECT_EQ(kvbm_kernels_launch_vectorized_copy(nullptr, nullptr, 0, 1, nullptr), 0);
  EXPECT_EQ(kvbm_kernels_launch_vectorized_copy(nullptr, &pointer, 1, 1, nullptr), kInvalidValue);
  auto const there = [&](size_t blocks, int dtype, int layout, void* const* universal) {
    return kvbm_kernels_launch_universal_from_block(universal, &constant, blocks, 1, 1, 1, 1, 8,
                                                    dtype, layout, nullptr);
  };
  auto const back = [&](size_t blocks, int dtype, int layout, void* const* chunks) {
    return kvbm_kernels_launch_block_from_universal(&constant, chunks, blocks, 1, 1, 1, 1, 8, dtype,
                                                    layout, nullptr);
  };
  EXPECT_EQ(there(0, 0, 0, nullptr), 0);
  EXPECT_EQ(back(0, 0, 0, nullptr), 0);
  EXPECT_EQ(there(1, 0, 0, nullptr), kInvalidValue);
  EXPECT_EQ(back(1, 3, 1, nullptr), kInvalidValue);
  EXPECT_EQ(there(1, 17, 0, &pointer), kInvalidValue);
  EXPECT_EQ(back(1, 0, 5, &pointer), kInvalidValue);
}

}  // namespace
