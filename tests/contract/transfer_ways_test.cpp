// SPDX-License-Identifier: Apache-2.0
//
// What every way of a GPU moves: all kinds and formats, several slots of the ring, many at a time.
#include <algorithm>
#include <cstdlib>
#include <random>
#include <thread>

#include "contract/way_fixture.hpp"

namespace kvbm::testing {
namespace {

using transfer::KvBlocks;
using transfer::Strategy;

class Ways : public WayTest {
 protected:
  static constexpr std::array<std::uint64_t, 4> kWidths{1, 2, 4, 8};

  PhysicalLayout const& cached(bool is_source, std::uint64_t width, LayoutShape const& shape,
                               std::uint64_t alignment) {
    return layouts_.get(is_source, width, shape, alignment, [&] {
      auto const config = small_config(6, width, 4, 4, alignment);
      auto const layout = is_source ? make_src(config, shape) : make_dst(config, shape);
      if (is_source) { write(layout, 7 + width); }
      return layout;
    });
  }

  LayoutCache layouts_;
};

INSTANTIATE_TEST_SUITE_P(Strategy, Ways, ::testing::ValuesIn(every_way()), name_of_way);

TEST_P(Ways, P12_P15_Q5_EveryKindAndFormatMovesExactlyTheChosenElements) {
  // Scattered, a run beside its own ids, neighbours whose order is turned round, one, none.
  std::vector<std::pair<std::vector<BlockId>, std::vector<BlockId>>> const ids{
      {{3, 1}, {0, 2}}, {{1, 2, 3}, {2, 3, 4}}, {{4, 3, 2, 5}, {1, 2, 3, 0}}, {{5}, {0}}, {{}, {}}};
  auto const shapes = every_shape();
  std::size_t const stride = std::getenv("KVBM_TEST_QUICK") != nullptr ? 7 : 1;
  std::size_t number = 0;
  for (std::size_t a = 0; a < shapes.size(); ++a) {
    for (std::size_t b = 0; b < shapes.size(); ++b, ++number) {
      if (number % stride != 0) { continue; }
      std::uint64_t const width = kWidths[(a + b + number / 20) % kWidths.size()];
      auto const& src = cached(true, width, shapes[a], 1);
      auto const& dst = cached(false, width, shapes[b], number % 3 == 0 ? 64 : 1);
      auto [part, options] = rotation(a * 3 + b, src);
      options.strategy = GetParam().strategy;
      auto const& [from, to] = ids[(number + number / 5) % ids.size()];
      SCOPED_TRACE(shapes[a].name() + " -> " + shapes[b].name() + ", width " +
                   std::to_string(width) + ", layers " + to_string(part.layers) + ", heads " +
                   to_string(part.src_heads) + " -> " + to_string(part.dst_heads));
      write(dst, 1000 + number);
      check_move(src, from, dst, to, part, options);
      if (HasFailure()) { return; }
    }
  }
}

TEST_P(Ways, S1_ExplainNamesTheWayAndItsHops) {
  auto const src = small_src(1);
  auto const dst = small_dst(2);
  auto const explained = manager_.explain_transfer(KvBlocks::of(src, {0}), KvBlocks::of(dst, {1}),
                                                   GetParam().options());
  EXPECT_EQ(explained.decision.strategy, GetParam().strategy);
  bool const two_hops =
      GetParam().strategy == Strategy::StagedDma || GetParam().strategy == Strategy::PinnedStaging;
  EXPECT_EQ(explained.hops.size(), two_hops ? 2U : 1U) << explained.to_string();
}

/// Blocks of 128 KiB, enough of them to go round the ring, or through several staging batches.
class ManyBlocks : public WayTest {
 protected:
  static LayoutConfig config(std::uint64_t num_blocks) {
    return LayoutConfig::builder()
        .num_blocks(num_blocks)
        .num_layers(2)
        .page_size(16)
        .inner_dim(4 * 64)
        .num_heads(4)
        .dtype_width_bytes(8)
        .build();
  }
  /// Moves the blocks of `src_ids` and looks at all others of the destination too.
  void expect_moved(LayoutShape const& from, std::vector<BlockId> const& src_ids,
                    LayoutShape const& to, std::vector<BlockId> const& dst_ids,
                    std::uint64_t num_blocks) {
    auto const src = make_src(config(num_blocks), from);
    auto const dst = make_dst(config(num_blocks), to);
    write_all_blocks(src, 1);
    move(src, src_ids, dst, dst_ids, GetParam().options()).wait();
    EXPECT_EQ(count_differences(dst, dst_ids, 1, src_ids), 0U);
    EXPECT_EQ(count_differences(src, all(src), 1, all(src)), 0U) << "the source changed";
    auto const image = snapshot(dst);
    std::vector<bool> written(num_blocks);
    for (BlockId const id : dst_ids) {
      written[id] = true;
    }
    std::uint64_t const stride = dst.geometry().block_stride;
    for (std::uint64_t id = 0; id < num_blocks && dst.kind() == layout::LayoutKind::FullyContiguous;
         ++id) {
      if (written[id]) { continue; }
      auto const first = image[0].begin() + static_cast<std::ptrdiff_t>(id * stride);
      EXPECT_TRUE(std::all_of(first, first + static_cast<std::ptrdiff_t>(stride),
                              [](std::byte byte) { return byte == std::byte{}; }))
          << "block " << id << " was nobody's";
    }
  }
};

INSTANTIATE_TEST_SUITE_P(Strategy, ManyBlocks, ::testing::ValuesIn(every_way()), name_of_way);

TEST_P(ManyBlocks, P4_RunsNeighboursAndRandomOnesArrive) {
  constexpr std::uint64_t kBlocks = 80;
  auto const nhd = layer_wise(BlockDimension::Second, KvBlockLayout::OperationalNHD);
  auto const tp = contiguous(KvBlockLayout::UniversalTP);
  auto neighbours = first_blocks(kBlocks - 6);
  {
    SCOPED_TRACE("neighbours");
    expect_moved(tp, neighbours, tp, neighbours, kBlocks);
  }
  {
    SCOPED_TRACE("runs of five");
    std::vector<BlockId> runs;
    for (BlockId i = 0; i < kBlocks; ++i) {
      if (i % 6 != 5) { runs.push_back(i); }
    }
    std::vector<BlockId> shifted(first_blocks(kBlocks));
    shifted.resize(runs.size());
    expect_moved(nhd, runs, tp, shifted, kBlocks);
  }
  {
    SCOPED_TRACE("random");
    std::mt19937 random(11);
    auto from = first_blocks(kBlocks);
    auto to = from;
    std::ranges::shuffle(from, random);
    std::ranges::shuffle(to, random);
    from.resize(kBlocks - 3);
    to.resize(kBlocks - 3);
    expect_moved(contiguous(KvBlockLayout::OperationalHND), from, nhd, to, kBlocks);
  }
}

/// More than the slots of the ring can hold at a time, so that each is used again.
class RingOfSlots : public ManyBlocks {};

std::vector<Way> ways_of(Strategy strategy) {
  auto ways = every_way();
  std::erase_if(ways, [strategy](Way const& way) { return way.strategy != strategy; });
  return ways;
}

INSTANTIATE_TEST_SUITE_P(Strategy, RingOfSlots, ::testing::ValuesIn(ways_of(Strategy::StagedDma)),
                         name_of_way);

TEST_P(RingOfSlots, P4_SlotsAreFilledAgainOnlyWhenTheyAreEmpty) {
  constexpr std::uint64_t kBlocks = 512;  // 64 MiB
  std::mt19937 random(12);
  auto from = first_blocks(kBlocks);
  auto to = from;
  std::ranges::shuffle(from, random);
  std::ranges::shuffle(to, random);
  from.resize(kBlocks - 5);
  to.resize(kBlocks - 5);
  bool const to_host = GetParam().from == StorageKind::Device;
  auto const host = contiguous(KvBlockLayout::UniversalTP);
  auto const device = layer_wise(BlockDimension::First, KvBlockLayout::OperationalNHD);
  expect_moved(to_host ? device : host, from, to_host ? host : device, to, kBlocks);
}

/// All ways at once, over streams enough that what a thousand transfers enqueue fits into a GPU's
/// queues.
class AllWays : public TransferTest {
 protected:
  AllWays() : TransferTest(std::move(small_manager().num_streams(16, 16))) {}

  static constexpr std::size_t kThreads = 16;

  template <typename Body>
  static void in_threads(Body const& body) {
    std::vector<std::thread> threads;
    for (std::size_t t = 0; t < kThreads; ++t) {
      threads.emplace_back([&body, t] { body(t); });
    }
    for (auto& thread : threads) {
      thread.join();
    }
  }
};

TEST_F(AllWays, P14_AThousandOutstandingFromSixteenThreadsAllComplete) {
  constexpr std::size_t kTransfers = 1008;
  auto const config = small_config(kTransfers, 1, 2, 1);
  auto const shape = contiguous(KvBlockLayout::OperationalNHD);
  auto const pinned = make(config, shape, StorageKind::Pinned);
  auto const system = make(config, shape, StorageKind::System);
  auto const dst = make(config, shape, StorageKind::Device);
  write(pinned, 1);
  write(system, 1);
  std::array const strategies{Strategy::DmaCopy, Strategy::SmCopy, Strategy::StagedDma,
                              Strategy::PinnedStaging};
  StreamLatch latch(own_stream("writer"));
  auto const event = event_behind(latch);
  std::vector<TransferCompleteNotification> outstanding(kTransfers);
  in_threads([&](std::size_t t) {
    for (std::size_t i = t; i < kTransfers; i += kThreads) {
      auto const block = static_cast<BlockId>(i);
      // Sixteen is a multiple of four: every thread takes all ways in turns.
      auto const strategy = strategies[(i / kThreads + t) % strategies.size()];
      auto const& src = strategy == Strategy::PinnedStaging ? system : pinned;
      outstanding[i] = move(src, {block}, dst, {block},
                            TransferOptions::builder().strategy(strategy).wait_for(event).build());
    }
  });
  for (auto const& notification : outstanding) {
    EXPECT_FALSE(notification.is_ready());
  }
  EXPECT_GE(manager_.context().event_system()->num_pending(), kTransfers);
  latch.open();
  TransferCompleteNotification::aggregate(outstanding).wait();
  EXPECT_EQ(count_differences(dst, all(dst), 1, all(dst)), 0U);
}

TEST_F(AllWays, P14_BothDirectionsAtOnceInEveryWay) {
  constexpr int kRounds = 12;
  constexpr std::uint64_t kEach = 4;
  auto const config = small_config(kThreads * kEach);
  auto const host_shape = contiguous(KvBlockLayout::UniversalTP);
  auto const device_shape = layer_wise(BlockDimension::Second, KvBlockLayout::OperationalNHD);
  auto const device = make(config, device_shape, StorageKind::Device);
  std::map<StorageKind, std::array<PhysicalLayout, 2>> hosts;
  for (auto const kind : {StorageKind::System, StorageKind::Pinned}) {
    hosts.emplace(kind, std::array{make(config, host_shape, kind), make(config, host_shape, kind)});
    write(hosts.at(kind)[0], 5);
  }
  std::vector<Way> up;
  std::vector<Way> down;
  for (auto const& way : every_way()) {
    if (way.from != StorageKind::Device) { up.push_back(way); }
    if (way.to != StorageKind::Device) { down.push_back(way); }
  }
  in_threads([&](std::size_t t) {
    std::vector<BlockId> ids;
    for (std::uint64_t i = 0; i < kEach; ++i) {
      ids.push_back(static_cast<BlockId>(t + i * kThreads));
    }
    for (int round = 0; round < kRounds; ++round) {
      auto const number = t + static_cast<std::size_t>(round);
      auto const& a = up[number % up.size()];
      auto const& b = down[number / 2 % down.size()];
      move(hosts.at(a.from)[0], ids, device, ids, a.options()).wait();
      auto const& back = hosts.at(b.to)[1];
      move(device, ids, back, ids, b.options()).wait();
      EXPECT_EQ(count_differences(back, ids, 5, ids), 0U) << a.name() << ", " << b.name();
    }
  });
}

TEST_F(AllWays, P9_RoundTripOnAGpuOfContiguousAndLayerSeparateBlocks) {
  if (!on_cuda()) { GTEST_SKIP() << "no CUDA device: these tests run on an emulated one"; }
  auto const config = small_config(4);
  for (auto const& shape : {contiguous(KvBlockLayout::OperationalNHD),
                            layer_wise(BlockDimension::First, KvBlockLayout::OperationalNHD)}) {
    auto const host = make(config, shape, StorageKind::Pinned);
    auto const device = make(config, shape, StorageKind::Device);
    auto const back = make(config, shape, StorageKind::Pinned);
    write(host, 9);
    move(host, {0, 1}, device, {2, 3}).wait();
    move(device, {2, 3}, back, {1, 0}).wait();
    EXPECT_EQ(count_differences(back, std::vector<BlockId>{1, 0}, 9, std::vector<BlockId>{0, 1}),
              0U);
  }
}

TEST_F(AllWays, P3_DeviceMemoryOfAGpuToDiskWithoutABounceBuffer) {
  if (!on_cuda()) { GTEST_SKIP() << "no CUDA device: these tests run on an emulated one"; }
  auto const config = small_config(16);
  auto const shape = contiguous(KvBlockLayout::OperationalNHD);
  auto const device = make(config, shape, StorageKind::Device);
  auto const file = make(config, shape, StorageKind::Disk);
  auto const back = make(config, shape, StorageKind::Device);
  write(device, 9);
  move(device, all(device), file, all(file)).wait();
  move(file, all(file), back, all(back)).wait();
  EXPECT_EQ(count_differences(back, all(back), 9, all(back)), 0U);
}

}  // namespace
}  // namespace kvbm::testing
