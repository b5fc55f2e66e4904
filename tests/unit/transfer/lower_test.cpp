// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <random>
#include <set>
#include <vector>

#include "kvbm/core/error.hpp"
#include "kvbm/layout/physical_layout.hpp"
#include "kvbm/transfer/copy_plan.hpp"
#include "kvbm/transfer/validate.hpp"

namespace kvbm::transfer {
namespace {

using layout::BlockDim;
using layout::BlockDimension;
using layout::KvBlockLayout;
using layout::LayoutConfig;
using layout::PhysicalLayout;

LayoutConfig config_of(std::uint64_t nb, std::uint64_t nl, std::uint64_t no, std::uint64_t nt,
                       std::uint64_t nh, std::uint64_t hd, std::uint64_t width) {
  return LayoutConfig::builder()
      .num_blocks(nb)
      .num_layers(nl)
      .outer_dim(no)
      .page_size(nt)
      .inner_dim(nh * hd)
      .num_heads(nh)
      .dtype_width_bytes(width)
      .build();
}

PhysicalLayout contiguous(LayoutConfig const& config, KvBlockLayout const& format) {
  return PhysicalLayout::builder(memory::make_host_memory_source())
      .config(config)
      .fully_contiguous(format)
      .allocate_system()
      .build();
}

PhysicalLayout separate(LayoutConfig const& config, BlockDimension dimension,
                        KvBlockLayout const& format) {
  return PhysicalLayout::builder(memory::make_host_memory_source())
      .config(config)
      .layer_separate(dimension, format)
      .allocate_system()
      .build();
}

Selection everything(PhysicalLayout const& layout) {
  std::uint64_t const heads = layout.geometry().extents[static_cast<std::size_t>(BlockDim::Head)];
  return {{0, layout.config().num_layers()}, {0, heads}, {0, heads}};
}

using ByteAddress = std::pair<std::uint32_t, std::uint64_t>;  // region, offset

/// Source byte of every destination byte, by walking a plan.
std::map<ByteAddress, ByteAddress> walk(CopyPlan const& plan, BlockId src_block,
                                        BlockId dst_block) {
  std::map<ByteAddress, ByteAddress> moves;
  for (std::size_t s = 0; s < plan.num_segments(); ++s) {
    std::uint64_t const steps = plan.runs_per_block() / plan.num_segments();
    for (std::uint64_t step = 0; step < steps; ++step) {
      std::uint64_t rest = step;
      std::uint64_t src = plan.src.segments[s].offset + src_block * plan.src.block_stride;
      std::uint64_t dst = plan.dst.segments[s].offset + dst_block * plan.dst.block_stride;
      for (std::uint32_t i = plan.shape.num_dims; i-- > 0;) {
        auto const& dim = plan.shape.dims[i];
        src += rest % dim.extent * static_cast<std::uint64_t>(dim.src_stride);
        dst += rest % dim.extent * static_cast<std::uint64_t>(dim.dst_stride);
        rest /= dim.extent;
      }
      for (std::uint64_t byte = 0; byte < plan.shape.run_bytes; ++byte) {
        bool const fresh = moves
                               .insert({{plan.dst.segments[s].region, dst + byte},
                                        {plan.src.segments[s].region, src + byte}})
                               .second;
        EXPECT_TRUE(fresh) << "destination byte written twice";
      }
    }
  }
  return moves;
}

/// The same by the address formula, element by element.
std::map<ByteAddress, ByteAddress> oracle(PhysicalLayout const& src, PhysicalLayout const& dst,
                                          Selection const& selection, BlockId src_block,
                                          BlockId dst_block) {
  auto const address = [](PhysicalLayout const& layout, BlockId block, std::uint64_t l,
                          std::uint64_t o, std::uint64_t t, std::uint64_t h, std::uint64_t d) {
    auto const& g = layout.geometry();
    auto const stride = [&g](BlockDim dim) {
      return static_cast<std::uint64_t>(g.strides[static_cast<std::size_t>(dim)]);
    };
    std::uint64_t const offset = block * g.block_stride +
                                 (g.layers_are_regions ? 0 : l * stride(BlockDim::Layer)) +
                                 o * stride(BlockDim::Outer) + t * stride(BlockDim::Token) +
                                 h * stride(BlockDim::Head) + d * stride(BlockDim::HeadDim);
    return ByteAddress{g.layers_are_regions ? static_cast<std::uint32_t>(l) : 0U, offset};
  };
  std::map<ByteAddress, ByteAddress> moves;
  auto const& extents = src.geometry().extents;
  for (std::uint64_t l = selection.layers.begin; l < selection.layers.end; ++l) {
    for (std::uint64_t o = 0; o < extents[1]; ++o) {
      for (std::uint64_t t = 0; t < extents[2]; ++t) {
        for (std::uint64_t h = 0; h < selection.src_heads.size(); ++h) {
          for (std::uint64_t d = 0; d < extents[4]; ++d) {
            auto const from = address(src, src_block, l, o, t, selection.src_heads.begin + h, d);
            auto const to = address(dst, dst_block, l, o, t, selection.dst_heads.begin + h, d);
            for (std::uint64_t byte = 0; byte < src.geometry().element_bytes; ++byte) {
              moves[{to.first, to.second + byte}] = {from.first, from.second + byte};
            }
          }
        }
      }
    }
  }
  return moves;
}

TEST(Lower, ContiguousPairOfOneFormatIsOneRun) {
  auto const config = config_of(4, 3, 2, 4, 2, 8, 2);
  for (auto const& format : {KvBlockLayout::UniversalTP, KvBlockLayout::UniversalPP,
                             KvBlockLayout::OperationalHND, KvBlockLayout::OperationalNHD}) {
    auto const layout = contiguous(config, format);
    auto const plan = lower(layout, contiguous(config, format), everything(layout));
    EXPECT_EQ(plan.shape.num_dims, 0U) << plan.to_string();
    EXPECT_EQ(plan.shape.run_bytes, config.block_bytes());
    EXPECT_EQ(plan.num_segments(), 1U);
  }
}

TEST(Lower, Q7_FormatsThatDifferOnlyInDimensionsOfOneElementAreOneRun) {
  auto const config = config_of(2, 3, 1, 4, 1, 8, 2);  // one head, one outer: MLA
  auto const nhd = contiguous(config, KvBlockLayout::OperationalNHD);
  auto const hnd = contiguous(config, KvBlockLayout::OperationalHND);
  EXPECT_EQ(lower(nhd, hnd, everything(nhd)).runs_per_block(), 1U);
}

TEST(Lower, LayerSeparateSideGivesOneSegmentALayer) {
  auto const config = config_of(4, 3, 2, 4, 2, 8, 2);
  auto const from = separate(config, BlockDimension::First, KvBlockLayout::OperationalNHD);
  auto const to = contiguous(config, KvBlockLayout::OperationalNHD);
  auto const plan = lower(from, to, everything(from));
  EXPECT_EQ(plan.num_segments(), 3U);
  EXPECT_EQ(plan.shape.num_dims, 0U) << plan.to_string();
  EXPECT_EQ(plan.shape.run_bytes, 2 * config.chunk_bytes());
}

TEST(Lower, BlockSecondSplitsTheRunAtTheOuterDimension) {
  auto const config = config_of(4, 3, 2, 4, 2, 8, 2);
  auto const from = separate(config, BlockDimension::Second, KvBlockLayout::OperationalNHD);
  auto const to = contiguous(config, KvBlockLayout::OperationalNHD);
  EXPECT_EQ(lower(from, to, everything(from)).shape.run_bytes, config.chunk_bytes());
}

TEST(Lower, PermutesKeepTheHeadDimensionAsRun) {
  auto const config = config_of(4, 3, 2, 4, 2, 8, 2);
  auto const from = contiguous(config, KvBlockLayout::OperationalNHD);
  auto const to = contiguous(config, KvBlockLayout::UniversalTP);
  EXPECT_EQ(lower(from, to, everything(from)).shape.run_bytes, 8U * 2U);
}

// Random shapes, formats, kinds, ranges: the plan moves exactly the bytes that the address formula
// names, each destination once, and the reverse plan is the inverse.
TEST(Lower, Q5_Q7_PropertyPlansMoveExactlyWhatTheAddressFormulaNames) {
  constexpr unsigned kSeed = 20261124;
  std::mt19937 random(kSeed);
  auto const pick = [&random](std::uint64_t low, std::uint64_t high) {
    return std::uniform_int_distribution<std::uint64_t>(low, high)(random);
  };
  for (int round = 0; round < 300; ++round) {
    SCOPED_TRACE(::testing::Message() << "seed " << kSeed << " round " << round);
    std::uint64_t const heads = pick(1, 4);
    auto const config =
        config_of(pick(2, 3), pick(1, 3), pick(1, 2), std::uint64_t{1} << pick(0, 2), heads,
                  pick(1, 3), std::uint64_t{1} << pick(0, 3));
    auto const random_layout = [&] {
      if (pick(0, 2) == 0) {
        return separate(
            config, pick(0, 1) == 0 ? BlockDimension::First : BlockDimension::Second,
            pick(0, 1) == 0 ? KvBlockLayout::OperationalNHD : KvBlockLayout::OperationalHND);
      }
      KvBlockLayout::Order order{BlockDim::Layer, BlockDim::Outer, BlockDim::Token, BlockDim::Head,
                                 BlockDim::HeadDim};
      std::shuffle(order.begin(), order.end(), random);
      return contiguous(config, KvBlockLayout::Custom(order));
    };
    auto const src = random_layout();
    auto const dst = random_layout();
    Selection selection = everything(src);
    selection.layers.begin = pick(0, selection.layers.end - 1);
    selection.layers.end = pick(selection.layers.begin + 1, selection.layers.end);
    std::uint64_t const moved_heads = pick(1, heads);
    std::uint64_t const src_head = pick(0, heads - moved_heads);
    std::uint64_t const dst_head = pick(0, heads - moved_heads);
    selection.src_heads = {src_head, src_head + moved_heads};
    selection.dst_heads = {dst_head, dst_head + moved_heads};

    auto const plan = lower(src, dst, selection);
    auto const moves = walk(plan, 0, 1);
    EXPECT_EQ(moves, oracle(src, dst, selection, 0, 1)) << plan.to_string();
    EXPECT_EQ(moves.size(), plan.bytes_per_block);

    auto const back =
        walk(lower(dst, src, {selection.layers, selection.dst_heads, selection.src_heads}), 1, 0);
    ASSERT_EQ(back.size(), moves.size());
    for (auto const& [to, from] : moves) {
      auto const found = back.find(from);
      ASSERT_NE(found, back.end());
      EXPECT_EQ(found->second, to) << "the reverse plan is not the inverse";
    }
  }
}

/// Lengths of the pieces that are contiguous on both sides, over several blocks, by brute force.
std::vector<std::uint64_t> joint_pieces(CopyPlan const& plan, std::vector<BlockId> const& blocks) {
  std::map<ByteAddress, ByteAddress> moves;
  for (BlockId const block : blocks) {
    moves.merge(walk(plan, block, block));
  }
  std::vector<std::uint64_t> pieces;
  ByteAddress last_dst{~0U, 0};
  ByteAddress last_src{~0U, 0};
  for (auto const& [dst, src] : moves) {
    bool const follows = dst == ByteAddress{last_dst.first, last_dst.second + 1} &&
                         src == ByteAddress{last_src.first, last_src.second + 1};
    if (!follows) { pieces.push_back(0); }
    ++pieces.back();
    last_dst = dst;
    last_src = src;
  }
  return pieces;
}

std::vector<BlockId> two_ranges() {
  std::vector<BlockId> ids;
  for (BlockId id = 0; id < 16; ++id) {
    ids.push_back(id);
  }
  for (BlockId id = 32; id < 48; ++id) {
    ids.push_back(id);
  }
  return ids;
}

TEST(Lower, Q1_LayerSeparateOnBothSidesIsOnePieceALayerAndRangeOfBlocks) {
  auto const config = config_of(64, 4, 2, 2, 2, 4, 2);
  auto const from = separate(config, BlockDimension::First, KvBlockLayout::OperationalNHD);
  auto const to = separate(config, BlockDimension::First, KvBlockLayout::OperationalNHD);
  auto const pieces = joint_pieces(lower(from, to, everything(from)), two_ranges());
  EXPECT_EQ(pieces, std::vector<std::uint64_t>(8, 16 * 2 * config.chunk_bytes()));
}

TEST(Lower, Q1_LayerSeparateIntoContiguousIsOnePieceALayerAndBlock) {
  auto const config = config_of(64, 4, 2, 2, 2, 4, 2);
  auto const from = separate(config, BlockDimension::First, KvBlockLayout::OperationalNHD);
  auto const to = contiguous(config, KvBlockLayout::OperationalNHD);
  auto const pieces = joint_pieces(lower(from, to, everything(from)), two_ranges());
  EXPECT_EQ(pieces, std::vector<std::uint64_t>(4 * 32, 2 * config.chunk_bytes()));
}

TEST(Lower, Q1_HeadsAndTokensSwappedAreOnePieceAHeadRow) {
  auto const config = config_of(4, 2, 2, 16, 4, 8, 2);
  auto const from = contiguous(config, KvBlockLayout::OperationalNHD);
  auto const to = contiguous(config, KvBlockLayout::OperationalHND);
  auto const plan = lower(from, to, everything(from));
  EXPECT_EQ(plan.shape.run_bytes, 8U * 2U);
  EXPECT_EQ(plan.runs_per_block(), 2U * 2U * 16U * 4U);
}

TEST(Lower, Q2_AddressOfAnElementIsTheOneComputedByHand) {
  auto const config = config_of(8, 2, 2, 16, 8, 128, 2);
  auto const from = separate(config, BlockDimension::First, KvBlockLayout::OperationalNHD);
  auto const to = contiguous(config, KvBlockLayout::OperationalNHD);
  // Layer 1, outer 1, page 5, head 2, element 10 of block 3: from the start of layer 1's region
  // 3 * 65536 + 32768 + 5 * 2048 + 2 * 256 + 10 * 2.
  auto const moves = walk(lower(from, to, everything(from)), 3, 0);
  ByteAddress const in_block{0, 65536 + 32768 + 5 * 2048 + 2 * 256 + 10 * 2};
  EXPECT_EQ(moves.at(in_block), (ByteAddress{1, 240148}));
}

TEST(Lower, Q2_BlocksAreRenumberedAndIdsBeyondTheLayoutRefused) {
  auto const config = config_of(8, 2, 2, 2, 2, 4, 2);
  auto const from = contiguous(config, KvBlockLayout::OperationalNHD);
  auto const to = contiguous(config, KvBlockLayout::OperationalNHD);
  auto const plan = lower(from, to, everything(from));
  for (auto const& [src, dst] : {std::pair<BlockId, BlockId>{0, 5}, {2, 1}}) {
    auto const moves = walk(plan, src, dst);
    EXPECT_EQ(moves.begin()->first, (ByteAddress{0, dst * config.block_bytes()}));
    EXPECT_EQ(moves.begin()->second, (ByteAddress{0, src * config.block_bytes()}));
  }
  auto const pair = validate_pair(from, to, {});
  std::vector<BlockId> const src{0};
  std::vector<BlockId> const dst{99};
  EXPECT_THROW(validate_blocks(pair, src, dst), Error);
}

TEST(Lower, Q3_AShardOfTheHeadsIsOneRunATokenAtItsStripe) {
  auto const shard = contiguous(config_of(2, 2, 2, 16, 4, 64, 2), KvBlockLayout::OperationalNHD);
  auto const whole = contiguous(config_of(2, 2, 2, 16, 16, 64, 2), KvBlockLayout::OperationalNHD);
  auto const plan = lower(shard, whole, {{0, 2}, {0, 4}, {4, 8}});  // rank 1 of 4
  EXPECT_EQ(plan.shape.run_bytes, 512U);
  EXPECT_EQ(plan.runs_per_block(), 2U * 2U * 16U);
  EXPECT_EQ(plan.dst.segments.front().offset, 512U);
  auto const moves = walk(plan, 0, 0);
  for (std::uint64_t token = 0; token < 16; ++token) {
    EXPECT_EQ(moves.at({0, token * 2048 + 512}), (ByteAddress{0, token * 512}));
    EXPECT_FALSE(moves.contains({0, token * 2048 + 511}));
    EXPECT_FALSE(moves.contains({0, token * 2048 + 1024}));
  }
}

TEST(Lower, Q7_AnInnermostDimensionThatIsNotContiguousIsCopiedElementByElement) {
  auto const config = config_of(2, 2, 2, 2, 2, 4, 2);
  auto const apart =
      contiguous(config, KvBlockLayout::Custom({BlockDim::HeadDim, BlockDim::Head, BlockDim::Layer,
                                                BlockDim::Token, BlockDim::Outer}));
  auto const nhd = contiguous(config, KvBlockLayout::OperationalNHD);
  auto const plan = lower(apart, nhd, everything(nhd));
  EXPECT_EQ(plan.shape.run_bytes, 2U);
  EXPECT_EQ(walk(plan, 0, 1), oracle(apart, nhd, everything(nhd), 0, 1));
}

TEST(Lower, PlanSizeDoesNotDependOnTheNumberOfBlocks) {
  auto const small = contiguous(config_of(2, 2, 2, 2, 2, 2, 1), KvBlockLayout::OperationalNHD);
  auto const large = contiguous(config_of(4096, 2, 2, 2, 2, 2, 1), KvBlockLayout::UniversalTP);
  auto const plan = lower(small, large, everything(small));
  EXPECT_EQ(plan.src.segments.size() + plan.dst.segments.size(), 2U);
}

}  // namespace
}  // namespace kvbm::transfer
