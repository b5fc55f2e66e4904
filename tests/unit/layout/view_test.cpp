// SPDX-License-Identifier: Apache-2.0
#include "kvbm/layout/view.hpp"

#include "kvbm/layout/physical_layout.hpp"
#include "layout_test_support.hpp"

#include <gtest/gtest.h>

namespace kvbm::layout {
namespace {

using testing::expect_error;
using testing::FakeSource;

/// [nb 8, no 2, nt 16, nh 8, hd 128] x 2 bytes per layer, 4 layers as regions.
View per_layer() {
  return View(2,
              {{Dim::Block, 8, 2 * 16 * 8 * 128 * 2},
               {Dim::Layer, 4},
               {Dim::Outer, 2, 16 * 8 * 128 * 2},
               {Dim::Token, 16, 8 * 128 * 2},
               {Dim::Head, 8, 128 * 2},
               {Dim::HeadDim, 128, 2}},
              0, Dim::Layer);
}

/// One block of `heads` heads at [nt 16, nh, hd 64] x 2 bytes: the memory of one rank.
View chunk_of(std::uint64_t heads) {
  return View(2, {{Dim::Token, 16, heads * 128}, {Dim::Head, heads, 128}, {Dim::HeadDim, 64, 2}});
}

View rank_of(std::uint64_t rank, std::uint64_t ranks, std::uint64_t all_heads = 8) {
  auto const heads = all_heads / ranks;
  return chunk_of(heads).placed(Dim::Head, rank * heads, all_heads);
}

TEST(View, L15_AddressArithmetic) {
  auto const view = per_layer();
  EXPECT_EQ(view.at({0, 0, 0, 0, 0, 0}), (ViewLocation{0, 0}));
  // Layer 1, block 3, outer 1, token 5, head 2, element 10.
  EXPECT_EQ(view.at({3, 1, 1, 5, 2, 10}),
            (ViewLocation{1, 3 * 65536 + 32768 + 5 * 2048 + 2 * 256 + 20}));
  EXPECT_EQ(view.ndim(), 6U);
  EXPECT_EQ(view.axis(Dim::Head).stride_bytes, 256U);
}

TEST(View, L15_IndicesOutOfBoundsAndOfWrongNumberAreErrors) {
  auto const view = per_layer();
  expect_error(ErrorCode::OutOfRange, {"index 16", "nt", "extent 16"},
               [&] { static_cast<void>(view.at({0, 0, 0, 16, 0, 0})); });
  expect_error(ErrorCode::OutOfRange, {"index 4", "nl"},
               [&] { static_cast<void>(view.at({0, 4, 0, 0, 0, 0})); });
  expect_error(ErrorCode::InvalidArgument, {"5 indices", "6 axes"},
               [&] { static_cast<void>(view.at({0, 0, 0, 0, 0})); });
}

TEST(View, L15_SliceKeepsStridesAndMovesTheOffset) {
  auto const view = per_layer();
  auto const slice = view.slice(Dim::Head, {2, 5});
  EXPECT_EQ(slice.offset(), 2U * 256);
  EXPECT_EQ(slice.axis(Dim::Head).extent, 3U);
  EXPECT_EQ(slice.axis(Dim::Head).begin, 2U);
  EXPECT_EQ(slice.axis(Dim::Head).full, 8U);
  for (auto const& axis : view.axes()) {
    EXPECT_EQ(slice.axis(axis.dim).stride_bytes, axis.stride_bytes);
  }
  EXPECT_EQ(slice.at({3, 1, 1, 5, 0, 10}), view.at({3, 1, 1, 5, 2, 10}));
}

TEST(View, L15_SliceOutOfBoundsEmptyOrReversedIsAnError) {
  auto const view = per_layer();
  expect_error(ErrorCode::OutOfRange, {"nh", "9"},
               [&] { static_cast<void>(view.slice(Dim::Head, {2, 9})); });
  expect_error(ErrorCode::InvalidArgument, {"nh"},
               [&] { static_cast<void>(view.slice(Dim::Head, {2, 2})); });
  expect_error(ErrorCode::InvalidArgument, {"nh"},
               [&] { static_cast<void>(view.slice(Dim::Head, {5, 2})); });
  expect_error(ErrorCode::InvalidArgument, {"no axis nb"},
               [&] { static_cast<void>(chunk_of(8).slice(Dim::Block, {0, 1})); });
}

TEST(View, L15_EvenShardsCoverTheAxisAndUnevenOnesAreRefused) {
  auto const view = per_layer();
  for (std::uint64_t rank = 0; rank < 4; ++rank) {
    auto const shard = view.shard(Dim::Head, rank, 4);
    EXPECT_EQ(shard.axis(Dim::Head).extent, 2U);
    EXPECT_EQ(shard.offset(), rank * 2 * 256);
  }
  expect_error(ErrorCode::InvalidArgument, {"nh", "8", "3 equal"},
               [&] { static_cast<void>(view.shard(Dim::Head, 0, 3)); });
  expect_error(ErrorCode::InvalidArgument, {"0 equal"},
               [&] { static_cast<void>(view.shard(Dim::Head, 0, 0)); });
  expect_error(ErrorCode::OutOfRange, {"shard 4 of 4"},
               [&] { static_cast<void>(view.shard(Dim::Head, 4, 4)); });
}

TEST(View, L15_RegionAxisNarrowsToItsRegions) {
  auto const slice = per_layer().slice(Dim::Layer, {1, 3});
  EXPECT_EQ(slice.offset(), 0U);
  EXPECT_EQ(slice.first_region(), 1U);
  EXPECT_EQ(slice.axis(Dim::Layer).extent, 2U);
  EXPECT_EQ(slice.at({0, 1, 0, 0, 0, 0}), (ViewLocation{2, 0}));
  auto const one = per_layer().select(Dim::Layer, 3);
  EXPECT_EQ(one.first_region(), 3U);
  EXPECT_EQ(one.region_dim(), std::nullopt);
  EXPECT_EQ(one.at({0, 0, 0, 0, 0}), (ViewLocation{3, 0}));
}

TEST(View, L15_TwoAxesCanBeSlicedOneCannotTwice) {
  auto const slice = per_layer().slice(Dim::Token, {4, 8}).slice(Dim::Head, {1, 2});
  EXPECT_EQ(slice.offset(), 4U * 2048 + 256);
  EXPECT_EQ(slice.numel(), 8U * 4 * 2 * 4 * 1 * 128);
  expect_error(ErrorCode::InvalidArgument, {"nt", "sliced before", "[4, 8)", "16"},
               [&] { static_cast<void>(slice.slice(Dim::Token, {0, 1})); });
  expect_error(ErrorCode::InvalidArgument, {"nh"},
               [&] { static_cast<void>(slice.shard(Dim::Head, 0, 1)); });
}

TEST(View, L15_SignatureIsStableAndLeavesTheAddressOut) {
  auto const view = per_layer();
  EXPECT_EQ(view.signature(), per_layer().signature());
  EXPECT_EQ(view.shard(Dim::Head, 0, 4).signature(), view.shard(Dim::Head, 3, 4).signature());
  EXPECT_NE(view.signature(), view.shard(Dim::Head, 0, 4).signature());
  EXPECT_NE(chunk_of(8).signature(), chunk_of(4).signature());
  // Written down once: signatures are compared between processes of different builds.
  EXPECT_EQ(to_string(chunk_of(8).signature()), "3320259e0283571be528e68ec1c18b9d");
}

TEST(View, L15_SerialisedViewIsEqual) {
  for (auto const& view :
       {per_layer(), per_layer().slice(Dim::Layer, {1, 3}).shard(Dim::Head, 1, 2), rank_of(1, 4),
        View(8, {}, 24), per_layer().select(Dim::Layer, 2)}) {
    auto const copy = View::from_json(view.to_json());
    EXPECT_EQ(copy, view) << view.to_json();
    EXPECT_EQ(copy.to_json(), view.to_json());
    EXPECT_EQ(copy.signature(), view.signature());
  }
}

TEST(View, RefusesBadJson) {
  auto const good = per_layer().to_json();
  auto const with = [&](std::string const& from, std::string const& to) {
    auto text = good;
    auto const at = text.find(from);
    EXPECT_NE(at, std::string::npos) << from;
    return text.replace(at, from.size(), to);
  };
  auto const refuse = [](std::string const& text, std::string const& part) {
    expect_error(ErrorCode::Corrupt, {part}, [&] { static_cast<void>(View::from_json(text)); });
  };
  refuse("", "not a JSON object");
  refuse("[]", "not a JSON object");
  refuse(good.substr(0, good.size() - 1), "not a JSON object");
  refuse(std::string(20000, ' '), "20000 bytes");
  refuse(std::string(5000, '['), "nested deeper");
  refuse(with("\"extent\":8", "\"extent\":0"), "extent 0");
  refuse(with("\"extent\":8", "\"extent\":-8"), "-8");
  refuse(with("\"extent\":8", "\"extent\":9"), "not a part of 8");
  refuse(with("\"full\":8", "\"full\":0"), "part of 0");
  refuse(with("\"dim\":\"no\"", "\"dim\":\"nt\""), "nt is given twice");
  refuse(with("\"dim\":\"no\"", "\"dim\":\"xx\""), "xx");
  refuse(with("\"element_bytes\":2", "\"element_bytes\":3"), "got 3");
  refuse(with("\"element_bytes\":2", "\"element_bytes\":2,\"element_bytes\":2"), "twice");
  refuse(with("\"element_bytes\":2", "\"element_bytes\":2,\"more\":2"), "more");
  refuse(with("\"offset\":0", "\"offset\":9223372036854775807"), "9223372036854775807");
  refuse(with("\"stride_bytes\":65536", "\"stride_bytes\":9223372036854775807"),
         "7 * 9223372036854775807");
  refuse(with("\"region_dim\":\"nl\"", "\"region_dim\":7"), "region_dim");
  refuse(with("\"first_region\":0", "\"first_region\":18446744073709551615"),
         "18446744073709551615");
  expect_error(ErrorCode::VersionMismatch, {"Unsupported version 2"},
               [&] { static_cast<void>(View::from_json(with("\"version\":1", "\"version\":2"))); });
}

TEST(Intersect, L16_WholeTensorsNeedNoNarrowing) {
  auto const found = intersect(rank_of(0, 1), rank_of(0, 1));
  ASSERT_TRUE(found);
  EXPECT_TRUE(found->narrowed.empty());
  EXPECT_EQ(found->first, rank_of(0, 1));
  EXPECT_EQ(found->second, rank_of(0, 1));
}

TEST(Intersect, L16_EveryRankOfFourWithTheWholeTensor) {
  for (std::uint64_t rank = 0; rank < 4; ++rank) {
    auto const found = intersect(rank_of(rank, 4), rank_of(0, 1));
    ASSERT_TRUE(found);
    ASSERT_EQ(found->narrowed.size(), 1U);
    EXPECT_EQ(found->narrowed[0], (AxisOverlap{Dim::Head, {0, 2}, {rank * 2, rank * 2 + 2}}));
    EXPECT_EQ(found->first.offset(), 0U);
    EXPECT_EQ(found->second.offset(), rank * 2 * 128);
    EXPECT_EQ(found->first.numel(), found->second.numel());
    EXPECT_EQ(found->second.axis(Dim::Token).stride_bytes, 8U * 128);
  }
}

TEST(Intersect, L16_FourRanksToTwoAndBack) {
  for (std::uint64_t four = 0; four < 4; ++four) {
    for (std::uint64_t two = 0; two < 2; ++two) {
      auto const found = intersect(rank_of(four, 4), rank_of(two, 2));
      auto const back = intersect(rank_of(two, 2), rank_of(four, 4));
      ASSERT_EQ(found.has_value(), four / 2 == two) << four << " " << two;
      ASSERT_EQ(back.has_value(), found.has_value());
      if (found) {
        auto const begin = four % 2 * 2;
        EXPECT_EQ(found->narrowed,
                  (std::vector{AxisOverlap{Dim::Head, {0, 2}, {begin, begin + 2}}}));
        EXPECT_EQ(back->narrowed,
                  (std::vector{AxisOverlap{Dim::Head, {begin, begin + 2}, {0, 2}}}));
        EXPECT_EQ(back->first, found->second);
      }
    }
  }
}

TEST(Intersect, L16_DifferentLabelsAndExtentsAreErrors) {
  View const other(2, {{Dim::Layer, 16, 1024}, {Dim::Head, 8, 128}, {Dim::HeadDim, 64, 2}});
  expect_error(ErrorCode::InvalidArgument, {"axis nl", "second"},
               [&] { return intersect(chunk_of(8), other); });
  expect_error(ErrorCode::InvalidArgument, {"axis nt"},
               [&] { return intersect(other, chunk_of(8)); });
  expect_error(ErrorCode::InvalidArgument, {"nh", "8", "4"},
               [&] { return intersect(chunk_of(8), chunk_of(4)); });
  View const wide(4, {{Dim::Token, 16, 2048}, {Dim::Head, 8, 256}, {Dim::HeadDim, 64, 4}});
  expect_error(ErrorCode::InvalidArgument, {"2", "4"},
               [&] { return intersect(chunk_of(8), wide); });
}

TEST(Intersect, L16_DisjointPartsHaveNothingInCommon) {
  EXPECT_EQ(intersect(rank_of(0, 4), rank_of(1, 4)), std::nullopt);
  EXPECT_EQ(intersect(rank_of(0, 2), rank_of(3, 4)), std::nullopt);
}

TEST(Intersect, L16_RegionAxisOnOneSideOnly) {
  View const store(2, {{Dim::Layer, 4, 16 * 8 * 128},
                       {Dim::Token, 16, 8 * 128},
                       {Dim::Head, 8, 128},
                       {Dim::HeadDim, 64, 2}});
  // A pipeline stage that holds layers 2 and 3, each a region, and heads 4 to 7.
  View const stage(2,
                   {{Dim::Layer, 2, 0, 2, 4},
                    {Dim::Token, 16, 512},
                    {Dim::Head, 4, 128, 4, 8},
                    {Dim::HeadDim, 64, 2}},
                   0, Dim::Layer);
  auto const found = intersect(store, stage);
  ASSERT_TRUE(found);
  EXPECT_EQ(found->first.offset(), 2U * 16384 + 4 * 128);
  EXPECT_EQ(found->second.first_region(), 0U);
  EXPECT_EQ(found->second.offset(), 0U);
  EXPECT_EQ(found->narrowed.size(), 2U);
  auto const back = intersect(stage, store.slice(Dim::Layer, {3, 4}));
  ASSERT_TRUE(back);
  EXPECT_EQ(back->first.first_region(), 1U);
}

TEST(View, L17_TensorProperties) {
  auto const view = chunk_of(8);
  EXPECT_EQ(view.numel(), 16U * 8 * 64);
  EXPECT_EQ(view.ndim(), 3U);
  EXPECT_TRUE(view.is_contiguous());
  EXPECT_EQ(view.contiguous_stride(Dim::Token), 8U * 64 * 2);
  EXPECT_EQ(view.contiguous_stride(Dim::HeadDim), 2U);
  EXPECT_EQ(view.reach(), 16U * 8 * 64 * 2);
}

TEST(View, L17_NotContiguous) {
  EXPECT_FALSE(chunk_of(8).slice(Dim::Head, {0, 4}).is_contiguous());
  EXPECT_TRUE(chunk_of(8).slice(Dim::Token, {3, 9}).is_contiguous());
  EXPECT_FALSE(per_layer().is_contiguous());
  auto const chunk = per_layer().select(Dim::Block, 1).select(Dim::Layer, 1).select(Dim::Outer, 1);
  EXPECT_TRUE(chunk.is_contiguous());
  View const transposed(2, {{Dim::Head, 8, 128}, {Dim::Token, 16, 1024}, {Dim::HeadDim, 64, 2}});
  EXPECT_FALSE(transposed.is_contiguous());
  EXPECT_EQ(transposed.numel(), chunk_of(8).numel());
  // Extents of 1 do not count, whatever their stride.
  View const one(2, {{Dim::Outer, 1, 77}, {Dim::Token, 16, 2}});
  EXPECT_TRUE(one.is_contiguous());
}

TEST(View, L17_RankZeroIsOneElement) {
  View const scalar(8, {}, 40);
  EXPECT_EQ(scalar.ndim(), 0U);
  EXPECT_EQ(scalar.numel(), 1U);
  EXPECT_TRUE(scalar.is_contiguous());
  EXPECT_EQ(scalar.reach(), 8U);
  EXPECT_EQ(scalar.at(std::initializer_list<std::uint64_t>{}), (ViewLocation{0, 40}));
}

TEST(View, PlacedPartHasToLieInsideTheWhole) {
  expect_error(ErrorCode::OutOfRange, {"nh", "from 5", "8"},
               [] { static_cast<void>(chunk_of(4).placed(Dim::Head, 5, 8)); });
  expect_error(ErrorCode::InvalidArgument, {"nh", "sliced"}, [] {
    static_cast<void>(chunk_of(4).slice(Dim::Head, {0, 2}).placed(Dim::Head, 0, 8));
  });
}

TEST(View, OfALayoutAgreesWithItsChunks) {
  auto const config = testing::small_config().build();
  auto const source = std::make_shared<FakeSource>();
  for (auto const kind : {LayoutKind::FullyContiguous, LayoutKind::LayerSeparate}) {
    auto const step = PhysicalLayout::builder(source).config(config).allocate_system();
    auto const layout = kind == LayoutKind::FullyContiguous
                            ? step.fully_contiguous(KvBlockLayout::UniversalPP).build()
                            : step.layer_separate(BlockDimension::Second).build();
    auto const view = layout.view();
    EXPECT_EQ(view.region_dim().has_value(), kind == LayoutKind::LayerSeparate);
    EXPECT_EQ(view.numel(), 5U * config.block_bytes() / 2);
    for (std::uint64_t b = 0; b < 5; ++b) {
      for (std::uint64_t l = 0; l < 3; ++l) {
        for (std::uint64_t o = 0; o < 2; ++o) {
          auto const chunk = layout.chunk(b, l, o);
          EXPECT_EQ(view.at({b, l, o, 0, 0, 0}), (ViewLocation{chunk.region, chunk.offset}));
        }
      }
    }
  }
}

}  // namespace
}  // namespace kvbm::layout
