// SPDX-License-Identifier: Apache-2.0
#include "kvbm/core/checked.hpp"
#include "kvbm/layout/physical_layout.hpp"
#include "layout_test_support.hpp"

#include <gtest/gtest.h>

namespace kvbm::layout {
namespace {

using testing::expect_error;
using testing::small_config;

BlockGeometry fully_contiguous(LayoutConfig const& config, KvBlockLayout const& format) {
  return make_geometry(config, LayoutKind::FullyContiguous, BlockDimension::First, format);
}

BlockGeometry layer_separate(LayoutConfig const& config, BlockDimension dimension,
                             KvBlockLayout const& format = KvBlockLayout::OperationalNHD) {
  return make_geometry(config, LayoutKind::LayerSeparate, dimension, format);
}

TEST(Geometry, L1_FullyContiguousNeedsTheProductOfAllDimensions) {
  auto const config = small_config().build();
  auto const geometry = fully_contiguous(config, KvBlockLayout::UniversalTP);
  EXPECT_EQ(geometry.region_bytes, 5U * 3 * 2 * 4 * 42 * 2);
  EXPECT_EQ(geometry.block_stride, 3U * 2 * 4 * 42 * 2);
  EXPECT_FALSE(geometry.layers_are_regions);
  EXPECT_EQ(geometry.extents, (PerDim<std::uint64_t>{3, 2, 4, 6, 7}));
}

TEST(Geometry, L3_LayerSeparateSizesAndStrides) {
  auto const config = small_config().build();
  auto const chunk = config.chunk_bytes();
  auto const first = layer_separate(config, BlockDimension::First);
  EXPECT_TRUE(first.layers_are_regions);
  EXPECT_EQ(first.block_stride, 2 * chunk);
  EXPECT_EQ(first.strides[0], 0);
  EXPECT_EQ(first.strides[1], static_cast<std::int64_t>(chunk));
  EXPECT_EQ(first.region_bytes, 5 * 2 * chunk);
  auto const second = layer_separate(config, BlockDimension::Second);
  EXPECT_EQ(second.block_stride, chunk);
  EXPECT_EQ(second.strides[1], static_cast<std::int64_t>(5 * chunk));
  EXPECT_EQ(second.region_bytes, 2 * 5 * chunk);
}

TEST(Geometry, AlignmentRoundsUpWhatABlockOwns) {
  auto const config = small_config().alignment(512).build();  // chunk 336, layer 672, block 2016
  EXPECT_EQ(fully_contiguous(config, KvBlockLayout::UniversalPP).block_stride, 2048U);
  EXPECT_EQ(fully_contiguous(config, KvBlockLayout::UniversalPP).region_bytes, 5U * 2048);
  EXPECT_EQ(layer_separate(config, BlockDimension::First).block_stride, 1024U);
  EXPECT_EQ(layer_separate(config, BlockDimension::First).strides[1], 336);
  auto const second = layer_separate(config, BlockDimension::Second);
  EXPECT_EQ(second.block_stride, 512U);
  EXPECT_EQ(second.strides[1], 5 * 512);
  EXPECT_EQ(second.region_bytes, 2U * 5 * 512);
}

TEST(Geometry, LayerSeparateTakesOperationalFormatsOnly) {
  auto const config = small_config().build();
  for (auto const& format : {KvBlockLayout::UniversalTP, KvBlockLayout::UniversalPP}) {
    expect_error(ErrorCode::InvalidArgument, {format.to_string()},
                 [&] { return layer_separate(config, BlockDimension::First, format); });
  }
  EXPECT_NO_THROW(layer_separate(config, BlockDimension::First, KvBlockLayout::OperationalHND));
  EXPECT_NO_THROW(layer_separate(config, BlockDimension::First, KvBlockLayout::Unknown));
}

TEST(Geometry, FormatWithHeadsNeedsNumHeads) {
  auto const config = small_config().num_heads(std::nullopt).build();
  expect_error(ErrorCode::InvalidArgument, {"OperationalNHD", "num_heads"},
               [&] { return layer_separate(config, BlockDimension::First); });
  expect_error(ErrorCode::InvalidArgument, {"UniversalTP", "num_heads"},
               [&] { return fully_contiguous(config, KvBlockLayout::UniversalTP); });
  auto const unknown = fully_contiguous(config, KvBlockLayout::Unknown);
  EXPECT_EQ(unknown.extents, (PerDim<std::uint64_t>{3, 2, 4, 1, 42}));
}

TEST(Geometry, PaddedMlaRowsOfLayerSeparateTensors) {
  // fp8 MLA: 656 bytes a token used, rows padded to 1024.
  auto const config = LayoutConfig::builder()
                          .num_blocks(9)
                          .num_layers(2)
                          .outer_dim(1)
                          .page_size(64)
                          .inner_dim(656)
                          .dtype_width_bytes(1)
                          .num_heads(1)
                          .build();
  auto const format = KvBlockLayout::Strided({{0, 0, 1024, 656, 1}, 64 * 1024});
  for (auto const dimension : {BlockDimension::First, BlockDimension::Second}) {
    auto const geometry = layer_separate(config, dimension, format);
    EXPECT_EQ(geometry.block_stride, 64U * 1024);
    EXPECT_EQ(geometry.strides[2], 1024);
    EXPECT_EQ(geometry.region_bytes, 9U * 64 * 1024);
  }
  auto const narrow = KvBlockLayout::Strided({{0, 0, 512, 656, 1}, 64 * 1024});
  expect_error(ErrorCode::InvalidArgument, {"512", "nt", "656"},
               [&] { return layer_separate(config, BlockDimension::First, narrow); });
}

TEST(Geometry, L12_OverflowByAlignmentIsAnError) {
  auto const config = small_config().alignment(std::uint64_t{1} << 62U).build();
  expect_error(ErrorCode::Overflow, {"num_blocks", "5", "4611686018427387904"},
               [&] { return fully_contiguous(config, KvBlockLayout::UniversalTP); });
  expect_error(ErrorCode::Overflow, {"4611686018427387904"},
               [&] { return layer_separate(config, BlockDimension::Second); });
  auto const beyond = small_config().alignment(std::uint64_t{1} << 63U).build();
  expect_error(ErrorCode::Overflow, {"9223372036854775808"},
               [&] { return fully_contiguous(beyond, KvBlockLayout::UniversalTP); });
}

TEST(Geometry, L12_ExplicitStridesBeyondTheRangeAreAnError) {
  auto const config = small_config().build();
  auto const huge = std::int64_t{1} << 62U;
  auto const format = KvBlockLayout::Strided({{huge, 336, 84, 14, 2}, kvbm::kMaxBytes - 1});
  expect_error(ErrorCode::Overflow, {}, [&] { return fully_contiguous(config, format); });
}

TEST(Geometry, AbsurdNumberOfLayersIsRefusedBeforeRegionsAreMade) {
  auto const config = LayoutConfig::builder()
                          .num_blocks(1)
                          .num_layers(std::uint64_t{1} << 40U)
                          .page_size(1)
                          .inner_dim(1)
                          .build();
  expect_error(ErrorCode::InvalidArgument, {"num_layers", "1099511627776"}, [&] {
    return layer_separate(config, BlockDimension::First, KvBlockLayout::Unknown);
  });
}

}  // namespace
}  // namespace kvbm::layout
