// SPDX-License-Identifier: Apache-2.0
//
// Every storage pair, kind pair and format pair, with options and element widths in rotation.
#include <cstdlib>

#include "contract/transfer_fixture.hpp"

namespace kvbm::testing {
namespace {

using StoragePair = std::tuple<StorageKind, StorageKind>;

std::string name_of(::testing::TestParamInfo<StoragePair> const& info) {
  return std::string(memory::to_string(std::get<0>(info.param))) + "To" +
         std::string(memory::to_string(std::get<1>(info.param)));
}

class TransferContract : public TransferTest, public ::testing::WithParamInterface<StoragePair> {
 protected:
  static constexpr std::array<std::uint64_t, 4> kWidths{1, 2, 4, 8};

  PhysicalLayout const& cached(bool is_source, std::uint64_t width, LayoutShape const& shape,
                               std::uint64_t alignment) {
    return layouts_.get(is_source, width, shape, alignment, [&] {
      auto const storage = is_source ? std::get<0>(GetParam()) : std::get<1>(GetParam());
      auto const layout = make(small_config(5, width, 4, 4, alignment), shape, storage);
      if (is_source) { write(layout, 7 + width); }
      return layout;
    });
  }

  static bool are_possible(LayoutShape const& src, LayoutShape const& dst) {
    return is_possible(src, std::get<0>(GetParam())) && is_possible(dst, std::get<1>(GetParam()));
  }

  LayoutCache layouts_;
};

INSTANTIATE_TEST_SUITE_P(Storage, TransferContract,
                         ::testing::Combine(::testing::ValuesIn(kAllStorage),
                                            ::testing::ValuesIn(kAllStorage)),
                         name_of);

TEST_P(TransferContract, P1_P12_P15_S2_T2_EveryKindAndFormatMovesExactlyTheChosenElements) {
  auto const shapes = every_shape();
  std::size_t const stride = std::getenv("KVBM_TEST_QUICK") != nullptr ? 7 : 1;
  std::size_t number = 0;
  for (std::size_t a = 0; a < shapes.size(); ++a) {
    for (std::size_t b = 0; b < shapes.size(); ++b, ++number) {
      if (number % stride != 0 || !are_possible(shapes[a], shapes[b])) { continue; }
      // Strides without common factors, so that every option meets every width and shape.
      std::uint64_t const width = kWidths[(a + b + number / 20) % kWidths.size()];
      auto const& src = cached(true, width, shapes[a], 1);
      auto const& dst = cached(false, width, shapes[b], number % 3 == 0 ? 64 : 1);
      auto const [part, options] = rotation(a * 3 + b, src);
      SCOPED_TRACE(shapes[a].name() + " -> " + shapes[b].name() + ", width " +
                   std::to_string(width) + ", layers " + to_string(part.layers) + ", heads " +
                   to_string(part.src_heads) + " -> " + to_string(part.dst_heads));
      write(dst, 1000 + number);
      check_move(src, {3, 1}, dst, {0, 2}, part, options);
      if (HasFailure()) { return; }
    }
  }
}

TEST_P(TransferContract, P1_P5_BounceBufferStagesWithGuardsAroundIt) {
  auto const config = small_config(6);
  std::vector<LayoutShape> const shapes{
      contiguous(KvBlockLayout::OperationalNHD),
      layer_wise(BlockDimension::First, KvBlockLayout::OperationalNHD),
      layer_wise(BlockDimension::Second, KvBlockLayout::OperationalHND)};
  auto const bounce = make(config, shapes[0], StorageKind::Pinned);
  auto const handle = manager_.register_layout(bounce);
  for (auto const& a : shapes) {
    for (auto const& b : shapes) {
      if (!are_possible(a, b)) { continue; }
      for (bool const one_layer : {false, true}) {
        SCOPED_TRACE(a.name() + " -> " + b.name() + (one_layer ? " layer 0" : ""));
        auto const src = make(config, a, std::get<0>(GetParam()));
        auto const dst = make(config, b, std::get<1>(GetParam()));
        write(src, 1);
        write(dst, 2);
        write_all_blocks(bounce, 3);
        auto const guards = snapshot(bounce);
        TransferOptions options;
        options.bounce_buffer = BounceBuffer::from_handle(handle, {0, 1});
        Part part = whole(src);
        if (one_layer) { options.layer_range = part.layers = {0, 1}; }
        check_move(src, {0, 1}, dst, {3, 4}, part, options);
        auto const now = snapshot(bounce);
        std::size_t const used = 2 * bounce.geometry().block_stride;
        EXPECT_TRUE(std::equal(now[0].begin() + static_cast<std::ptrdiff_t>(used), now[0].end(),
                               guards[0].begin() + static_cast<std::ptrdiff_t>(used)))
            << "bounce blocks that were not lent changed";
      }
    }
  }
}

TEST_P(TransferContract, P6_P7_LayerByLayerEqualsTheWhole) {
  auto const config = small_config(4, 2, 4, 2);
  for (auto const& a : {contiguous(KvBlockLayout::OperationalNHD),
                        layer_wise(BlockDimension::First, KvBlockLayout::OperationalNHD)}) {
    for (auto const& b : {contiguous(KvBlockLayout::UniversalTP),
                          layer_wise(BlockDimension::Second, KvBlockLayout::OperationalNHD)}) {
      if (!are_possible(a, b)) { continue; }
      SCOPED_TRACE(a.name() + " -> " + b.name());
      auto const src = make(config, a, std::get<0>(GetParam()));
      auto const dst = make(config, b, std::get<1>(GetParam()));
      write(src, 1);
      write(dst, 2);
      Image source = image_of(src);
      Image expected = image_of(dst);
      copy_elements(src, source, {0, 1}, dst, expected, {2, 3}, whole(src));
      for (std::uint64_t layer = 0; layer < 2; ++layer) {
        move(src, {0, 1}, dst, {2, 3},
             TransferOptions::builder().layer_range(layer, layer + 1).build())
            .wait();
      }
      expect_image(dst, expected);
    }
  }
}

class RoundTrip : public TransferTest {};

TEST_F(RoundTrip, P2_ThroughAnyThirdLayoutRestoresTheBlocks) {
  auto const config = small_config(4);
  std::vector<LayoutShape> const shapes{
      contiguous(KvBlockLayout::OperationalNHD),
      layer_wise(BlockDimension::First, KvBlockLayout::OperationalNHD)};
  std::vector<std::vector<PhysicalLayout>> rows;  // three of every shape and storage
  for (int i = 0; i < 3; ++i) {
    auto& row = rows.emplace_back();
    for (auto const& shape : shapes) {
      for (auto const storage : kMemoryStorage) {
        row.push_back(make(config, shape, storage));
      }
    }
  }
  for (auto const& first : rows[0]) {
    for (auto const& second : rows[1]) {
      for (auto const& third : rows[2]) {
        SCOPED_TRACE(first.to_string() + " -> " + second.to_string() + " -> " + third.to_string());
        write(first, 11);
        write(second, 12);
        write(third, 13);
        move(first, {0, 1}, second, {0, 1}).wait();
        move(second, {0, 1}, third, {2, 3}).wait();
        for (BlockId const block : {0U, 1U}) {
          EXPECT_EQ(count_differences(third, block + 2, 11, block), 0U);
          EXPECT_EQ(count_differences(third, block, 13, block), 0U) << "a guard changed";
        }
      }
    }
  }
}

TEST_F(RoundTrip, P4_LargeBlockCountsArriveCompletely) {
  for (auto const& shape : {contiguous(KvBlockLayout::OperationalNHD),
                            layer_wise(BlockDimension::First, KvBlockLayout::OperationalNHD)}) {
    for (std::uint64_t const count : {1024U, 2048U, 4096U, 8192U, 16384U}) {
      SCOPED_TRACE(shape.name() + " " + std::to_string(count));
      auto const config = LayoutConfig::builder()
                              .num_blocks(count)
                              .num_layers(2)
                              .page_size(2)
                              .inner_dim(4)
                              .num_heads(2)
                              .build();
      auto const src = make(config, shape, StorageKind::Pinned);
      auto const dst = make(config, shape, StorageKind::Device);
      write(src, count);
      auto const ids = all(src);
      std::vector<BlockId> const reversed(ids.rbegin(), ids.rend());
      move(src, ids, dst, reversed).wait();
      EXPECT_EQ(count_differences(dst, reversed, count, ids), 0U);
    }
  }
}

TEST_F(RoundTrip, P4_TwoHundredThousandChunksInOneTransfer) {
  // 25,000 blocks of 4 layers with K and V apart: 200,000 pieces, more than a grid has.
  auto const config = LayoutConfig::builder()
                          .num_blocks(25'000)
                          .num_layers(4)
                          .page_size(1)
                          .inner_dim(4)
                          .num_heads(1)
                          .build();
  auto const src = make(config, layer_wise(BlockDimension::Second, KvBlockLayout::OperationalNHD),
                        StorageKind::Pinned);
  auto const dst = make(config, contiguous(KvBlockLayout::UniversalTP), StorageKind::Device);
  write(src, 5);
  move(src, all(src), dst, all(dst)).wait();
  EXPECT_EQ(count_differences(dst, all(dst), 5, all(dst)), 0U);
}

TEST_F(RoundTrip, P8_WholeBlocksOfOneFormatAreOnePieceAndAllOthersAreNot) {
  auto const config = small_config(2);
  auto const fc = make(config, contiguous(KvBlockLayout::OperationalNHD), StorageKind::System);
  auto const fc2 = make(config, contiguous(KvBlockLayout::OperationalNHD), StorageKind::System);
  auto const tp = make(config, contiguous(KvBlockLayout::UniversalTP), StorageKind::System);
  auto const lw = make(config, layer_wise(BlockDimension::First, KvBlockLayout::OperationalNHD),
                       StorageKind::System);
  auto const pieces = [this](PhysicalLayout const& src, PhysicalLayout const& dst,
                             TransferOptions const& options = {}) {
    auto const plan = manager_
                          .explain_transfer(transfer::KvBlocks::of(src, {0}),
                                            transfer::KvBlocks::of(dst, {1}), options)
                          .plan;
    return plan.runs_per_block();
  };
  auto const layers = [](std::uint64_t begin, std::uint64_t end) {
    return TransferOptions::builder().layer_range(begin, end).build();
  };
  EXPECT_EQ(pieces(fc, fc2), 1U);
  EXPECT_EQ(pieces(fc, fc2, layers(0, 4)), 1U);
  EXPECT_EQ(pieces(fc, fc2, layers(0, 1)), 1U) << "a layer of NHD is one piece too";
  EXPECT_EQ(pieces(fc, lw), 4U) << "one a layer";
  EXPECT_EQ(pieces(lw, lw.with_format(KvBlockLayout::OperationalNHD), layers(0, 2)), 2U);
  EXPECT_EQ(pieces(fc, tp), 4U * 4U * 2U * 4U) << "one a row of head_dim";
  auto const as_tp = TransferOptions::builder().src_kv_layout(KvBlockLayout::UniversalTP).build();
  EXPECT_EQ(pieces(fc, tp, as_tp), 1U) << "read as UniversalTP nothing has to be rearranged";
}

TEST_F(RoundTrip, P10_OddChunkSizesAndBaseAddressesMoveExactly) {
  for (std::uint64_t const inner : {1U, 2U, 3U, 4U, 8U, 12U, 15U, 16U, 17U, 31U, 4097U}) {
    for (std::uint64_t const shift : {0U, 1U, 2U, 4U, 8U}) {
      SCOPED_TRACE("inner " + std::to_string(inner) + ", base + " + std::to_string(shift));
      auto const config = LayoutConfig::builder()
                              .num_blocks(3)
                              .num_layers(2)
                              .page_size(1)
                              .inner_dim(inner)
                              .num_heads(1)
                              .dtype_width_bytes(1)
                              .build();
      std::uint64_t const bytes = 3 * config.block_bytes();
      std::vector<std::byte> src_memory(bytes + 16);
      std::vector<std::byte> dst_memory(bytes + 16, std::byte{0xEE});
      auto const external = [&](std::vector<std::byte>& memory, std::uint64_t offset) {
        return manager_.layout_builder()
            .config(config)
            .fully_contiguous(KvBlockLayout::OperationalNHD)
            .with_external_regions({{memory.data() + offset, bytes, StorageKind::System, {}}})
            .build();
      };
      auto const src = external(src_memory, shift);
      auto const dst = external(dst_memory, 8 - shift);
      write(src, inner);
      auto const device =
          make(config, layer_wise(BlockDimension::First, KvBlockLayout::OperationalNHD),
               StorageKind::Device);
      move(src, {2, 0}, dst, {0, 1}).wait();
      move(src, {1}, device, {2}).wait();
      move(device, {2}, dst, {2}).wait();
      EXPECT_EQ(count_differences(dst, 0, inner, 2), 0U);
      EXPECT_EQ(count_differences(dst, 1, inner, 0), 0U);
      EXPECT_EQ(count_differences(dst, 2, inner, 1), 0U);
      for (std::uint64_t i = 0; i < dst_memory.size(); ++i) {
        bool const is_guard = i < 8 - shift || i >= 8 - shift + bytes;
        ASSERT_TRUE(!is_guard || dst_memory[i] == std::byte{0xEE}) << "guard byte " << i;
      }
    }
  }
}

}  // namespace
}  // namespace kvbm::testing
