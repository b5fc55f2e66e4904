// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <array>
#include <cstring>
#include <limits>
#include <string>
#include <thread>
#include <vector>

#include "kvbm/kernels/kernels.h"

namespace {

std::vector<unsigned char> pattern(std::size_t bytes, unsigned seed) {
  std::vector<unsigned char> result(bytes);
  for (std::size_t i = 0; i < bytes; ++i) {
    result[i] = static_cast<unsigned char>((i * 2654435761U + std::size_t{seed} * 40503U) >> 7U);
  }
  return result;
}

/// Pairs of one size at given distances from aligned addresses, with a guard after each.
class Pairs {
 public:
  Pairs(std::size_t bytes, std::size_t count, std::size_t src_offset, std::size_t dst_offset)
      : bytes_(bytes), stride_((bytes + 127) / 64 * 64) {
    src_ = pattern(stride_ * count + 128, 1);
    dst_ = pattern(stride_ * count + 128, 2);
    expected_ = dst_;
    for (std::size_t i = 0; i < count; ++i) {
      // Alignment differs from pair to pair: the odd ones are moved once more.
      std::size_t const src_at = i * stride_ + (i % 2 == 0 ? src_offset : 0);
      std::size_t const dst_at = i * stride_ + (i % 2 == 0 ? dst_offset : 2 * dst_offset);
      src_ptrs.push_back(src_.data() + src_at);
      dst_ptrs.push_back(dst_.data() + dst_at);
      std::memcpy(expected_.data() + dst_at, src_.data() + src_at, bytes_);
    }
  }
  [[nodiscard]] bool copied() const { return dst_ == expected_; }

  std::vector<void const*> src_ptrs;
  std::vector<void*> dst_ptrs;

 private:
  std::size_t bytes_;
  std::size_t stride_;
  std::vector<unsigned char> src_;
  std::vector<unsigned char> dst_;
  std::vector<unsigned char> expected_;
};

TEST(KernelStatus, EveryStatusHasWords) {
  for (int status = 0; status <= 3; ++status) {
    char const* text = kvbm_status_string(static_cast<kvbm_status>(status));
    ASSERT_NE(text, nullptr);
    EXPECT_FALSE(std::string(text).empty());
  }
}

TEST(CpuVectorizedCopy, P10_MixedSizesAndAlignments) {
  for (std::size_t const bytes : {1U, 2U, 3U, 4U, 8U, 12U, 15U, 16U, 17U, 31U, 4097U}) {
    for (std::size_t const src_offset : {0U, 1U, 2U, 4U, 8U}) {
      for (std::size_t const dst_offset : {0U, 1U, 2U, 4U, 8U}) {
        Pairs pairs(bytes, 9, src_offset, dst_offset);
        ASSERT_EQ(kvbm_cpu_vectorized_copy(pairs.src_ptrs.data(), pairs.dst_ptrs.data(), bytes, 9),
                  KVBM_STATUS_OK);
        ASSERT_TRUE(pairs.copied())
            << bytes << " bytes, offsets " << src_offset << ", " << dst_offset;
      }
    }
  }
}

TEST(CpuVectorizedCopy, CopiesManyAndLargePairs) {
  Pairs many(64, 70000, 0, 0);
  EXPECT_EQ(kvbm_cpu_vectorized_copy(many.src_ptrs.data(), many.dst_ptrs.data(), 64, 70000),
            KVBM_STATUS_OK);
  EXPECT_TRUE(many.copied());
  Pairs large((5U << 20U) + 3, 2, 1, 8);
  EXPECT_EQ(
      kvbm_cpu_vectorized_copy(large.src_ptrs.data(), large.dst_ptrs.data(), (5U << 20U) + 3, 2),
      KVBM_STATUS_OK);
  EXPECT_TRUE(large.copied());
}

TEST(CpuVectorizedCopy, K3_EmptyIsFineAndNullTablesAreNot) {
  EXPECT_EQ(kvbm_cpu_vectorized_copy(nullptr, nullptr, 64, 0), KVBM_STATUS_OK);
  EXPECT_EQ(kvbm_cpu_vectorized_copy(nullptr, nullptr, 0, 5), KVBM_STATUS_OK);
  EXPECT_EQ(kvbm_cpu_vectorized_copy(nullptr, nullptr, 64, -1), KVBM_STATUS_INVALID_VALUE);
  Pairs pairs(64, 2, 0, 0);
  auto* const src = pairs.src_ptrs.data();
  auto* const dst = pairs.dst_ptrs.data();
  EXPECT_EQ(kvbm_cpu_vectorized_copy(nullptr, dst, 64, 2), KVBM_STATUS_INVALID_VALUE);
  EXPECT_EQ(kvbm_cpu_vectorized_copy(src, nullptr, 64, 2), KVBM_STATUS_INVALID_VALUE);
  EXPECT_EQ(kvbm_cpu_vectorized_copy(src, dst, std::numeric_limits<std::size_t>::max(), 2),
            KVBM_STATUS_INVALID_VALUE);
  pairs.dst_ptrs[1] = nullptr;
  EXPECT_EQ(kvbm_cpu_vectorized_copy(src, dst, 64, 2), KVBM_STATUS_INVALID_VALUE);
}

constexpr std::array<kvbm_memcpy_batch_mode, 3> kModes{KVBM_MEMCPY_BATCHED_WITH_FALLBACK,
                                                       KVBM_MEMCPY_FALLBACK_ONLY,
                                                       KVBM_MEMCPY_BATCH_WITHOUT_FALLBACK};

TEST(CpuMemcpyBatch, K4_EveryModeCopiesEveryShape) {
  struct Shape {
    std::size_t count;
    std::size_t bytes;
  };
  for (auto const& [count, bytes] :
       {Shape{1, 256}, {8, 512}, {3, 1U << 20U}, {4, 999}, {256, 64}}) {
    for (kvbm_memcpy_batch_mode const mode : kModes) {
      Pairs pairs(bytes, count, 0, 0);
      kvbm_memcpy_batch_path path = KVBM_MEMCPY_PATH_NONE;
      ASSERT_EQ(kvbm_cpu_memcpy_batch(pairs.src_ptrs.data(), pairs.dst_ptrs.data(), bytes, count,
                                      mode, &path),
                KVBM_STATUS_OK);
      EXPECT_TRUE(pairs.copied()) << count << " x " << bytes << " mode " << mode;
      EXPECT_EQ(path, mode == KVBM_MEMCPY_FALLBACK_ONLY ? KVBM_MEMCPY_PATH_INDIVIDUAL
                                                        : KVBM_MEMCPY_PATH_BATCHED);
    }
  }
}

TEST(CpuMemcpyBatch, K4_NothingToDoIsFineInAllModes) {
  for (kvbm_memcpy_batch_mode const mode : kModes) {
    kvbm_memcpy_batch_path path = KVBM_MEMCPY_PATH_BATCHED;
    EXPECT_EQ(kvbm_cpu_memcpy_batch(nullptr, nullptr, 64, 0, mode, &path), KVBM_STATUS_OK);
    EXPECT_EQ(path, KVBM_MEMCPY_PATH_NONE);
    EXPECT_EQ(kvbm_cpu_memcpy_batch(nullptr, nullptr, 0, 9, mode, nullptr), KVBM_STATUS_OK);
  }
}

TEST(CpuMemcpyBatch, K3_NullTablesAndUnknownModesAreRefused) {
  Pairs pairs(64, 2, 0, 0);
  auto* const src = pairs.src_ptrs.data();
  auto* const dst = pairs.dst_ptrs.data();
  EXPECT_EQ(kvbm_cpu_memcpy_batch(nullptr, dst, 64, 2, KVBM_MEMCPY_FALLBACK_ONLY, nullptr),
            KVBM_STATUS_INVALID_VALUE);
  EXPECT_EQ(kvbm_cpu_memcpy_batch(src, nullptr, 64, 2, KVBM_MEMCPY_FALLBACK_ONLY, nullptr),
            KVBM_STATUS_INVALID_VALUE);
  EXPECT_EQ(kvbm_cpu_memcpy_batch(src, dst, 64, 2, static_cast<kvbm_memcpy_batch_mode>(7), nullptr),
            KVBM_STATUS_INVALID_VALUE);
}

TEST(CpuStridedCopy, CopiesAndRefuses) {
  auto const src = pattern(4096, 3);
  std::vector<unsigned char> dst(4096);
  auto const from = reinterpret_cast<std::uintptr_t>(src.data());
  auto const to = reinterpret_cast<std::uintptr_t>(dst.data());
  std::uint32_t const src_block = 1;
  std::uint32_t const dst_block = 0;
  kvbm_copy_template shape{};
  shape.num_dims = 2;
  shape.dims[0] = {8, 4, 64};
  shape.dims[1] = {16, 32, 4};
  shape.run_bytes = 4;
  kvbm_copy_boxes const boxes{1, &from, &to, 2048, 2048, 1, &src_block, &dst_block};
  ASSERT_EQ(kvbm_cpu_strided_copy(&shape, &boxes), KVBM_STATUS_OK);
  for (std::size_t i = 0; i < 8; ++i) {
    for (std::size_t j = 0; j < 16; ++j) {
      ASSERT_EQ(std::memcmp(&dst[i * 64 + j * 4], &src[2048 + i * 4 + j * 32], 4), 0);
    }
  }
  EXPECT_EQ(kvbm_cpu_strided_copy(nullptr, &boxes), KVBM_STATUS_INVALID_VALUE);
  EXPECT_EQ(kvbm_cpu_strided_copy(&shape, nullptr), KVBM_STATUS_INVALID_VALUE);
  auto bad = boxes;
  bad.src_blocks = nullptr;
  EXPECT_EQ(kvbm_cpu_strided_copy(&shape, &bad), KVBM_STATUS_INVALID_VALUE);
  auto wide = shape;
  wide.num_dims = KVBM_MAX_COPY_DIMS + 1;
  EXPECT_EQ(kvbm_cpu_strided_copy(&wide, &boxes), KVBM_STATUS_INVALID_VALUE);
  wide = shape;
  wide.dims[0].extent = std::uint64_t{1} << 62U;
  EXPECT_EQ(kvbm_cpu_strided_copy(&wide, &boxes), KVBM_STATUS_INVALID_VALUE);
  wide.dims[1].extent = 0;
  EXPECT_EQ(kvbm_cpu_strided_copy(&wide, &boxes), KVBM_STATUS_OK);
  auto none = boxes;
  none.num_blocks = 0;
  none.src_blocks = nullptr;
  EXPECT_EQ(kvbm_cpu_strided_copy(&shape, &none), KVBM_STATUS_OK);
}

TEST(CpuKernels, ServeSeveralThreadsAtOnce) {
  std::vector<std::jthread> callers;
  for (int caller = 0; caller < 8; ++caller) {
    callers.emplace_back([] {
      for (int round = 0; round < 5; ++round) {
        Pairs pairs(40000, 20, 0, 0);
        EXPECT_EQ(kvbm_cpu_vectorized_copy(pairs.src_ptrs.data(), pairs.dst_ptrs.data(), 40000, 20),
                  KVBM_STATUS_OK);
        EXPECT_TRUE(pairs.copied());
      }
    });
  }
}

}  // namespace
