// SPDX-License-Identifier: Apache-2.0
#include "kvbm/layout/config.hpp"

#include "layout_test_support.hpp"

#include <gtest/gtest.h>

#include <limits>

namespace kvbm::layout {
namespace {

using testing::expect_error;
using testing::small_config;

TEST(LayoutConfig, KeepsFieldsAndDefaults) {
  auto const config =
      LayoutConfig::builder().num_blocks(7).num_layers(3).page_size(16).inner_dim(10).build();
  EXPECT_EQ(config.num_blocks(), 7U);
  EXPECT_EQ(config.num_layers(), 3U);
  EXPECT_EQ(config.outer_dim(), 2U);
  EXPECT_EQ(config.page_size(), 16U);
  EXPECT_EQ(config.inner_dim(), 10U);
  EXPECT_EQ(config.alignment(), 1U);
  EXPECT_EQ(config.dtype_width_bytes(), 2U);
  EXPECT_EQ(config.num_heads(), std::nullopt);
  EXPECT_EQ(config.chunk_bytes(), 16U * 10 * 2);
  EXPECT_EQ(config.block_bytes(), 3U * 2 * 16 * 10 * 2);
}

TEST(LayoutConfig, L7_HeadDimIsInnerDimByNumHeads) {
  EXPECT_EQ(small_config().build().head_dim(), 7U);
}

TEST(LayoutConfig, L7_HeadDimWithoutHeadsIsAnError) {
  auto const config = small_config().num_heads(std::nullopt).build();
  expect_error(ErrorCode::InvalidArgument, {"num_heads", "42"},
               [&] { static_cast<void>(config.head_dim()); });
}

TEST(LayoutConfig, L7_HeadsHaveToDivideInnerDim) {
  expect_error(ErrorCode::InvalidArgument, {"inner_dim 42", "num_heads 5"},
               [] { static_cast<void>(small_config().num_heads(5).build()); });
}

TEST(LayoutConfig, L7_ZeroHeadsAreRefused) {
  expect_error(ErrorCode::InvalidArgument, {"num_heads", "0"},
               [] { static_cast<void>(small_config().num_heads(0).build()); });
}

struct BadField {
  char const* name;
  void (*set)(LayoutConfig::Builder&);
  std::vector<std::string> parts;
};

class LayoutConfigField : public ::testing::TestWithParam<BadField> {};

TEST_P(LayoutConfigField, RefusesBadValueByName) {
  auto builder = small_config();
  GetParam().set(builder);
  expect_error(ErrorCode::InvalidArgument, GetParam().parts,
               [&] { static_cast<void>(builder.build()); });
}

INSTANTIATE_TEST_SUITE_P(
    All, LayoutConfigField,
    ::testing::Values(
        BadField{"ZeroBlocks", [](auto& b) { b.num_blocks(0); }, {"num_blocks", "got 0"}},
        BadField{"TooManyBlocks",
                 [](auto& b) { b.num_blocks(std::uint64_t{1} << 32U); },
                 {"num_blocks", "4294967296"}},
        BadField{"ZeroLayers", [](auto& b) { b.num_layers(0); }, {"num_layers", "got 0"}},
        BadField{"ZeroOuter", [](auto& b) { b.outer_dim(0); }, {"outer_dim", "got 0"}},
        BadField{"OuterThree", [](auto& b) { b.outer_dim(3); }, {"outer_dim", "got 3"}},
        BadField{"ZeroPage", [](auto& b) { b.page_size(0); }, {"page_size", "got 0"}},
        BadField{"PageThree", [](auto& b) { b.page_size(3); }, {"page_size", "got 3"}},
        BadField{"ZeroInner", [](auto& b) { b.inner_dim(0); }, {"inner_dim", "got 0"}},
        BadField{"ZeroAlignment", [](auto& b) { b.alignment(0); }, {"alignment", "got 0"}},
        BadField{"OddAlignment", [](auto& b) { b.alignment(48); }, {"alignment", "got 48"}},
        BadField{
            "WidthThree", [](auto& b) { b.dtype_width_bytes(3); }, {"dtype_width_bytes", "got 3"}},
        BadField{
            "WidthZero", [](auto& b) { b.dtype_width_bytes(0); }, {"dtype_width_bytes", "got 0"}}),
    [](auto const& tested) { return tested.param.name; });

TEST(LayoutConfig, L12_ProductBeyondSignedRangeIsAnErrorNotASaturatedSize) {
  auto const largest = std::numeric_limits<std::uint64_t>::max();
  expect_error(ErrorCode::Overflow, {"num_layers 18446744073709551615"},
               [&] { static_cast<void>(small_config().num_layers(largest).build()); });
  expect_error(ErrorCode::Overflow, {"page_size 9223372036854775808"}, [&] {
    static_cast<void>(small_config().page_size(std::uint64_t{1} << 63U).build());
  });
  expect_error(ErrorCode::Overflow, {"inner_dim 4611686018427387904"}, [&] {
    static_cast<void>(
        small_config().num_heads(std::nullopt).inner_dim(std::uint64_t{1} << 62U).build());
  });
}

TEST(LayoutConfig, L12_LargestProductThatFitsIsAccepted) {
  auto builder = LayoutConfig::builder();
  builder.num_blocks(1).num_layers(1).outer_dim(1).page_size(std::uint64_t{1} << 61U).inner_dim(1);
  EXPECT_EQ(builder.build().block_bytes(), std::uint64_t{1} << 62U);
  expect_error(ErrorCode::Overflow, {"inner_dim 2"},
               [&] { static_cast<void>(builder.inner_dim(2).build()); });
}

TEST(LayoutConfig, CopiesWithOneFieldChangedAreChecked) {
  auto const config = small_config().build();
  EXPECT_EQ(config.with_num_blocks(9).num_blocks(), 9U);
  EXPECT_EQ(config.with_num_blocks(9).with_num_blocks(5), config);
  EXPECT_EQ(config.with_alignment(4096).alignment(), 4096U);
  expect_error(ErrorCode::InvalidArgument, {"num_blocks"},
               [&] { static_cast<void>(config.with_num_blocks(0)); });
  expect_error(ErrorCode::InvalidArgument, {"alignment", "3"},
               [&] { static_cast<void>(config.with_alignment(3)); });
}

}  // namespace
}  // namespace kvbm::layout
