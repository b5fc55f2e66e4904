// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <array>
#include <random>

#include "kernels/cuda/tuning.hpp"
#include "unit/kernels/cuda_memory.hpp"
#include "unit/kernels/strided_oracle.hpp"

namespace kvbm::kernels::testing {
namespace {

constexpr std::array kWays{KVBM_CUDA_WAY_AUTO, KVBM_CUDA_WAY_LOADS, KVBM_CUDA_WAY_BULK};
constexpr std::array kKinds{MemoryKind::Device, MemoryKind::Mapped};

class CudaStridedCopy : public CudaTest {
 protected:
  /// Copies by one way and compares every byte of the destination buffer with the CPU twin's.
  void expect_as_cpu(BoxLayout const& layout, MemoryKind from, MemoryKind to, kvbm_cuda_way way,
                     std::uint32_t max_ctas = 0, CopyTuning const& tuning = {}) {
    auto source = noise(layout.src_bytes, 1);
    auto const before = noise(layout.dst_bytes, 2);
    CudaBuffer const src(from, source);
    CudaBuffer const dst(to, before);
    PlacedBoxes const placed(layout, src.address(), dst.address());
    kvbm_cuda_launch const launch{stream(), max_ctas, way};
    ASSERT_EQ(strided_copy(&layout.shape, &placed.get(), &launch, tuning), KVBM_STATUS_OK)
        << kvbm_cuda_error_string(kvbm_cuda_last_error());
    synchronize();
    EXPECT_TRUE(dst.read() == copied_by_cpu(layout, source, before))
        << describe(layout.shape) << " way " << way << " ctas " << max_ctas << ' ' << name_of(from)
        << " to " << name_of(to) << ", segments " << layout.src_offsets.size() << ", blocks "
        << layout.src_blocks.size();
  }
  void expect_all_ways(BoxLayout const& layout) {
    for (MemoryKind const from : kKinds)
      for (MemoryKind const to : kKinds)
        for (kvbm_cuda_way const way : kWays)
          expect_as_cpu(layout, from, to, way);
  }
};

kvbm_copy_template run_of(std::uint64_t bytes) {
  kvbm_copy_template shape{};
  shape.run_bytes = bytes;
  return shape;
}

/// The template with all lengths multiplied, so that everything is aligned to `factor`.
kvbm_copy_template scaled(kvbm_copy_template shape, std::int64_t factor) {
  shape.run_bytes *= static_cast<std::uint64_t>(factor);
  for (kvbm_copy_dim& dim : shape.dims) {
    dim.src_stride *= factor;
    dim.dst_stride *= factor;
  }
  return shape;
}

TEST_F(CudaStridedCopy, P10_EverySizeAtEveryOffset) {
  for (std::uint64_t const size : {1U, 2U, 3U, 4U, 8U, 12U, 15U, 16U, 17U, 31U, 4097U}) {
    for (std::uint64_t const src : {0U, 1U, 2U, 4U, 8U}) {
      for (std::uint64_t const dst : {0U, 1U, 2U, 4U, 8U}) {
        BoxLayout const layout = scattered(run_of(size), 2, 5, 16, src, dst, size);
        expect_as_cpu(layout, MemoryKind::Device, MemoryKind::Device, KVBM_CUDA_WAY_AUTO);
        expect_as_cpu(layout, MemoryKind::Mapped, MemoryKind::Device, KVBM_CUDA_WAY_BULK);
        expect_as_cpu(layout, MemoryKind::Device, MemoryKind::Mapped, KVBM_CUDA_WAY_LOADS);
      }
    }
  }
}

TEST_F(CudaStridedCopy, RunsOfEveryLengthByEveryWay) {
  for (std::uint64_t const size : {16U, 48U, 64U, 256U, 496U, 512U, 528U, 1024U, 2032U, 2048U,
                                   2064U, 4096U, 8192U, 8208U, 40000U, 1U << 20U}) {
    expect_all_ways(scattered(run_of(size), 3, 7, 16, 0, 0, size));
  }
}

TEST_F(CudaStridedCopy, RandomTemplatesEqualTheCpuTwin) {
  std::mt19937_64 random(20);
  constexpr std::array<std::uint64_t, 12> kRuns{1, 2, 3, 4, 7, 8, 16, 33, 64, 130, 600, 3000};
  for (int i = 0; i < 300; ++i) {
    kvbm_copy_template shape = random_template(random, kRuns[random() % kRuns.size()], 1U << 16U);
    constexpr std::array<std::int64_t, 6> kGrains{1, 2, 4, 8, 16, 16};
    std::int64_t const grain = kGrains[random() % kGrains.size()];
    if (shape.run_bytes < 600) shape = scaled(shape, grain);
    BoxLayout const layout = scattered(shape, 1 + random() % 4, 1 + random() % 9,
                                       static_cast<std::uint64_t>(grain), 0, 0, random());
    if (layout.src_bytes > (16U << 20U) || layout.dst_bytes > (16U << 20U)) continue;
    expect_as_cpu(layout, kKinds[random() % 2], kKinds[random() % 2], kWays[random() % 3],
                  static_cast<std::uint32_t>(random() % 4));
  }
}

TEST_F(CudaStridedCopy, ManyBlocksNeedSeveralLaunches) {
  expect_as_cpu(scattered(run_of(64), 1, 100'000, 16, 0, 0, 3), MemoryKind::Device,
                MemoryKind::Device, KVBM_CUDA_WAY_AUTO);
  expect_as_cpu(scattered(run_of(16), 1, 1'000'000, 16, 0, 0, 4), MemoryKind::Device,
                MemoryKind::Device, KVBM_CUDA_WAY_LOADS);
  expect_as_cpu(scattered(run_of(4096), 1, 20'000, 16, 0, 0, 5), MemoryKind::Device,
                MemoryKind::Device, KVBM_CUDA_WAY_BULK, 8);
  expect_as_cpu(scattered(run_of(1), 1, 70'000, 1, 0, 0, 6), MemoryKind::Device, MemoryKind::Device,
                KVBM_CUDA_WAY_AUTO);
}

TEST_F(CudaStridedCopy, ManySegmentsNeedSeveralLaunches) {
  expect_as_cpu(scattered(run_of(128), 3000, 9, 16, 0, 0, 3), MemoryKind::Device,
                MemoryKind::Device, KVBM_CUDA_WAY_AUTO);
  expect_as_cpu(scattered(run_of(2048), 1100, 3, 16, 0, 0, 3), MemoryKind::Device,
                MemoryKind::Mapped, KVBM_CUDA_WAY_BULK, 2);
}

TEST_F(CudaStridedCopy, EveryNumberOfThreadBlocksAndEveryTuning) {
  BoxLayout const layout = scattered(run_of(20'000), 2, 40, 16, 0, 0, 9);
  for (std::uint32_t const ctas : {1U, 2U, 3U, 16U, 132U, 100'000U}) {
    for (kvbm_cuda_way const way : kWays)
      expect_as_cpu(layout, MemoryKind::Device, MemoryKind::Device, way, ctas);
  }
  for (unsigned const warps : {1U, 2U, 8U}) {
    for (unsigned const lag : {1U, 3U}) {
      for (unsigned const stage : {1024U, 2048U, 4096U}) {
        CopyTuning tuning;
        tuning.bulk_warps = warps;
        tuning.bulk_lag = lag;
        tuning.bulk_stage_bytes = stage;
        expect_as_cpu(layout, MemoryKind::Device, MemoryKind::Mapped, KVBM_CUDA_WAY_BULK, 2,
                      tuning);
      }
    }
  }
  for (unsigned const unroll : {4U, 8U}) {
    for (unsigned const threads : {32U, 128U, 1024U}) {
      CopyTuning tuning;
      tuning.unroll = unroll;
      tuning.threads = threads;
      tuning.walk = Walk::Source;
      expect_as_cpu(layout, MemoryKind::Device, MemoryKind::Device, KVBM_CUDA_WAY_LOADS, 0, tuning);
    }
  }
}

TEST_F(CudaStridedCopy, OffsetsBeyondFourGibibytes) {
  constexpr std::size_t kBytes = std::size_t{9} << 30U;
  std::size_t free = 0;
  std::size_t total = 0;
  ASSERT_EQ(cudaMemGetInfo(&free, &total), cudaSuccess);
  if (free < kBytes + (std::size_t{1} << 30U)) GTEST_SKIP() << "device memory is short";
  CudaBuffer const memory(MemoryKind::Device, kBytes);
  // Two blocks 2.5 GiB apart, each of two runs 5 GiB apart, into one dense stretch at the end.
  constexpr std::size_t kRun = 4096;
  kvbm_copy_template shape = run_of(kRun);
  shape.num_dims = 1;
  shape.dims[0] = {2, std::int64_t{5} << 30U, kRun};
  std::uintptr_t const src = memory.address();
  std::uintptr_t const dst = memory.address() + kBytes - 4 * kRun;
  std::array<std::uint32_t, 2> const ids{0, 1};
  kvbm_copy_boxes const boxes{1,        &src, &dst,       std::uint64_t{5} << 29U,
                              2 * kRun, 2,    ids.data(), ids.data()};
  auto const marks = noise(4 * kRun, 5);
  std::array<std::size_t, 4> const at{0, std::size_t{5} << 30U, std::size_t{5} << 29U,
                                      (std::size_t{5} << 29U) + (std::size_t{5} << 30U)};
  for (std::size_t i = 0; i < 4; ++i) {
    ASSERT_EQ(cudaMemcpy(memory.data() + at[i], marks.data() + i * kRun, kRun, cudaMemcpyDefault),
              cudaSuccess);
  }
  for (kvbm_cuda_way const way : kWays) {
    ASSERT_EQ(cudaMemset(memory.data() + kBytes - 4 * kRun, 0xDE, 4 * kRun), cudaSuccess);
    kvbm_cuda_launch const launch{stream(), 0, way};
    ASSERT_EQ(kvbm_cuda_strided_copy(&shape, &boxes, &launch), KVBM_STATUS_OK);
    synchronize();
    std::vector<std::byte> result(4 * kRun);
    ASSERT_EQ(cudaMemcpy(result.data(), memory.data() + kBytes - 4 * kRun, result.size(),
                         cudaMemcpyDefault),
              cudaSuccess);
    EXPECT_TRUE(result == marks) << "way " << way;
  }
}

TEST_F(CudaStridedCopy, OneRunBeyondFourGibibytes) {
  constexpr std::size_t kRun = (std::size_t{4} << 30U) + 4096 + 1;
  std::size_t free = 0;
  std::size_t total = 0;
  ASSERT_EQ(cudaMemGetInfo(&free, &total), cudaSuccess);
  if (free < 3 * kRun) GTEST_SKIP() << "device memory is short";
  CudaBuffer const src(MemoryKind::Device, kRun);
  CudaBuffer const dst(MemoryKind::Device, kRun);
  constexpr std::size_t kTail = 8193;
  auto const marks = noise(kTail, 6);
  std::uintptr_t const from = src.address();
  std::uintptr_t const to = dst.address();
  std::uint32_t const id = 0;
  for (std::size_t const run : {kRun, kRun - 1}) {
    ASSERT_EQ(cudaMemcpy(src.data() + run - kTail, marks.data(), kTail, cudaMemcpyDefault),
              cudaSuccess);
    ASSERT_EQ(cudaMemset(dst.data(), 0, kRun), cudaSuccess);
    kvbm_copy_template const shape = run_of(run);
    kvbm_copy_boxes const boxes{1, &from, &to, 0, 0, 1, &id, &id};
    for (kvbm_cuda_way const way : kWays) {
      kvbm_cuda_launch const launch{stream(), 0, way};
      ASSERT_EQ(kvbm_cuda_strided_copy(&shape, &boxes, &launch), KVBM_STATUS_OK);
      synchronize();
      std::vector<std::byte> tail(kTail);
      ASSERT_EQ(cudaMemcpy(tail.data(), dst.data() + run - kTail, kTail, cudaMemcpyDefault),
                cudaSuccess);
      EXPECT_TRUE(tail == marks) << "way " << way << " run " << run;
    }
  }
}

TEST_F(CudaStridedCopy, CapturedCopyRunsWheneverTheGraphIsLaunched) {
  BoxLayout const layout = scattered(run_of(2048), 2, 300, 16, 0, 0, 4);
  auto source = noise(layout.src_bytes, 1);
  auto const before = noise(layout.dst_bytes, 2);
  for (kvbm_cuda_way const way : kWays) {
    CudaBuffer const src(MemoryKind::Mapped, source);
    CudaBuffer const dst(MemoryKind::Device, before);
    PlacedBoxes const placed(layout, src.address(), dst.address());
    kvbm_cuda_launch const launch{stream(), 2, way};
    auto* const cuda_stream = static_cast<cudaStream_t>(stream());
    cudaGraph_t graph = nullptr;
    cudaGraphExec_t executable = nullptr;
    ASSERT_EQ(cudaStreamBeginCapture(cuda_stream, cudaStreamCaptureModeThreadLocal), cudaSuccess);
    ASSERT_EQ(kvbm_cuda_strided_copy(&layout.shape, &placed.get(), &launch), KVBM_STATUS_OK);
    ASSERT_EQ(cudaStreamEndCapture(cuda_stream, &graph), cudaSuccess);
    EXPECT_TRUE(dst.read() == before);
    ASSERT_EQ(cudaGraphInstantiate(&executable, graph, 0), cudaSuccess);
    for (std::uint64_t seed = 7; seed < 9; ++seed) {
      auto changed = noise(layout.src_bytes, seed);
      src.write(changed);
      ASSERT_EQ(cudaGraphLaunch(executable, cuda_stream), cudaSuccess);
      synchronize();
      EXPECT_TRUE(dst.read() == copied_by_cpu(layout, changed, before)) << "way " << way;
    }
    EXPECT_EQ(cudaGraphExecDestroy(executable), cudaSuccess);
    EXPECT_EQ(cudaGraphDestroy(graph), cudaSuccess);
  }
}

TEST_F(CudaStridedCopy, FailedLaunchIsReportedWithItsCause) {
  BoxLayout const layout = scattered(run_of(256), 1, 3, 16, 0, 0, 4);
  CudaBuffer const src(MemoryKind::Device, layout.src_bytes);
  CudaBuffer const dst(MemoryKind::Device, layout.dst_bytes);
  PlacedBoxes const placed(layout, src.address(), dst.address());
  kvbm_cuda_launch const launch{stream(), 0, KVBM_CUDA_WAY_LOADS};
  CopyTuning tuning;
  tuning.threads = 4096;
  EXPECT_EQ(strided_copy(&layout.shape, &placed.get(), &launch, tuning), KVBM_STATUS_CUDA_ERROR);
  EXPECT_EQ(kvbm_cuda_last_error(), cudaErrorInvalidValue);
  EXPECT_EQ(cudaPeekAtLastError(), cudaSuccess);
  EXPECT_EQ(strided_copy(&layout.shape, &placed.get(), &launch, {}), KVBM_STATUS_OK);
}

}  // namespace
}  // namespace kvbm::kernels::testing
