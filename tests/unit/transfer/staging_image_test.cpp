// SPDX-License-Identifier: Apache-2.0
#include "transfer/staging_image.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <random>
#include <set>
#include <utility>
#include <vector>

#include "kvbm/testing/layout_cases.hpp"
#include "kvbm/transfer/validate.hpp"

namespace kvbm::transfer {
namespace {

using layout::LayoutConfig;
using layout::PhysicalLayout;
using testing::Image;
using testing::Part;

using ByteAddress = std::pair<std::uint32_t, std::uint64_t>;  // region, offset

/// Where every byte of the image's first blocks is at the other end, by walking a hop.
/// @param from_image  which side of its template is the image
std::multimap<std::uint64_t, ByteAddress> walk(StagingImage const& image,
                                               StagingImage::Hop const& hop, bool from_image,
                                               std::vector<BlockId> const& blocks) {
  std::multimap<std::uint64_t, ByteAddress> bytes;
  for (std::size_t i = 0; i < blocks.size(); ++i) {
    for (std::size_t s = 0; s < hop.segments.size(); ++s) {
      std::uint64_t steps = 1;
      for (std::uint32_t d = 0; d < hop.shape.num_dims; ++d) {
        steps *= hop.shape.dims[d].extent;
      }
      for (std::uint64_t step = 0; step < steps; ++step) {
        std::uint64_t rest = step;
        std::uint64_t in_image = hop.image_segments.at(s) + i * image.block_bytes;
        std::uint64_t outside = hop.segments[s].offset + blocks[i] * hop.block_stride;
        for (std::uint32_t d = hop.shape.num_dims; d-- > 0;) {
          auto const& dim = hop.shape.dims[d];
          std::uint64_t const at = rest % dim.extent;
          in_image += at * static_cast<std::uint64_t>(from_image ? dim.src_stride : dim.dst_stride);
          outside += at * static_cast<std::uint64_t>(from_image ? dim.dst_stride : dim.src_stride);
          rest /= dim.extent;
        }
        for (std::uint64_t byte = 0; byte < hop.shape.run_bytes; ++byte) {
          bytes.insert({in_image + byte, {hop.segments[s].region, outside + byte}});
        }
      }
    }
  }
  return bytes;
}

/// Contiguous pieces of a set of bytes.
std::uint64_t count_pieces(std::multimap<std::uint64_t, ByteAddress> const& bytes) {
  std::set<ByteAddress> addresses;
  for (auto const& [in_image, address] : bytes) {
    addresses.insert(address);
  }
  std::uint64_t pieces = 0;
  for (auto const& [region, offset] : addresses) {
    pieces += offset == 0 || !addresses.contains({region, offset - 1});
  }
  return pieces;
}

/// A part of the blocks, and the same for lower().
struct Chosen {
  Part part;
  Selection selection;
};

class StagingImages : public ::testing::Test {
 protected:
  static constexpr unsigned kSeed = 20261124;
  static constexpr std::uint64_t kBlocks = 4;

  std::uint64_t pick(std::uint64_t low, std::uint64_t high) {
    return std::uniform_int_distribution<std::uint64_t>(low, high)(random_);
  }
  LayoutConfig random_config() {
    std::uint64_t const heads = pick(1, 4);
    return LayoutConfig::builder()
        .num_blocks(kBlocks)
        .num_layers(pick(1, 3))
        .outer_dim(pick(1, 2))
        .page_size(std::uint64_t{1} << pick(0, 2))
        .inner_dim(heads * pick(1, 4))
        .num_heads(heads)
        .dtype_width_bytes(std::uint64_t{1} << pick(0, 3))
        .alignment(pick(0, 2) == 0 ? 64 : 1)
        .build();
  }
  Chosen random_part(PhysicalLayout const& layout) {
    auto const& extents = layout.geometry().extents;
    Part part = testing::whole(layout);
    if (pick(0, 1) == 1) {
      part.layers.begin = pick(0, extents[0] - 1);
      part.layers.end = pick(part.layers.begin + 1, extents[0]);
    }
    if (pick(0, 1) == 1) {
      std::uint64_t const heads = pick(1, extents[3]);
      std::uint64_t const from = pick(0, extents[3] - heads);
      std::uint64_t const to = pick(0, extents[3] - heads);
      part.src_heads = {from, from + heads};
      part.dst_heads = {to, to + heads};
    }
    return {part, {part.layers, part.src_heads, part.dst_heads}};
  }
  PhysicalLayout make(LayoutConfig const& config, testing::LayoutShape const& shape) {
    return testing::make_layout(source_, config, shape, memory::StorageKind::System);
  }

  static std::vector<std::uintptr_t> addresses(std::vector<SegmentBase> const& segments,
                                               PhysicalLayout const& layout) {
    std::vector<std::uintptr_t> found;
    for (auto const& segment : segments) {
      found.push_back(layout.regions()[segment.region].address() + segment.offset);
    }
    return found;
  }

  /// Runs one hop between an image in `memory` and a layout.
  static void run_hop(StagingImage const& image, StagingImage::Hop const& hop, bool from_image,
                      std::vector<std::byte>& memory, PhysicalLayout const& layout,
                      std::vector<BlockId> const& ids) {
    std::vector<std::uintptr_t> in_image;
    for (auto const offset : hop.image_segments) {
      in_image.push_back(reinterpret_cast<std::uintptr_t>(memory.data()) + offset);
    }
    auto const outside = addresses(hop.segments, layout);
    auto const image_ids = testing::first_blocks(ids.size());
    ASSERT_EQ(in_image.size(), outside.size());
    kvbm_copy_boxes const boxes{outside.size(),
                                from_image ? in_image.data() : outside.data(),
                                from_image ? outside.data() : in_image.data(),
                                from_image ? image.block_bytes : hop.block_stride,
                                from_image ? hop.block_stride : image.block_bytes,
                                ids.size(),
                                from_image ? image_ids.data() : ids.data(),
                                from_image ? ids.data() : image_ids.data()};
    ASSERT_EQ(kvbm_cpu_strided_copy(&hop.shape, &boxes), KVBM_STATUS_OK);
  }

  void expect_right(PhysicalLayout const& src, PhysicalLayout const& dst, Chosen const& chosen,
                    Side host_side) {
    auto const plan = lower(src, dst, chosen.selection);
    auto const image = make_staging_image(plan, host_side);
    bool const to_host = host_side == Side::Destination;
    ASSERT_EQ(image.block_bytes, plan.bytes_per_block);

    std::vector<BlockId> const src_ids{3, 0, 1};
    std::vector<BlockId> const dst_ids{1, 2, 0};
    std::size_t const bytes = image.block_bytes * src_ids.size();
    for (bool const host : {false, true}) {
      auto const walked = walk(image, host ? image.host : image.device, host == to_host,
                               testing::first_blocks(src_ids.size()));
      std::uint64_t next = 0;
      for (auto const& [in_image, address] : walked) {
        ASSERT_EQ(in_image, next++)
            << "of the image, in the " << (host ? "host" : "device") << "'s hop";
      }
      ASSERT_EQ(next, bytes);
    }
    EXPECT_EQ(image.pieces_per_block, count_pieces(walk(image, image.host, to_host, {0})));
    EXPECT_EQ(image.blocks_adjoin, count_pieces(walk(image, image.host, to_host, {0, 1})) == 1);

    testing::write_all_blocks(src, 1);
    testing::write_all_blocks(dst, 2);
    Image source = testing::snapshot(src);
    Image expected = testing::snapshot(dst);
    testing::copy_elements(src, source, src_ids, dst, expected, dst_ids, chosen.part);
    std::vector<std::byte> memory(bytes + 64, std::byte{0xEE});
    run_hop(image, to_host ? image.device : image.host, false, memory, src, src_ids);
    run_hop(image, to_host ? image.host : image.device, true, memory, dst, dst_ids);
    EXPECT_EQ(testing::snapshot(dst), expected);
    EXPECT_EQ(testing::snapshot(src), source);
    EXPECT_TRUE(std::all_of(memory.begin() + static_cast<std::ptrdiff_t>(bytes), memory.end(),
                            [](std::byte b) { return b == std::byte{0xEE}; }))
        << "behind the image";
  }

  std::mt19937 random_{kSeed};
  std::shared_ptr<memory::MemorySource> source_ = memory::make_host_memory_source();
};

TEST_F(StagingImages, PropertyTwoHopsAreTheDirectCopyThroughACompactImage) {
  auto const shapes = testing::every_shape();
  for (auto const& from : shapes) {
    for (auto const& to : shapes) {
      for (int round = 0; round < 4; ++round) {
        auto const config = random_config();
        auto const src = make(config, from);
        auto const dst = make(config, to);
        auto const chosen = random_part(src);
        for (auto const side : {Side::Source, Side::Destination}) {
          SCOPED_TRACE(::testing::Message()
                       << "seed " << kSeed << ", " << src.to_string() << " -> " << dst.to_string()
                       << ", layers " << to_string(chosen.part.layers) << ", heads "
                       << to_string(chosen.part.src_heads) << " -> "
                       << to_string(chosen.part.dst_heads) << ", host "
                       << (side == Side::Source ? "source" : "destination"));
          expect_right(src, dst, chosen, side);
          if (HasFailure()) { return; }
        }
      }
    }
  }
}

TEST_F(StagingImages, WholeContiguousBlocksOnTheHostAreOnePieceWhateverTheDeviceHas) {
  auto const config = LayoutConfig::builder()
                          .num_blocks(kBlocks)
                          .num_layers(3)
                          .page_size(4)
                          .inner_dim(8)
                          .num_heads(2)
                          .build();
  for (auto const& host_shape : testing::every_shape()) {
    if (host_shape.kind != layout::LayoutKind::FullyContiguous) { continue; }
    auto const host = make(config, host_shape);
    for (auto const& device_shape : testing::every_shape()) {
      SCOPED_TRACE(device_shape.name() + " -> " + host_shape.name());
      auto const device = make(config, device_shape);
      Selection const all{{0, 3}, {0, 2}, {0, 2}};
      auto const image = make_staging_image(lower(device, host, all), Side::Destination);
      EXPECT_EQ(image.pieces_per_block, 1U);
      EXPECT_TRUE(image.blocks_adjoin);
      EXPECT_EQ(image.host.shape.num_dims, 0U);
      EXPECT_EQ(image.host.shape.run_bytes, config.block_bytes());
    }
  }
}

TEST_F(StagingImages, SomeLayersOfAContiguousHostBlockAreOnePieceThatDoesNotAdjoinTheNext) {
  auto const layers = LayoutConfig::builder()
                          .num_blocks(kBlocks)
                          .num_layers(4)
                          .page_size(2)
                          .inner_dim(4)
                          .num_heads(2)
                          .build();
  auto const host = make(layers, testing::contiguous(layout::KvBlockLayout::OperationalNHD));
  auto const device = make(layers, testing::layer_wise(layout::BlockDimension::Second,
                                                       layout::KvBlockLayout::OperationalHND));
  auto const image =
      make_staging_image(lower(host, device, {{1, 3}, {0, 2}, {0, 2}}), Side::Source);
  EXPECT_EQ(image.pieces_per_block, 1U);
  EXPECT_FALSE(image.blocks_adjoin);
}

}  // namespace
}  // namespace kvbm::transfer
