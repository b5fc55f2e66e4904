// SPDX-License-Identifier: Apache-2.0
#include "transfer/wire_copy.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <utility>
#include <vector>

#include "kvbm/testing/layout_cases.hpp"

namespace kvbm::transfer {
namespace {

using layout::BlockDimension;
using layout::KvBlockLayout;
using layout::PhysicalLayout;
using testing::contiguous;
using testing::layer_wise;
using testing::LayoutShape;
using testing::Part;

layout::LayoutConfig config_of(std::uint64_t num_blocks, std::uint64_t width = 2,
                               std::uint64_t alignment = 1) {
  return layout::LayoutConfig::builder()
      .num_blocks(num_blocks)
      .num_layers(3)
      .page_size(2)
      .inner_dim(4 * 2)
      .num_heads(4)
      .dtype_width_bytes(width)
      .alignment(alignment)
      .build();
}

/// All regions in one allocation, without a gap: what touches by chance elsewhere always does here.
PhysicalLayout make_abutting(layout::LayoutConfig const& config, LayoutShape const& shape) {
  auto const source = memory::make_host_memory_source();
  auto const bytes =
      layout::make_geometry(config, shape.kind, shape.dimension, shape.format).region_bytes;
  bool const separate = shape.kind == layout::LayoutKind::LayerSeparate;
  std::uint64_t const count = separate ? config.num_layers() : 1;
  auto const memory =
      source->allocate({memory::StorageKind::System, count * bytes, memory::kRegionAlignment, -1});
  std::vector<memory::Region> regions;
  for (std::uint64_t i = 0; i < count; ++i) {
    regions.push_back(memory.subregion(i * bytes, bytes));
  }
  auto const start = PhysicalLayout::builder(source).config(config);
  return separate
             ? start.layer_separate(shape.dimension, shape.format).with_regions(regions).build()
             : start.fully_contiguous(shape.format).with_regions(regions).build();
}

Selection selection_of(Part const& part) { return {part.layers, part.src_heads, part.dst_heads}; }

WireCopy make_copy(PhysicalLayout const& src, PhysicalLayout const& dst, Part const& part,
                   WireDirection direction) {
  return {lower(src, dst, selection_of(part)), src, dst, direction};
}

std::vector<WireRun> runs_of(WireCopy const& copy, std::vector<BlockId> const& src_blocks,
                             std::vector<BlockId> const& dst_blocks) {
  std::vector<WireRun> runs;
  copy.append_runs(src_blocks, dst_blocks, runs);
  return runs;
}

/// Source address of every destination byte.
using ByteMap = std::map<std::uintptr_t, std::uintptr_t>;

ByteMap bytes_of(std::vector<WireRun> const& runs, WireDirection direction) {
  ByteMap bytes;
  for (auto const& run : runs) {
    bool const reads = direction == WireDirection::Read;
    for (std::uint64_t i = 0; i < run.bytes; ++i) {
      bool const fresh =
          bytes.emplace((reads ? run.local : run.remote) + i, (reads ? run.remote : run.local) + i)
              .second;
      EXPECT_TRUE(fresh) << "a byte is written twice";
    }
  }
  return bytes;
}

/// The same, element by element.
ByteMap oracle(PhysicalLayout const& src, std::vector<BlockId> const& src_blocks,
               PhysicalLayout const& dst, std::vector<BlockId> const& dst_blocks,
               Part const& part) {
  auto const address = [](PhysicalLayout const& layout, BlockId block,
                          testing::Element const& element) {
    return reinterpret_cast<std::uintptr_t>(testing::element_address(layout, block, element));
  };
  ByteMap bytes;
  for (std::size_t i = 0; i < src_blocks.size(); ++i) {
    testing::for_each_element(src, [&](testing::Element const& from) {
      if (from.layer < part.layers.begin || from.layer >= part.layers.end ||
          from.head < part.src_heads.begin || from.head >= part.src_heads.end) {
        return;
      }
      testing::Element to = from;
      to.head = from.head - part.src_heads.begin + part.dst_heads.begin;
      for (std::uint64_t b = 0; b < src.geometry().element_bytes; ++b) {
        bytes[address(dst, dst_blocks[i], to) + b] = address(src, src_blocks[i], from) + b;
      }
    });
  }
  return bytes;
}

bool is_in_one_region(PhysicalLayout const& layout, std::uintptr_t begin, std::uint64_t bytes) {
  return std::any_of(layout.regions().begin(), layout.regions().end(), [&](auto const& region) {
    return region.address() <= begin && begin + bytes <= region.address() + region.bytes();
  });
}

TEST(WireCopy, Q5_Q7_RunsAreExactlyTheChosenBytesAndNoneLeavesItsRegion) {
  std::vector<std::pair<std::vector<BlockId>, std::vector<BlockId>>> const ids{
      {{3, 1}, {0, 2}}, {{0, 1, 2, 3}, {0, 1, 2, 3}}, {{2, 3, 0}, {1, 2, 3}}, {{3}, {3}}, {{}, {}}};
  auto const shapes = testing::every_shape();
  std::size_t number = 0;
  for (auto const& a : shapes) {
    for (auto const& b : shapes) {
      auto const src = make_abutting(config_of(4), a);
      auto const dst = make_abutting(config_of(4), b);
      for (Part const& part : {Part{{0, 3}, {0, 4}, {0, 4}}, Part{{1, 2}, {0, 4}, {0, 4}},
                               Part{{0, 3}, {1, 3}, {2, 4}}, Part{{1, 3}, {3, 4}, {0, 1}}}) {
        for (auto const direction : {WireDirection::Read, WireDirection::Write}) {
          auto const& [from, to] = ids[number++ % ids.size()];
          SCOPED_TRACE(a.name() + " -> " + b.name() + ", layers " + to_string(part.layers) +
                       ", heads " + to_string(part.src_heads) + ", " + std::to_string(from.size()) +
                       " blocks");
          auto const copy = make_copy(src, dst, part, direction);
          auto const runs = runs_of(copy, from, to);
          ASSERT_EQ(bytes_of(runs, direction), oracle(src, from, dst, to, part));
          EXPECT_LE(runs.size(), copy.count_runs(from, to));
          bool const reads = direction == WireDirection::Read;
          for (auto const& run : runs) {
            ASSERT_TRUE(is_in_one_region(reads ? dst : src, run.local, run.bytes));
            ASSERT_TRUE(is_in_one_region(reads ? src : dst, run.remote, run.bytes));
          }
        }
      }
    }
  }
}

TEST(WireCopy, Q1_RunsOfNeighboursAreMergedWherePossibleAndCountedRightly) {
  std::vector<BlockId> const neighbours{0, 1, 2, 3, 4, 5};
  std::vector<BlockId> const two_groups{0, 1, 2, 4, 5, 6};
  std::vector<BlockId> const reversed{5, 4, 3, 2, 1, 0};
  struct Case {
    LayoutShape src;
    LayoutShape dst;
    std::uint64_t alignment;
    std::uint64_t neighbours;
    std::uint64_t two_groups;
    std::uint64_t reversed;
  };
  auto const nhd = contiguous(KvBlockLayout::OperationalNHD);
  auto const first = layer_wise(BlockDimension::First, KvBlockLayout::OperationalNHD);
  auto const second = layer_wise(BlockDimension::Second, KvBlockLayout::OperationalNHD);
  for (auto const& c : {Case{nhd, nhd, 1, 1, 2, 6}, Case{first, first, 1, 3, 6, 18},
                        Case{second, second, 1, 6, 12, 36}, Case{nhd, first, 1, 18, 18, 18},
                        Case{first, second, 1, 36, 36, 36},
                        // Padding behind every block: the next one does not adjoin.
                        Case{nhd, nhd, 512, 6, 6, 6}}) {
    SCOPED_TRACE(c.src.name() + " -> " + c.dst.name());
    auto const src = make_abutting(config_of(8, 2, c.alignment), c.src);
    auto const dst = make_abutting(config_of(8, 2, c.alignment), c.dst);
    auto const copy = make_copy(src, dst, testing::whole(src), WireDirection::Write);
    for (auto const& [ids, count] :
         {std::pair(neighbours, c.neighbours), std::pair(two_groups, c.two_groups),
          std::pair(reversed, c.reversed)}) {
      EXPECT_EQ(runs_of(copy, ids, ids).size(), count);
      EXPECT_EQ(copy.count_runs(ids, ids), count);
    }
    EXPECT_EQ(copy.count_runs({}, {}), 0U);
  }
}

TEST(WireCopy, Q1_ARunIsAppendedToNoneOfAnEarlierCall) {
  auto const shape = contiguous(KvBlockLayout::OperationalNHD);
  auto const src = make_abutting(config_of(2), shape);
  auto const dst = make_abutting(config_of(2), shape);
  auto const copy = make_copy(src, dst, testing::whole(src), WireDirection::Read);
  std::vector<WireRun> runs;
  copy.append_runs(std::vector<BlockId>{0}, std::vector<BlockId>{0}, runs);
  copy.append_runs(std::vector<BlockId>{1}, std::vector<BlockId>{1}, runs);
  ASSERT_EQ(runs.size(), 2U);
  EXPECT_EQ(runs[0].local, dst.regions()[0].address());
  EXPECT_EQ(runs[0].remote, src.regions()[0].address());
  EXPECT_EQ(runs[1].local, runs[0].local + runs[0].bytes);
}

TEST(CountGroups, CountsWhatDoesNotFollowInBothLists) {
  using Ids = std::vector<BlockId>;
  EXPECT_EQ(count_groups({}, {}), 0U);
  EXPECT_EQ(count_groups(Ids{5}, Ids{1}), 1U);
  EXPECT_EQ(count_groups(Ids{5, 6, 7}, Ids{1, 2, 3}), 1U);
  EXPECT_EQ(count_groups(Ids{5, 6, 7}, Ids{1, 2, 4}), 2U);
  EXPECT_EQ(count_groups(Ids{5, 7, 8}, Ids{1, 2, 3}), 2U);
  EXPECT_EQ(count_groups(Ids{3, 2, 1}, Ids{3, 2, 1}), 3U);
}

}  // namespace
}  // namespace kvbm::transfer
