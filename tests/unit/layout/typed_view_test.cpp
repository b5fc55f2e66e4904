// SPDX-License-Identifier: Apache-2.0
#include "kvbm/layout/typed_view.hpp"

#include "layout_test_support.hpp"

#include <gtest/gtest.h>

#include <numeric>

namespace kvbm::layout {
namespace {

using testing::expect_error;
using testing::FakeSource;
using testing::small_config;

class TypedViewTest : public ::testing::Test {
 protected:
  std::shared_ptr<FakeSource> source_ = std::make_shared<FakeSource>();

  [[nodiscard]] PhysicalLayout layout(KvBlockLayout const& format) const {
    return PhysicalLayout::builder(source_)
        .config(small_config().build())
        .fully_contiguous(format)
        .allocate_system()
        .build();
  }
};

TEST_F(TypedViewTest, SameElementsInEveryKindAndFormat) {
  std::vector<PhysicalLayout> const layouts{layout(KvBlockLayout::UniversalTP),
                                            layout(KvBlockLayout::OperationalHND),
                                            PhysicalLayout::builder(source_)
                                                .config(small_config().build())
                                                .layer_separate(BlockDimension::Second)
                                                .allocate_system()
                                                .build()};
  for (auto const& each : layouts) {
    TypedView<std::uint16_t> const view(each);
    std::uint16_t next = 0;
    auto const for_all = [&](auto&& action) {
      for (std::uint64_t b = 0; b < view.extent(Dim::Block); ++b)
        for (std::uint64_t l = 0; l < view.extent(Dim::Layer); ++l)
          for (std::uint64_t o = 0; o < view.extent(Dim::Outer); ++o)
            for (std::uint64_t t = 0; t < view.extent(Dim::Token); ++t)
              for (std::uint64_t h = 0; h < view.extent(Dim::Head); ++h)
                for (std::uint64_t d = 0; d < view.extent(Dim::HeadDim); ++d)
                  action(view(b, l, o, t, h, d), next++);
    };
    for_all([](std::uint16_t& element, std::uint16_t value) { element = value; });
    EXPECT_EQ(next, 5U * 3 * 2 * 4 * 42);
    next = 0;
    for_all([](std::uint16_t& element, std::uint16_t value) { ASSERT_EQ(element, value); });
  }
}

TEST_F(TypedViewTest, ElementLiesWhereChunkSaysItDoes) {
  auto const each = layout(KvBlockLayout::OperationalNHD);
  TypedView<std::uint16_t const> const view(each);
  auto const* base = each.regions()[0].host_data() + each.chunk(4, 1, 1).offset;
  EXPECT_EQ(reinterpret_cast<std::byte const*>(&view(4, 1, 1, 2, 3, 5)),
            base + std::size_t{((2 * 6 + 3) * 7 + 5) * 2});
  EXPECT_EQ(view.stride_bytes(Dim::Head), 14U);
  EXPECT_EQ(view.rank(), 6U);
}

TEST_F(TypedViewTest, ChunksAndBlocksAsSpansWhereTheyAreContiguous) {
  TypedView<std::uint16_t> const nhd(layout(KvBlockLayout::OperationalNHD));
  EXPECT_EQ(nhd.chunk(0, 0, 0).size(), 4U * 42);
  EXPECT_EQ(nhd.block(2).size(), 1008U);
  EXPECT_EQ(&nhd.block(2)[1007], &nhd(2, 2, 1, 3, 5, 6));
  TypedView<std::uint16_t> const tp(layout(KvBlockLayout::UniversalTP));
  EXPECT_EQ(tp.block(2).size(), 1008U);
  expect_error(ErrorCode::Unsupported, {"chunk", "UniversalTP"},
               [&] { static_cast<void>(tp.chunk(0, 0, 0)); });
  TypedView<std::uint16_t> const ls(PhysicalLayout::builder(source_)
                                        .config(small_config().build())
                                        .layer_separate(BlockDimension::First)
                                        .allocate_system()
                                        .build());
  EXPECT_EQ(ls.chunk(4, 2, 1).size(), 4U * 42);
  expect_error(ErrorCode::Unsupported, {"block", "LayerSeparate"},
               [&] { static_cast<void>(ls.block(0)); });
}

TEST_F(TypedViewTest, RefusesBadIndicesWidthsAndUnreachableMemory) {
  auto const each = layout(KvBlockLayout::OperationalNHD);
  TypedView<std::uint16_t> const view(each);
  expect_error(ErrorCode::OutOfRange, {"index 6", "nh", "extent 6"},
               [&] { static_cast<void>(view.at(0, 0, 0, 0, 6, 0)); });
  expect_error(ErrorCode::OutOfRange, {"index 5", "nb"}, [&] { static_cast<void>(view.block(5)); });
  expect_error(ErrorCode::InvalidArgument, {"4 bytes", "dtype_width_bytes 2"},
               [&] { TypedView<float> const wrong(each); });
  auto const disk = PhysicalLayout::builder(source_)
                        .config(small_config().build())
                        .fully_contiguous()
                        .allocate_disk()
                        .build();
  expect_error(ErrorCode::Unsupported, {"Disk"},
               [&] { TypedView<std::uint16_t> const wrong(disk); });
}

TEST_F(TypedViewTest, KeepsTheMemoryAlive) {
  auto view = std::make_unique<TypedView<std::uint16_t>>(layout(KvBlockLayout::OperationalNHD));
  auto const copy = *view;
  view.reset();
  copy(4, 2, 1, 3, 5, 6) = 9;
  EXPECT_EQ(copy.at(4, 2, 1, 3, 5, 6), 9);
}

}  // namespace
}  // namespace kvbm::layout
