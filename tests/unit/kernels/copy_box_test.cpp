// SPDX-License-Identifier: Apache-2.0
#include "kvbm/kernels/copy_engine.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cstring>

#include "unit/kernels/strided_oracle.hpp"

namespace kvbm::kernels {
namespace {

using namespace testing;

/// Copies one box both ways and compares every byte, guards and gaps included.
void expect_box(kvbm_copy_template const& shape, std::uint64_t src_offset, std::uint64_t dst_offset,
                bool non_temporal) {
  Footprint const from = src_footprint(shape);
  Footprint const to = dst_footprint(shape);
  GuardedBuffer src(from.bytes, src_offset, 1);
  GuardedBuffer dst(to.bytes, dst_offset, 2);
  std::vector<std::byte> expected(dst.all().begin(), dst.all().end());
  copy_by_definition(shape, src.data() + from.origin, expected.data() + dst.begin() + to.origin);
  copy_box(shape, src.data() + from.origin, dst.data() + to.origin, non_temporal);
  ASSERT_TRUE(std::ranges::equal(dst.all(), expected))
      << describe(shape) << " source offset " << src_offset << " destination offset " << dst_offset
      << (non_temporal ? " non-temporal" : "");
}

class RandomBoxes : public ::testing::TestWithParam<std::uint64_t> {};

TEST_P(RandomBoxes, P10_EqualTheDefinition) {
  constexpr std::array<std::uint64_t, 6> kOffsets{0, 1, 2, 4, 8, 32};
  std::uint64_t const seed = 20261124 + GetParam();
  SCOPED_TRACE("seed " + std::to_string(seed) + ", run_bytes " + std::to_string(GetParam()));
  std::mt19937_64 random(seed);
  for (int round = 0; round < 150; ++round) {
    auto const shape = random_template(random, GetParam(), 40000);
    auto const src_offset = kOffsets[random() % kOffsets.size()];
    auto const dst_offset = kOffsets[random() % kOffsets.size()];
    ASSERT_NO_FATAL_FAILURE(expect_box(shape, src_offset, dst_offset, round % 2 == 0));
  }
}

INSTANTIATE_TEST_SUITE_P(RunBytes, RandomBoxes,
                         ::testing::Values(1, 2, 3, 4, 8, 12, 15, 16, 17, 31, 32, 33, 48, 64, 96,
                                           128, 255, 256, 512, 640, 1000, 2048, 4096, 4097, 9000));

class ElementTransposes : public ::testing::TestWithParam<std::uint64_t> {};

TEST_P(ElementTransposes, EqualTheDefinitionForEveryRemainder) {
  constexpr std::array<std::size_t, 2> kSwapped{1, 0};
  for (std::uint64_t const rows :
       {1U, 2U, 3U, 4U, 5U, 7U, 8U, 9U, 15U, 16U, 17U, 24U, 31U, 32U, 33U, 64U, 70U, 130U}) {
    for (std::uint64_t const columns :
         {1U, 3U, 4U, 8U, 13U, 16U, 21U, 32U, 64U, 65U, 128U, 129U, 200U}) {
      std::array<std::uint64_t, 2> const extents{columns, rows};
      auto const shape = dense_permute(extents, kSwapped, GetParam());
      ASSERT_NO_FATAL_FAILURE(expect_box(shape, 0, 0, false));
      ASSERT_NO_FATAL_FAILURE(expect_box(shape, 0, 0, true));
      ASSERT_NO_FATAL_FAILURE(expect_box(shape, 1, 3, true));
    }
  }
}

TEST_P(ElementTransposes, LeaveGapsBetweenPaddedRowsAlone) {
  auto const width = static_cast<std::int64_t>(GetParam());
  for (std::int64_t const padding : {1, 16, 64}) {
    kvbm_copy_template shape{};
    shape.num_dims = 2;
    shape.dims[0] = {96, width, 128 * width + padding};
    shape.dims[1] = {128, 96 * width + padding, width};
    shape.run_bytes = GetParam();
    ASSERT_NO_FATAL_FAILURE(expect_box(shape, 0, 0, false));
    ASSERT_NO_FATAL_FAILURE(expect_box(shape, 0, 0, true));
  }
}

INSTANTIATE_TEST_SUITE_P(WidthBytes, ElementTransposes, ::testing::Values(1, 2, 4, 8));

TEST(CopyBox, CopiesTheFormatsOfRealModels) {
  // [layer, outer, token, head, dim] -> universal, head-first and dim-outside orders.
  constexpr std::array<std::array<std::size_t, 5>, 3> kOrders{
      {{1, 2, 3, 0, 4}, {0, 1, 3, 2, 4}, {0, 1, 4, 2, 3}}};
  for (auto const& order : kOrders) {
    for (auto const& [heads, dim, width] :
         {std::array<std::uint64_t, 3>{8, 128, 2}, {3, 64, 2}, {1, 576, 2}, {4, 128, 1}}) {
      std::array<std::uint64_t, 5> const named{heads, 4, 2, 16, dim};
      std::array<std::uint64_t, 5> extents{};
      for (std::size_t i = 0; i < 5; ++i)
        extents[i] = named[i];
      auto const shape = dense_permute(extents, order, width);
      ASSERT_NO_FATAL_FAILURE(expect_box(shape, 0, 0, true));
      ASSERT_NO_FATAL_FAILURE(expect_box(reversed(shape), 0, 0, true));
      ASSERT_NO_FATAL_FAILURE(expect_box(shape, 2, 6, false));
    }
  }
}

TEST(CopyBox, InverseRestoresTheSource) {
  std::mt19937_64 random(99);
  for (int round = 0; round < 200; ++round) {
    kvbm_copy_template shape = random_template(random, 1 + random() % 40, 20000);
    for (kvbm_copy_dim& dim : shape.dims)
      dim.src_stride = std::abs(dim.src_stride);
    if (std::ranges::any_of(std::span(shape.dims).first(shape.num_dims),
                            [](auto const& dim) { return dim.src_stride == 0; })) {
      continue;
    }
    Footprint const from = src_footprint(shape);
    std::vector<std::byte> const source = noise(from.bytes, 3);
    std::vector<std::byte> middle(dst_footprint(shape).bytes);
    std::vector<std::byte> back = source;
    // Only what the box covers is wiped, so that gaps need not come back.
    std::vector<std::byte> const zeros(middle.size());
    copy_by_definition(reversed(shape), zeros.data(), back.data());
    copy_box(shape, source.data(), middle.data());
    copy_box(reversed(shape), middle.data(), back.data());
    ASSERT_EQ(back, source) << describe(shape);
  }
}

TEST(CopyBox, ExtentOfZeroOrRunOfZeroTouchesNothing) {
  kvbm_copy_template shape{};
  shape.num_dims = 1;
  shape.dims[0] = {0, 8, 8};
  shape.run_bytes = 8;
  EXPECT_EQ(box_bytes(shape), 0U);
  copy_box(shape, nullptr, nullptr);
  shape.dims[0].extent = 4;
  shape.run_bytes = 0;
  copy_box(shape, nullptr, nullptr, true);
}

TEST(CopyBox, BytesAreTheProductOfExtentsAndRun) {
  kvbm_copy_template shape{};
  shape.num_dims = 3;
  shape.dims[0] = {2, 0, 0};
  shape.dims[1] = {3, 0, 0};
  shape.dims[2] = {5, 0, 0};
  shape.run_bytes = 7;
  EXPECT_EQ(box_bytes(shape), 210U);
}

TEST(CopyBox, BroadcastsWhereTheSourceStrideIsZero) {
  kvbm_copy_template shape{};
  shape.num_dims = 2;
  shape.dims[0] = {33, 0, 128};
  shape.dims[1] = {64, 2, 2};
  shape.run_bytes = 2;
  expect_box(shape, 0, 0, false);
  expect_box(shape, 0, 0, true);
}

TEST(CopyBox, ReadsBackwardsWhereTheSourceStrideIsNegative) {
  for (std::uint64_t const width : {1U, 2U, 4U, 8U, 16U, 256U}) {
    kvbm_copy_template shape{};
    shape.num_dims = 1;
    auto const stride = static_cast<std::int64_t>(width);
    shape.dims[0] = {100, -stride, stride};
    shape.run_bytes = width;
    expect_box(shape, 0, 0, false);
  }
}

}  // namespace
}  // namespace kvbm::kernels
