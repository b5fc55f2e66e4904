// SPDX-License-Identifier: Apache-2.0
//
// Every family of kernels that this machine can run gives the same bytes, also those that the
// selection would pass over here.

#include <gtest/gtest.h>

#include <algorithm>

#include "kernels/nest_kernels.hpp"
#include "unit/kernels/strided_oracle.hpp"

namespace kvbm::kernels {
namespace {

using namespace testing;

kvbm_copy_template template_of(Nest const& nest) {
  kvbm_copy_template shape{};
  shape.num_dims = 2;
  shape.dims[0] = {nest.outer.extent, nest.outer.src_stride, nest.outer.dst_stride};
  shape.dims[1] = {nest.inner.extent, nest.inner.src_stride, nest.inner.dst_stride};
  shape.run_bytes = nest.run_bytes;
  return shape;
}

void expect_kernel(NestKernel kernel, Nest const& nest, std::uint64_t dst_offset) {
  auto const shape = template_of(nest);
  GuardedBuffer src(src_footprint(shape).bytes, 0, 5);
  GuardedBuffer dst(dst_footprint(shape).bytes, dst_offset, 6);
  std::vector<std::byte> expected(dst.all().begin(), dst.all().end());
  copy_by_definition(shape, src.data(), expected.data() + dst.begin());
  kernel(src.data(), dst.data(), nest);
  fence_non_temporal();
  ASSERT_TRUE(std::ranges::equal(dst.all(), expected)) << describe(shape);
}

TEST(KernelFamilies, TransposesAgreeWithTheDefinition) {
  for (std::uint64_t const width : {1U, 2U, 4U, 8U}) {
    std::vector<NestKernel> kernels{portable_transpose_kernel(width)};
    if (KVBM_KERNELS_X86 != 0) kernels.push_back(sse2_transpose_kernel(width));
    if (have_avx2()) {
      kernels.push_back(avx2_transpose_kernel(width, false));
      kernels.push_back(avx2_transpose_kernel(width, true));
    }
    for (NestKernel const kernel : kernels) {
      ASSERT_NE(kernel, nullptr);
      for (std::uint64_t const rows : {1U, 5U, 8U, 16U, 48U, 64U, 67U, 200U}) {
        for (std::uint64_t const columns : {1U, 9U, 16U, 64U, 131U}) {
          Nest nest;
          nest.run_bytes = width;
          nest.outer = {columns, static_cast<std::int64_t>(width),
                        static_cast<std::int64_t>(rows * width)};
          nest.inner = {rows, static_cast<std::int64_t>(columns * width),
                        static_cast<std::int64_t>(width)};
          for (std::uint64_t const offset : {0U, 16U, 3U}) {
            ASSERT_NO_FATAL_FAILURE(expect_kernel(kernel, nest, offset));
          }
        }
      }
    }
  }
}

TEST(KernelFamilies, RunsAgreeWithTheDefinition) {
  for (std::uint64_t const run :
       {1U,  2U,  3U,  5U,   6U,   8U,   12U,  16U,  24U,   31U,   32U,
        48U, 64U, 65U, 128U, 192U, 256U, 511U, 512U, 1024U, 2048U, 5000U}) {
    std::vector<NestKernel> kernels{portable_run_kernel(run)};
    if (have_avx2() && run >= 16) {
      kernels.push_back(avx2_run_kernel(run, false));
      kernels.push_back(avx2_run_kernel(run, true));
    }
    for (NestKernel const kernel : kernels) {
      ASSERT_NE(kernel, nullptr);
      for (std::uint64_t const gap : {0U, 64U, 5U}) {
        for (std::uint64_t const tile : {1U, 4U, 100U}) {
          Nest nest;
          nest.run_bytes = run;
          nest.tile = tile;
          auto const row = static_cast<std::int64_t>(run + gap);
          nest.outer = {9, row, 13 * row};
          nest.inner = {13, 9 * row, row};
          for (std::uint64_t const offset : {0U, 32U, 7U}) {
            ASSERT_NO_FATAL_FAILURE(expect_kernel(kernel, nest, offset));
          }
        }
      }
    }
  }
}

TEST(KernelFamilies, StreamedCopiesKeepEveryByteAtAnyAlignment) {
  for (std::uint64_t const bytes : {0U, 1U, 63U, 64U, 65U, 127U, 200U, 4096U, 10001U}) {
    for (std::uint64_t const offset : {0U, 1U, 31U, 32U, 63U}) {
      GuardedBuffer src(bytes, 3, 7);
      GuardedBuffer dst(bytes, offset, 8);
      std::vector<std::byte> expected(dst.all().begin(), dst.all().end());
      std::copy_n(src.data(), bytes, expected.begin() + static_cast<std::ptrdiff_t>(dst.begin()));
      if (!have_avx2()) GTEST_SKIP() << "this CPU has no AVX2";
      stream_copy_avx2(dst.data(), src.data(), bytes);
      fence_non_temporal();
      ASSERT_TRUE(std::ranges::equal(dst.all(), expected)) << bytes << " at " << offset;
    }
  }
}

/// Every cut of a box into pieces, copied in reverse, gives the box.
TEST(BoxSplit, PiecesCoverTheBoxExactly) {
  std::mt19937_64 random(31);
  for (int round = 0; round < 400; ++round) {
    constexpr std::uint64_t kRuns[] = {1, 2, 8, 12, 64, 256, 5000, 20000};
    auto const shape = random_template(random, kRuns[random() % 8], 60000);
    BoxPlan const plan = plan_box(shape, round % 2 == 0);
    BoxSplit const split(plan, 1 + random() % 40);
    Footprint const from = src_footprint(shape);
    Footprint const to = dst_footprint(shape);
    GuardedBuffer src(from.bytes, 0, 9);
    GuardedBuffer dst(to.bytes, 0, 10);
    std::vector<std::byte> expected(dst.all().begin(), dst.all().end());
    copy_by_definition(shape, src.data() + from.origin, expected.data() + dst.begin() + to.origin);
    for (std::uint64_t piece = split.num_pieces(); piece-- > 0;) {
      split.copy_piece(piece, src.data() + from.origin, dst.data() + to.origin);
    }
    fence_non_temporal();
    ASSERT_TRUE(std::ranges::equal(dst.all(), expected))
        << "round " << round << ": " << describe(shape) << " in " << split.num_pieces();
  }
}

TEST(BoxSplit, CutsOneLongRunAndOneLoopAlike) {
  kvbm_copy_template run{};
  run.run_bytes = 1U << 20U;
  EXPECT_EQ(BoxSplit(plan_box(run, false), 16).num_pieces(), 16U);
  kvbm_copy_template loop{};
  loop.num_dims = 2;
  loop.dims[0] = {64, 512, 32768};
  loop.dims[1] = {64, 32768, 512};
  loop.run_bytes = 256;
  EXPECT_EQ(BoxSplit(plan_box(loop, false), 16).num_pieces(), 16U);
}

TEST(BoxPlan, MergesLoopsThatAreContiguousOnBothSides) {
  // [layer, outer, token, head] around a row of one head, both sides in the same order.
  kvbm_copy_template shape{};
  shape.num_dims = 5;
  shape.dims[0] = {1, 777, 777};
  shape.dims[1] = {32, 65536, 65536};
  shape.dims[2] = {2, 32768, 32768};
  shape.dims[3] = {16, 2048, 2048};
  shape.dims[4] = {8, 256, 256};
  shape.run_bytes = 256;
  BoxPlan const plan = plan_box(shape, false);
  EXPECT_EQ(plan.nest.run_bytes, 2U << 20U);
  EXPECT_EQ(plan.num_loops, 0U);
  EXPECT_EQ(plan.nest.inner.extent * plan.nest.outer.extent, 1U);
}

TEST(BoxPlan, TransposesOnlySingleElements) {
  kvbm_copy_template shape{};
  shape.num_dims = 2;
  shape.dims[0] = {64, 2, 256};
  shape.dims[1] = {128, 128, 2};
  shape.run_bytes = 2;
  EXPECT_TRUE(plan_box(shape, false).transposes);
  shape.dims[0] = {64, 16, 2048};
  shape.dims[1] = {128, 1024, 16};
  shape.run_bytes = 16;
  EXPECT_FALSE(plan_box(shape, false).transposes);
}

}  // namespace
}  // namespace kvbm::kernels
