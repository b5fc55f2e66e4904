// SPDX-License-Identifier: Apache-2.0
#include "kvbm/layout/descriptor.hpp"
#include "kvbm/layout/dims.hpp"
#include "kvbm/layout/physical_layout.hpp"
#include "kvbm/layout/view.hpp"
#include "layout_test_support.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <vector>

/// Properties that hold for every layout, over generated shapes. A failure prints the seed.
namespace kvbm::layout {
namespace {

using testing::FakeSource;

/// Draws layouts from a seed.
class Generator {
 public:
  explicit Generator(std::uint64_t seed) : random_(seed) {}

  std::uint64_t between(std::uint64_t low, std::uint64_t high) {
    return low + random_() % (high - low + 1);
  }

  LayoutConfig config() {
    auto const heads = between(1, 4);
    return LayoutConfig::builder()
        .num_blocks(between(1, 5))
        .num_layers(between(1, 4))
        .outer_dim(between(1, 2))
        .page_size(std::uint64_t{1} << between(0, 3))
        .num_heads(heads)
        .inner_dim(heads * between(1, 5))
        .dtype_width_bytes(std::uint64_t{1} << between(0, 3))
        .alignment(std::uint64_t{1} << between(0, 10))
        .build();
  }

  KvBlockLayout::Order order() {
    KvBlockLayout::Order order{BlockDim::Layer, BlockDim::Outer, BlockDim::Token, BlockDim::Head,
                               BlockDim::HeadDim};
    std::shuffle(order.begin(), order.end(), random_);
    return order;
  }

  /// Rows, chunks and layers padded by whole elements, in any order.
  KvBlockLayout strided(LayoutConfig const& config) {
    auto const dims = order();
    PerDim<std::uint64_t> const extents{config.num_layers(), config.outer_dim(), config.page_size(),
                                        *config.num_heads(), config.head_dim()};
    BlockStrides strides;
    auto next = config.dtype_width_bytes();
    for (auto it = dims.rbegin(); it != dims.rend(); ++it) {
      auto const dim = static_cast<std::size_t>(*it);
      strides.bytes[dim] = static_cast<std::int64_t>(next);
      next = next * extents[dim] + between(0, 3) * config.dtype_width_bytes();
    }
    strides.footprint = next;
    return KvBlockLayout::Strided(strides);
  }

  PhysicalLayout layout(std::shared_ptr<FakeSource> const& source) {
    auto const c = config();
    auto const step = PhysicalLayout::builder(source).config(c).allocate_system();
    switch (between(0, 4)) {
      case 0: return step.fully_contiguous(KvBlockLayout::Custom(order())).build();
      case 1: return step.fully_contiguous(strided(c)).build();
      case 2: return step.layer_separate(BlockDimension::First, operational()).build();
      case 3: return step.layer_separate(BlockDimension::Second, operational()).build();
      default: return step.fully_contiguous(universal()).build();
    }
  }

  KvBlockLayout operational() {
    return between(0, 1) == 0 ? KvBlockLayout::OperationalNHD : KvBlockLayout::OperationalHND;
  }
  KvBlockLayout universal() {
    return between(0, 1) == 0 ? KvBlockLayout::UniversalTP : KvBlockLayout::UniversalPP;
  }

 private:
  std::mt19937_64 random_;
};

template <typename Action>
void for_each_element(PhysicalLayout const& layout, Action action) {
  auto const& c = layout.config();
  auto const& e = layout.geometry().extents;
  for (std::uint64_t b = 0; b < c.num_blocks(); ++b)
    for (std::uint64_t l = 0; l < e[0]; ++l)
      for (std::uint64_t o = 0; o < e[1]; ++o)
        for (std::uint64_t t = 0; t < e[2]; ++t)
          for (std::uint64_t h = 0; h < e[3]; ++h)
            for (std::uint64_t d = 0; d < e[4]; ++d)
              action(b, l, o, t, h, d);
}

class LayoutProperty : public ::testing::TestWithParam<std::uint64_t> {
 protected:
  std::shared_ptr<FakeSource> source_ = std::make_shared<FakeSource>();
};

TEST_P(LayoutProperty, L13_EveryElementIsInBoundsAndHasItsOwnBytes) {
  Generator generator(GetParam());
  auto const layout = generator.layout(source_);
  SCOPED_TRACE(layout.to_string());
  auto const view = layout.view();
  auto const width = layout.geometry().element_bytes;
  std::vector<std::vector<bool>> used;
  for (auto const& region : layout.regions()) {
    used.emplace_back(region.bytes(), false);
  }
  std::uint64_t elements = 0;
  for_each_element(layout, [&](auto... indices) {
    auto const at = view.at({indices...});
    ASSERT_LT(at.region, used.size());
    ASSERT_LE(at.offset + width, used[at.region].size());
    ASSERT_EQ(at.offset % width, 0U);
    for (std::uint64_t i = 0; i < width; ++i) {
      ASSERT_FALSE(used[at.region][at.offset + i]);
      used[at.region][at.offset + i] = true;
    }
    ++elements;
  });
  EXPECT_EQ(elements, layout.config().num_blocks() * layout.config().block_bytes() / width);
}

TEST_P(LayoutProperty, L2_AddressEqualsAnIndependentClosedForm) {
  Generator generator(GetParam());
  auto const config = generator.config();
  auto const order = generator.order();
  auto const layout = PhysicalLayout::builder(source_)
                          .config(config)
                          .fully_contiguous(KvBlockLayout::Custom(order))
                          .allocate_system()
                          .build();
  auto const view = layout.view();
  auto const align = config.alignment();
  auto const block_stride = (config.block_bytes() + align - 1) / align * align;
  for_each_element(layout, [&](std::uint64_t b, auto... indices) {
    // Horner's scheme over the order, instead of strides.
    PerDim<std::uint64_t> const index{indices...};
    std::uint64_t element = 0;
    for (auto const dim : order) {
      auto const i = static_cast<std::size_t>(dim);
      element = element * layout.geometry().extents[i] + index[i];
    }
    ASSERT_EQ(view.at({b, indices...}),
              (ViewLocation{0, b * block_stride + element * config.dtype_width_bytes()}));
  });
}

TEST_P(LayoutProperty, L3_LayerSeparateAgreesWithFullyContiguousInsideAChunk) {
  Generator generator(GetParam());
  auto const config = generator.config();
  auto const format = generator.operational();
  auto const step = PhysicalLayout::builder(source_).config(config).allocate_system();
  auto const fc = step.fully_contiguous(format).build();
  for (auto const dimension : {BlockDimension::First, BlockDimension::Second}) {
    auto const ls = step.layer_separate(dimension, format).build();
    auto const fc_view = fc.view();
    auto const ls_view = ls.view();
    for_each_element(fc, [&](std::uint64_t b, std::uint64_t l, std::uint64_t o, auto... inner) {
      ASSERT_EQ(fc_view.at({b, l, o, inner...}).offset - fc.chunk(b, l, o).offset,
                ls_view.at({b, l, o, inner...}).offset - ls.chunk(b, l, o).offset);
    });
  }
}

TEST_P(LayoutProperty, L6_DescriptorRoundTrip) {
  Generator generator(GetParam());
  auto const layout = generator.layout(source_);
  auto const copy = LayoutDescriptor::from_json(layout.descriptor().to_json());
  EXPECT_EQ(copy, layout.descriptor());
  EXPECT_EQ(copy.geometry(), layout.geometry());
  EXPECT_EQ(copy.fingerprint(), layout.fingerprint());
}

TEST_P(LayoutProperty, ExtentsAreDisjointAndHoldEveryElementOfTheirBlock) {
  Generator generator(GetParam());
  auto const layout = generator.layout(source_);
  SCOPED_TRACE(layout.to_string());
  auto const view = layout.view();
  auto const width = layout.geometry().element_bytes;
  std::vector<std::vector<std::uint64_t>> owner;  // of every byte: block + 1
  for (auto const& region : layout.regions()) {
    owner.emplace_back(region.bytes(), 0);
  }
  for (std::uint64_t b = 0; b < layout.config().num_blocks(); ++b) {
    for (std::uint32_t n = 0; n < layout.extents_per_block(); ++n) {
      auto const extent = layout.extent(b, n);
      ASSERT_LE(extent.offset + extent.bytes, owner[extent.region].size());
      for (std::uint64_t i = 0; i < extent.bytes; ++i) {
        ASSERT_EQ(owner[extent.region][extent.offset + i], 0U);
        owner[extent.region][extent.offset + i] = b + 1;
      }
    }
  }
  for_each_element(layout, [&](std::uint64_t b, auto... indices) {
    auto const at = view.at({b, indices...});
    ASSERT_EQ(owner[at.region][at.offset], b + 1);
    ASSERT_EQ(owner[at.region][at.offset + width - 1], b + 1);
  });
}

TEST_P(LayoutProperty, L14_TensorOfARandomOrderHasTheTensorsAddresses) {
  Generator generator(GetParam());
  auto const config = generator.config().with_alignment(1);
  std::vector<TensorDim> dims{{Dim::Block, config.num_blocks()},
                              {Dim::Outer, config.outer_dim()},
                              {Dim::Token, config.page_size()},
                              {Dim::Head, *config.num_heads()}};
  std::shuffle(dims.begin(), dims.end(), std::mt19937_64(GetParam()));
  dims.push_back({Dim::Payload, config.head_dim()});
  KvDimLayout const tensor(dims, config.dtype_width_bytes());
  auto const layout = PhysicalLayout::builder(source_)
                          .config(config)
                          .layer_separate(tensor)
                          .allocate_system()
                          .build();
  EXPECT_EQ(layout.geometry().region_bytes, tensor.bytes());
  auto const view = layout.view();
  for_each_element(layout, [&](std::uint64_t b, std::uint64_t l, std::uint64_t o, std::uint64_t t,
                               std::uint64_t h, std::uint64_t d) {
    auto const index = [&](Dim dim) {
      switch (dim) {
        case Dim::Block: return b;
        case Dim::Outer: return o;
        case Dim::Token: return t;
        case Dim::Head: return h;
        default: return d;
      }
    };
    std::uint64_t element = 0;
    for (auto const& dim : dims) {
      element = element * dim.extent + index(dim.dim);
    }
    ASSERT_EQ(view.at({b, l, o, t, h, d}), (ViewLocation{l, element * config.dtype_width_bytes()}));
  });
  EXPECT_EQ(LayoutDescriptor::from_json(layout.descriptor().to_json()), layout.descriptor());
}

TEST_P(LayoutProperty, L16_RanksOfTwoSizesMeetInEveryHeadOnce) {
  Generator generator(GetParam());
  auto const heads = std::uint64_t{1} << generator.between(0, 4);
  auto const ranks = [&] { return std::uint64_t{1} << generator.between(0, 4); };
  auto const count_a = std::min(heads, ranks());
  auto const count_b = std::min(heads, ranks());
  auto const part = [&](std::uint64_t rank, std::uint64_t count) {
    auto const mine = heads / count;
    return View(2, {{Dim::Head, mine, 64}, {Dim::HeadDim, 32, 2}})
        .placed(Dim::Head, rank * mine, heads);
  };
  std::vector<int> seen(heads, 0);
  for (std::uint64_t a = 0; a < count_a; ++a) {
    for (std::uint64_t b = 0; b < count_b; ++b) {
      auto const found = intersect(part(a, count_a), part(b, count_b));
      if (!found) { continue; }
      auto const& first = found->first.axis(Dim::Head);
      auto const& second = found->second.axis(Dim::Head);
      ASSERT_EQ(first.begin, second.begin);
      ASSERT_EQ(first.extent, second.extent);
      ASSERT_EQ(found->first.offset(), (first.begin - a * (heads / count_a)) * 64);
      for (std::uint64_t h = 0; h < first.extent; ++h) {
        ++seen[first.begin + h];
      }
    }
  }
  EXPECT_EQ(seen, std::vector<int>(heads, 1));
}

INSTANTIATE_TEST_SUITE_P(Seeds, LayoutProperty, ::testing::Range<std::uint64_t>(1, 61));

}  // namespace
}  // namespace kvbm::layout
