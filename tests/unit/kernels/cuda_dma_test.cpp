// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <random>

#include "kernels/cuda/dma_api.hpp"
#include "unit/kernels/cuda_memory.hpp"
#include "unit/kernels/strided_oracle.hpp"

// The enumeration of DMA copies and the choice of calls, with calls that copy host memory and keep
// a record: none of it needs a device.
namespace kvbm::kernels::testing {
namespace {

struct Copy {
  std::uintptr_t src, dst;
  std::size_t bytes;
};

struct Record {
  std::vector<std::size_t> batches;  ///< descriptors of each batch call
  std::vector<Copy> copies;          ///< all, batched or not
  std::size_t individual = 0;
  std::size_t row_calls = 0;
  bool copies_memory = true;
  bool batch_exists = true;
  bool capturing = false;
  bool registered = true;
  cudaError_t batch_error = cudaSuccess;
};

Record& record() {
  thread_local Record instance;
  return instance;
}

void copy_one(void* dst, void const* src, std::size_t bytes) {
  record().copies.push_back(
      {reinterpret_cast<std::uintptr_t>(src), reinterpret_cast<std::uintptr_t>(dst), bytes});
  if (record().copies_memory) std::memcpy(dst, src, bytes);
}

CudaDmaApi const& recorded_api() {
  static constexpr CudaDmaApi api{
      []() noexcept { return record().batch_exists; },
      [](void* const* dst, void const* const* src, std::size_t const* bytes, std::size_t count,
         cudaStream_t) noexcept {
        record().batches.push_back(count);
        if (record().batch_error != cudaSuccess) return record().batch_error;
        for (std::size_t i = 0; i < count; ++i)
          copy_one(dst[i], src[i], bytes[i]);
        return cudaSuccess;
      },
      [](void* dst, void const* src, std::size_t bytes, cudaStream_t) noexcept {
        ++record().individual;
        copy_one(dst, src, bytes);
        return cudaSuccess;
      },
      [](void* dst, std::size_t dst_pitch, void const* src, std::size_t src_pitch,
         std::size_t bytes, std::size_t rows, cudaStream_t) noexcept {
        ++record().row_calls;
        for (std::size_t i = 0; i < rows; ++i) {
          copy_one(static_cast<std::byte*>(dst) + i * dst_pitch,
                   static_cast<std::byte const*>(src) + i * src_pitch, bytes);
        }
        return cudaSuccess;
      },
      [](cudaStream_t, bool& capturing) noexcept {
        capturing = record().capturing;
        return cudaSuccess;
      },
      [](std::uintptr_t, bool& registered) noexcept {
        registered = record().registered;
        return cudaSuccess;
      }};
  return api;
}

class StridedDma : public ::testing::Test {
 protected:
  void SetUp() override { record() = {}; }

  kvbm_status run(BoxLayout const& layout, std::uintptr_t src, std::uintptr_t dst,
                  kvbm_memcpy_batch_mode mode = KVBM_MEMCPY_BATCHED_WITH_FALLBACK,
                  DmaTuning const& tuning = {}) {
    PlacedBoxes const placed(layout, src, dst);
    return strided_dma(&layout.shape, &placed.get(), mode, stream_, &path_, &num_dma_,
                       recorded_api(), tuning);
  }
  /// Runs it over host memory and compares with the CPU twin.
  void expect_as_cpu(BoxLayout const& layout,
                     kvbm_memcpy_batch_mode mode = KVBM_MEMCPY_BATCHED_WITH_FALLBACK,
                     DmaTuning const& tuning = {}) {
    auto source = noise(layout.src_bytes, 1);
    auto const before = noise(layout.dst_bytes, 2);
    auto result = before;
    ASSERT_EQ(run(layout, reinterpret_cast<std::uintptr_t>(source.data()),
                  reinterpret_cast<std::uintptr_t>(result.data()), mode, tuning),
              KVBM_STATUS_OK);
    EXPECT_TRUE(result == copied_by_cpu(layout, source, before)) << describe(layout.shape);
  }

  void* stream_ = reinterpret_cast<void*>(std::uintptr_t{64});
  kvbm_memcpy_batch_path path_ = KVBM_MEMCPY_PATH_NONE;
  std::size_t num_dma_ = 0;
};

kvbm_copy_template run_of(std::uint64_t bytes) {
  kvbm_copy_template shape{};
  shape.run_bytes = bytes;
  return shape;
}

/// Blocks 0 to count - 1 of both sides, without gaps, in one segment.
BoxLayout dense(std::uint64_t block_bytes, std::uint32_t count) {
  BoxLayout layout;
  layout.shape = run_of(block_bytes);
  layout.src_offsets = layout.dst_offsets = {0};
  layout.src_block_stride = layout.dst_block_stride = block_bytes;
  for (std::uint32_t i = 0; i < count; ++i) {
    layout.src_blocks.push_back(i);
    layout.dst_blocks.push_back(i);
  }
  layout.src_bytes = layout.dst_bytes = block_bytes * count;
  return layout;
}

TEST_F(StridedDma, RandomTemplatesEqualTheCpuTwin) {
  std::mt19937_64 random(11);
  for (int i = 0; i < 400; ++i) {
    kvbm_copy_template const shape = random_template(random, 1 + random() % 300, 1U << 14U);
    BoxLayout const layout =
        scattered(shape, 1 + random() % 4, 1 + random() % 8, 1, 0, 0, random());
    if (layout.src_bytes > (4U << 20U) || layout.dst_bytes > (4U << 20U)) continue;
    DmaTuning tuning;
    tuning.max_batch = 1 + random() % 50;
    tuning.min_rows = random() % 3;
    expect_as_cpu(layout, static_cast<kvbm_memcpy_batch_mode>(random() % 2), tuning);
  }
}

TEST_F(StridedDma, NeighboursAreOneCopy) {
  expect_as_cpu(dense(4096, 20));
  EXPECT_EQ(num_dma_, 1U);
  EXPECT_EQ(path_, KVBM_MEMCPY_PATH_INDIVIDUAL);

  BoxLayout gap = dense(4096, 20);
  gap.src_blocks.erase(gap.src_blocks.begin() + 7);
  gap.dst_blocks.erase(gap.dst_blocks.begin() + 7);
  gap.src_blocks.erase(gap.src_blocks.begin() + 11);
  gap.dst_blocks.erase(gap.dst_blocks.begin() + 11);
  expect_as_cpu(gap);
  EXPECT_EQ(num_dma_, 3U);
  EXPECT_EQ(path_, KVBM_MEMCPY_PATH_BATCHED);

  BoxLayout one_sided = dense(4096, 20);
  std::reverse(one_sided.src_blocks.begin(), one_sided.src_blocks.end());
  expect_as_cpu(one_sided);
  EXPECT_EQ(num_dma_, 20U);
}

TEST_F(StridedDma, SegmentsThatTouchAreOneCopy) {
  BoxLayout layout = dense(512, 6);
  layout.src_offsets = layout.dst_offsets = {0, 512, 1024, 1536};
  layout.src_block_stride = layout.dst_block_stride = 2048;
  layout.src_bytes = layout.dst_bytes = 6 * 2048;
  expect_as_cpu(layout);
  EXPECT_EQ(num_dma_, 1U);
}

TEST_F(StridedDma, NoCopyCrossesAMultipleOf64GibibytesOnEitherSide) {
  record().copies_memory = false;
  constexpr std::uintptr_t kSpan = std::uintptr_t{64} << 30U;
  BoxLayout const layout = dense(std::uint64_t{1} << 30U, 80);
  ASSERT_EQ(run(layout, 3 * kSpan - 12345, 9 * kSpan + 4096), KVBM_STATUS_OK);
  std::uint64_t sum = 0;
  for (Copy const& copy : record().copies) {
    EXPECT_EQ(copy.src / kSpan, (copy.src + copy.bytes - 1) / kSpan);
    EXPECT_EQ(copy.dst / kSpan, (copy.dst + copy.bytes - 1) / kSpan);
    EXPECT_EQ(copy.src - (3 * kSpan - 12345), copy.dst - (9 * kSpan + 4096));
    EXPECT_EQ(copy.src, 3 * kSpan - 12345 + sum);
    sum += copy.bytes;
  }
  EXPECT_EQ(sum, std::uint64_t{80} << 30U);
  EXPECT_EQ(num_dma_, 4U);
}

TEST_F(StridedDma, BatchesAreCapped) {
  BoxLayout const layout = scattered(run_of(16), 1, 10'000, 32, 0, 0, 3);
  expect_as_cpu(layout);
  ASSERT_GE(record().batches.size(), 2U);
  for (std::size_t const count : record().batches)
    EXPECT_LE(count, 4096U);
  EXPECT_EQ(num_dma_, record().copies.size());
}

TEST_F(StridedDma, K4_MissingBatchFunctionIsReplacedAndReported) {
  record().batch_exists = false;
  BoxLayout const layout = scattered(run_of(100), 1, 50, 128, 0, 0, 3);
  expect_as_cpu(layout);
  EXPECT_EQ(path_, KVBM_MEMCPY_PATH_INDIVIDUAL);
  EXPECT_EQ(record().individual, num_dma_);
  EXPECT_TRUE(record().batches.empty());
  EXPECT_EQ(run(layout, 4096, 4096, KVBM_MEMCPY_BATCH_WITHOUT_FALLBACK), KVBM_STATUS_NOT_SUPPORTED);
}

TEST_F(StridedDma, K4_BatchFunctionThatRefusesIsReplacedAndReported) {
  record().batch_error = cudaErrorNotSupported;
  BoxLayout const layout = scattered(run_of(100), 1, 50, 128, 0, 0, 3);
  expect_as_cpu(layout);
  EXPECT_EQ(path_, KVBM_MEMCPY_PATH_INDIVIDUAL);
  EXPECT_EQ(run(layout, 4096, 4096, KVBM_MEMCPY_BATCH_WITHOUT_FALLBACK), KVBM_STATUS_NOT_SUPPORTED);
}

TEST_F(StridedDma, OtherErrorsOfTheBatchFunctionAreNotHidden) {
  record().batch_error = cudaErrorInvalidValue;
  BoxLayout const layout = scattered(run_of(100), 1, 50, 128, 0, 0, 3);
  EXPECT_EQ(run(layout, 4096, 1U << 20U), KVBM_STATUS_CUDA_ERROR);
  EXPECT_EQ(kvbm_cuda_last_error(), cudaErrorInvalidValue);
  EXPECT_EQ(record().individual, 0U);
}

TEST_F(StridedDma, NullStreamCaptureAndPageableMemoryAreCopiedOneByOne) {
  BoxLayout const layout = scattered(run_of(100), 1, 50, 128, 0, 0, 3);
  for (int reason = 0; reason < 3; ++reason) {
    record() = {};
    if (reason == 0) stream_ = nullptr;
    record().capturing = reason == 1;
    record().registered = reason != 2;
    expect_as_cpu(layout);
    EXPECT_EQ(path_, KVBM_MEMCPY_PATH_INDIVIDUAL) << reason;
    EXPECT_TRUE(record().batches.empty());
    stream_ = reinterpret_cast<void*>(std::uintptr_t{64});
  }
}

TEST_F(StridedDma, LargeCopiesGoOneByOneUnlessForbidden) {
  record().copies_memory = false;
  BoxLayout layout = dense(std::uint64_t{32} << 20U, 6);
  std::reverse(layout.src_blocks.begin(), layout.src_blocks.end());
  ASSERT_EQ(run(layout, 4096, 1U << 30U), KVBM_STATUS_OK);
  EXPECT_EQ(path_, KVBM_MEMCPY_PATH_INDIVIDUAL);
  ASSERT_EQ(run(layout, 4096, 1U << 30U, KVBM_MEMCPY_BATCH_WITHOUT_FALLBACK), KVBM_STATUS_OK);
  EXPECT_EQ(path_, KVBM_MEMCPY_PATH_BATCHED);
}

TEST_F(StridedDma, RowsOfABoxCanBeOneCall) {
  kvbm_copy_template shape = run_of(64);
  shape.num_dims = 1;
  shape.dims[0] = {100, 256, 80};
  DmaTuning tuning;
  tuning.min_rows = 8;
  expect_as_cpu(scattered(shape, 2, 3, 16, 0, 0, 1), KVBM_MEMCPY_BATCHED_WITH_FALLBACK, tuning);
  EXPECT_EQ(record().row_calls, 6U);
  EXPECT_EQ(num_dma_, 6U);
}

}  // namespace
}  // namespace kvbm::kernels::testing
