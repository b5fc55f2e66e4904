// SPDX-License-Identifier: Apache-2.0
#include "kvbm/layout/dims.hpp"

#include "kvbm/layout/descriptor.hpp"
#include "kvbm/layout/physical_layout.hpp"
#include "kvbm/layout/view.hpp"
#include "layout_test_support.hpp"

#include <gtest/gtest.h>

namespace kvbm::layout {
namespace {

using memory::StorageKind;
using testing::Buffer;
using testing::expect_error;
using testing::FakeSource;

/// Registers `tensor` three times, one a layer.
PhysicalLayout build(KvDimLayout const& tensor, LayoutConfig const& config) {
  return PhysicalLayout::builder(std::make_shared<FakeSource>())
      .config(config)
      .layer_separate(tensor)
      .allocate_system()
      .build();
}

PhysicalLayout build(KvDimLayout const& tensor) { return build(tensor, tensor.config(3)); }

TEST(KvDimLayout, L14_FlashAttentionIsBlockSecondNhd) {
  KvDimLayout const tensor(
      {{Dim::Outer, 2}, {Dim::Block, 5}, {Dim::Token, 4}, {Dim::Head, 6}, {Dim::Payload, 7}}, 2);
  EXPECT_EQ(tensor.bytes(), 2U * 5 * 4 * 6 * 7 * 2);
  auto const layout = build(tensor);
  EXPECT_EQ(layout.kind(), LayoutKind::LayerSeparate);
  EXPECT_EQ(layout.block_dimension(), BlockDimension::Second);
  EXPECT_EQ(layout.format(), KvBlockLayout::OperationalNHD);
  EXPECT_EQ(layout.config().num_heads(), 6U);
  EXPECT_EQ(layout.chunk(3, 1, 1).offset, (5U + 3) * 336);
  EXPECT_EQ(layout.descriptor().tensor, std::nullopt);
  EXPECT_NO_THROW(static_cast<void>(layout.with_format(KvBlockLayout::OperationalHND)));
}

TEST(KvDimLayout, L14_FlashInferIsBlockFirstNhdOrHnd) {
  auto const nhd = build(KvDimLayout(
      {{Dim::Block, 5}, {Dim::Outer, 2}, {Dim::Token, 4}, {Dim::Head, 6}, {Dim::Payload, 7}}, 2));
  EXPECT_EQ(nhd.block_dimension(), BlockDimension::First);
  EXPECT_EQ(nhd.format(), KvBlockLayout::OperationalNHD);
  auto const hnd = build(KvDimLayout(
      {{Dim::Block, 5}, {Dim::Outer, 2}, {Dim::Head, 6}, {Dim::Token, 4}, {Dim::Payload, 7}}, 2));
  EXPECT_EQ(hnd.block_dimension(), BlockDimension::First);
  EXPECT_EQ(hnd.format(), KvBlockLayout::OperationalHND);
  EXPECT_EQ(hnd.geometry(), make_geometry(hnd.config(), LayoutKind::LayerSeparate,
                                          BlockDimension::First, KvBlockLayout::OperationalHND));
}

TEST(KvDimLayout, L14_MlaHasOneOuterAndNoHeads) {
  KvDimLayout const tensor({{Dim::Block, 5}, {Dim::Token, 64}, {Dim::Payload, 576}}, 2);
  auto const config = tensor.config(3);
  EXPECT_EQ(config.outer_dim(), 1U);
  EXPECT_EQ(config.inner_dim(), 576U);
  EXPECT_EQ(config.num_heads(), std::nullopt);
  auto const layout = build(tensor);
  EXPECT_EQ(layout.format(), KvBlockLayout::Unknown);
  EXPECT_EQ(layout.chunk(4, 2, 0).offset, 4U * 64 * 576 * 2);
  EXPECT_EQ(layout.extents_per_block(), 3U);
}

TEST(KvDimLayout, L14_DifferentPayloadsOfKeysAndValuesShareARow) {
  KvDimLayout const tensor(
      {{Dim::Block, 5}, {Dim::Token, 4}, {Dim::Head, 6}, {Dim::Payload, 192 + 128}}, 2);
  auto const layout = build(tensor);
  EXPECT_EQ(layout.config().outer_dim(), 1U);
  EXPECT_EQ(layout.config().head_dim(), 320U);
  EXPECT_EQ(layout.format(), KvBlockLayout::OperationalNHD);
}

TEST(KvDimLayout, RowsWithoutHeadsAreSplitWhereTheConfigKnowsThem) {
  KvDimLayout const tensor({{Dim::Block, 5}, {Dim::Outer, 2}, {Dim::Token, 4}, {Dim::Payload, 42}},
                           2);
  auto const layout = build(tensor, testing::small_config().build());
  EXPECT_EQ(layout.format(), KvBlockLayout::OperationalNHD);
  EXPECT_EQ(layout.geometry().strides[3], 14);
}

struct BadTensor {
  char const* name;
  std::vector<TensorDim> dims;
  std::vector<std::string> parts;
};

class BadKvDimLayout : public ::testing::TestWithParam<BadTensor> {};

TEST_P(BadKvDimLayout, L14_IsRefused) {
  expect_error(ErrorCode::InvalidArgument, GetParam().parts,
               [] { KvDimLayout const tensor(GetParam().dims, 2); });
}

INSTANTIATE_TEST_SUITE_P(
    All, BadKvDimLayout,
    ::testing::Values(
        BadTensor{"Duplicate",
                  {{Dim::Block, 5}, {Dim::Token, 4}, {Dim::Token, 4}, {Dim::Payload, 7}},
                  {"nt", "twice"}},
        BadTensor{"ZeroExtent", {{Dim::Block, 5}, {Dim::Token, 0}, {Dim::Payload, 7}}, {"nt", "0"}},
        BadTensor{"NoBlock", {{Dim::Token, 4}, {Dim::Payload, 7}}, {"nb"}},
        BadTensor{"NoPayload", {{Dim::Block, 4}, {Dim::Token, 7}}, {"hd (Payload)"}},
        BadTensor{"PayloadNotLast",
                  {{Dim::Block, 5}, {Dim::Payload, 7}, {Dim::Token, 4}},
                  {"last", "it is nt"}},
        BadTensor{"Layer", {{Dim::Block, 5}, {Dim::Layer, 3}, {Dim::Payload, 7}}, {"nl"}},
        BadTensor{"OuterThree", {{Dim::Block, 5}, {Dim::Outer, 3}, {Dim::Payload, 7}}, {"no", "3"}},
        BadTensor{"Overlap",
                  {{Dim::Block, 5}, {Dim::Token, 4, 12}, {Dim::Payload, 7}},
                  {"stride 12 of nt", "14"}},
        BadTensor{"OddStride",
                  {{Dim::Block, 5}, {Dim::Token, 4, 15}, {Dim::Payload, 7}},
                  {"stride 15", "nt"}},
        BadTensor{"SparsePayload",
                  {{Dim::Block, 5}, {Dim::Token, 4}, {Dim::Payload, 7, 4}},
                  {"payload", "4"}},
        BadTensor{"Nothing", {}, {"nb"}}),
    [](auto const& tested) { return tested.param.name; });

TEST(KvDimLayout, RefusesOverflowAndBadWidth) {
  expect_error(ErrorCode::Overflow, {"4611686018427387904"}, [] {
    KvDimLayout const tensor(
        {{Dim::Block, 5}, {Dim::Token, std::uint64_t{1} << 62U}, {Dim::Payload, 7}}, 2);
  });
  expect_error(ErrorCode::InvalidArgument, {"element_bytes", "3"},
               [] { KvDimLayout const tensor({{Dim::Block, 5}, {Dim::Payload, 7}}, 3); });
}

TEST(KvDimLayout, RefusesAConfigOfAnotherShape) {
  KvDimLayout const tensor(
      {{Dim::Outer, 2}, {Dim::Block, 5}, {Dim::Token, 4}, {Dim::Head, 6}, {Dim::Payload, 7}}, 2);
  auto const refuse = [&](LayoutConfig::Builder builder, std::vector<std::string> const& parts) {
    expect_error(ErrorCode::InvalidArgument, parts, [&] { return build(tensor, builder.build()); });
  };
  refuse(testing::small_config().num_blocks(6), {"nb", "5", "num_blocks", "6"});
  refuse(testing::small_config().outer_dim(1), {"no", "2", "outer_dim", "1"});
  refuse(testing::small_config().page_size(8), {"nt", "4", "page_size", "8"});
  refuse(testing::small_config().num_heads(7), {"nh", "6", "num_heads", "7"});
  refuse(testing::small_config().num_heads(std::nullopt), {"6 heads", "num_heads"});
  refuse(testing::small_config().inner_dim(48), {"hd", "7", "head_dim", "8"});
  refuse(testing::small_config().dtype_width_bytes(4), {"element", "2", "dtype_width_bytes", "4"});
  refuse(testing::small_config().alignment(1024), {"336", "alignment 1024"});
}

/// Tensors whose order no format names: tokens outside of K and V, padded rows, blocks inside.
struct Exotic {
  char const* name;
  std::vector<TensorDim> dims;
  std::uint32_t extents;
};

class ExoticTensor : public ::testing::TestWithParam<Exotic> {};

TEST_P(ExoticTensor, AddressesFollowTheTensor) {
  KvDimLayout const tensor(GetParam().dims, 2);
  auto const layout = build(tensor);
  EXPECT_EQ(layout.format().kind(), KvBlockLayout::Kind::Strided);
  EXPECT_EQ(layout.extents_per_block(), GetParam().extents);
  auto const view = layout.view();
  for (std::uint64_t b = 0; b < 5; ++b) {
    for (std::uint64_t o = 0; o < 2; ++o) {
      for (std::uint64_t t = 0; t < 4; ++t) {
        for (std::uint64_t h = 0; h < 6; ++h) {
          auto const expected = b * tensor.stride(Dim::Block) + o * tensor.stride(Dim::Outer) +
                                t * tensor.stride(Dim::Token) + h * tensor.stride(Dim::Head) + 2;
          EXPECT_EQ(view.at({b, 1, o, t, h, 1}), (ViewLocation{1, expected}));
        }
      }
    }
  }
  expect_error(ErrorCode::InvalidArgument, {"OperationalNHD", "nb=5"},
               [&] { static_cast<void>(layout.with_format(KvBlockLayout::OperationalNHD)); });
  auto const copy = LayoutDescriptor::from_json(layout.descriptor().to_json());
  EXPECT_EQ(copy, layout.descriptor());
  EXPECT_EQ(copy.fingerprint(), layout.fingerprint());
}

INSTANTIATE_TEST_SUITE_P(
    All, ExoticTensor,
    ::testing::Values(
        Exotic{
            "TokensOutsideOfOuter",
            {{Dim::Block, 5}, {Dim::Token, 4}, {Dim::Outer, 2}, {Dim::Head, 6}, {Dim::Payload, 7}},
            3},
        Exotic{
            "HeadsOutsideOfOuter",
            {{Dim::Block, 5}, {Dim::Head, 6}, {Dim::Outer, 2}, {Dim::Token, 4}, {Dim::Payload, 7}},
            3},
        Exotic{"PaddedRows",
               {{Dim::Outer, 2},
                {Dim::Block, 5},
                {Dim::Token, 4, 96},
                {Dim::Head, 6},
                {Dim::Payload, 7}},
               6},
        Exotic{
            "BlocksInsideOfTokens",
            {{Dim::Outer, 2}, {Dim::Token, 4}, {Dim::Block, 5}, {Dim::Head, 6}, {Dim::Payload, 7}},
            0}),
    [](auto const& tested) { return tested.param.name; });

TEST(KvDimLayout, TensorsThatEndBeforeTheirLastPaddingAreEnough) {
  // Blocks 1024 bytes apart, the last one not padded: one byte less must not do.
  KvDimLayout const tensor(
      {{Dim::Block, 5, 1024}, {Dim::Outer, 2}, {Dim::Token, 4}, {Dim::Head, 6}, {Dim::Payload, 7}},
      2);
  EXPECT_EQ(tensor.bytes(), 4U * 1024 + 672);
  Buffer const buffer(tensor.bytes());
  auto const make = [&](std::uint64_t bytes) {
    return PhysicalLayout::builder(std::make_shared<FakeSource>())
        .config(testing::small_config().num_layers(1).alignment(512).build())
        .layer_separate(tensor)
        .with_external_regions({{buffer.data(), bytes, StorageKind::System, {}}})
        .build();
  };
  auto const layout = make(tensor.bytes());
  EXPECT_EQ(layout.format(), KvBlockLayout::OperationalNHD);
  EXPECT_EQ(layout.extent(4, 0).offset + layout.extent(4, 0).bytes, tensor.bytes());
  EXPECT_EQ(LayoutDescriptor::from_json(layout.descriptor().to_json()), layout.descriptor());
  expect_error(ErrorCode::InvalidArgument, {"needs 4768"},
               [&] { return make(tensor.bytes() - 1); });
}

TEST(KvDimLayout, ToStringNamesDimensions) {
  KvDimLayout const tensor({{Dim::Block, 5}, {Dim::Token, 64}, {Dim::Payload, 576}}, 2);
  EXPECT_EQ(tensor.to_string(), "[nb=5,nt=64,hd=576] x 2 B");
  EXPECT_FALSE(tensor.has(Dim::Head));
  EXPECT_EQ(tensor.extent(Dim::Head), 1U);
}

}  // namespace
}  // namespace kvbm::layout
