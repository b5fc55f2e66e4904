// SPDX-License-Identifier: Apache-2.0
//
// Transfers from and to a peer over a wire in this process: what arrives, in how many runs, and
// which ways are taken or refused.
#include <cstdlib>

#include "contract/transfer_remote_fixture.hpp"

namespace kvbm::testing {
namespace {

/// Our storage, the peer's, whether it goes to the peer, and the strategy (none: the cheapest).
using RemoteCase = std::tuple<StorageKind, StorageKind, bool, std::optional<Strategy>>;

std::string name_of(::testing::TestParamInfo<RemoteCase> const& info) {
  auto const& [ours, theirs, to_peer, strategy] = info.param;
  return std::string(memory::to_string(ours)) + (to_peer ? "To" : "From") + "Peers" +
         std::string(memory::to_string(theirs)) +
         (strategy ? std::string(transfer::to_string(*strategy)) : std::string("Automatic"));
}

class RemoteContract : public RemoteTest, public ::testing::WithParamInterface<RemoteCase> {
 protected:
  static constexpr std::array<std::uint64_t, 4> kWidths{1, 2, 4, 8};
  static constexpr std::uint64_t kBlocks = 8;

  [[nodiscard]] bool is_refused() const {
    return memory::is_store(std::get<0>(GetParam())) &&
           std::get<3>(GetParam()) == Strategy::DirectRemote;
  }

  PhysicalLayout const& cached(bool is_ours, std::uint64_t width, LayoutShape const& shape,
                               std::uint64_t alignment) {
    return layouts_.get(is_ours, width, shape, alignment, [&] {
      auto const config = small_config(kBlocks, width, 4, 4, alignment);
      bool const is_source = is_ours == std::get<2>(GetParam());
      auto const layout = is_ours ? make_ours(config, shape, std::get<0>(GetParam()))
                                  : make(config, shape, std::get<1>(GetParam()));
      if (is_source) { write(layout, 7 + width); }
      return layout;
    });
  }

  LayoutCache layouts_;
};

INSTANTIATE_TEST_SUITE_P(
    Case, RemoteContract,
    ::testing::Combine(::testing::ValuesIn(kAllStorage), ::testing::ValuesIn(kMemoryStorage),
                       ::testing::Bool(),
                       ::testing::Values(std::optional<Strategy>{}, Strategy::DirectRemote,
                                         Strategy::StagedRemote, Strategy::PackedRemote)),
    name_of);

TEST_P(RemoteContract, P12_P15_Q5_Q6_EveryPairOfShapesMovesExactlyTheChosenElements) {
  std::array const shapes{contiguous(KvBlockLayout::OperationalNHD),
                          contiguous(KvBlockLayout::UniversalTP),
                          layer_wise(BlockDimension::First, KvBlockLayout::OperationalHND),
                          layer_wise(BlockDimension::Second, KvBlockLayout::OperationalNHD)};
  // Scattered, neighbours, more than the staging holds in any order, one, none.
  std::vector<std::pair<std::vector<BlockId>, std::vector<BlockId>>> const ids{
      {{3, 1}, {0, 2}},
      {{0, 1, 2, 3, 4, 5, 6}, {1, 2, 3, 4, 5, 6, 7}},
      {{6, 2, 5, 1, 0, 3, 7}, {1, 3, 0, 6, 5, 2, 4}},
      {{5}, {5}},
      {{}, {}}};
  auto const& [our_storage, their_storage, to_peer, strategy] = GetParam();
  std::size_t const stride = std::getenv("KVBM_TEST_QUICK") != nullptr ? 7 : 1;
  std::size_t number = 0;
  for (auto const& a : shapes) {
    for (auto const& b : shapes) {
      for (std::size_t const which : {0U, 2U, 3U, 4U}) {  // whole, layers, heads, both
        if (number++ % stride != 0 || !is_possible(a, our_storage)) { continue; }
        std::uint64_t const width = kWidths[(number + number / 4) % kWidths.size()];
        auto const& ours = cached(true, width, a, number % 3 == 0 ? 64 : 1);
        auto const& theirs = cached(false, width, b, number % 5 == 0 ? 64 : 1);
        auto [part, options] = rotation(which, ours);
        options.strategy = strategy;
        auto const& [from, to] = ids[(number + number / 5) % ids.size()];
        SCOPED_TRACE(a.name() + (to_peer ? " -> " : " <- ") + b.name() + ", width " +
                     std::to_string(width) + ", layers " + to_string(part.layers) + ", heads " +
                     to_string(part.src_heads) + " -> " + to_string(part.dst_heads) + ", " +
                     std::to_string(from.size()) + " blocks");
        if (is_refused()) {
          EXPECT_EQ(failure_of_call([&] { return prepare(ours, theirs, to_peer, options); }).code,
                    ErrorCode::Unsupported);
          return;
        }
        write(to_peer ? theirs : ours, 1000 + number);
        check_remote(ours, theirs, to_peer, from, to, part, options);
        if (HasFailure()) { return; }
      }
    }
  }
}

TEST_P(RemoteContract, P3_NotificationComesAfterTheDataAndOnlyOnce) {
  if (is_refused()) { return; }
  auto const& [our_storage, their_storage, to_peer, strategy] = GetParam();
  auto const& ours = cached(true, 2, contiguous(KvBlockLayout::OperationalNHD), 1);
  auto const& theirs =
      cached(false, 2, layer_wise(BlockDimension::First, KvBlockLayout::OperationalNHD), 1);
  TransferOptions options;
  options.strategy = strategy;
  options.nixl_write_notification = 0xFEED;
  if (!to_peer) {
    auto const failure = failure_of_call([&] { return prepare(ours, theirs, to_peer, options); });
    EXPECT_EQ(failure.code, ErrorCode::Unsupported);
    EXPECT_TRUE(failure.names("nixl_write_notification")) << failure.message;
    return;
  }
  write(theirs, 1);
  std::vector<BlockId> const ids{0, 1, 2, 3, 4, 5, 6};
  std::uint64_t differences = 1;
  peer_->on_notify([&, logical = ids](std::uint64_t) {
    differences = count_differences(theirs, logical, 7 + 2, logical);
  });
  auto const prepared = prepare(ours, theirs, to_peer, options);
  prepared.submit(ids, ids).wait();
  EXPECT_EQ(differences, 0U) << "the peer was told before the data was there";
  EXPECT_EQ(peer_->notified(), std::vector<std::uint64_t>{0xFEED});
  prepared.submit({}, {}).wait();
  EXPECT_EQ(peer_->notified().size(), 2U) << "nothing to move is done at once, and told";

  peer_->fail_step(0);
  EXPECT_EQ(failure_of_call([&] {
              prepared.submit(ids, ids).wait();
              return 0;
            }).code,
            ErrorCode::PeerLost);
  EXPECT_EQ(peer_->notified().size(), 2U) << "a transfer that failed was told";

  peer_->fail_no_step();
  peer_->fail_notify(true);
  auto const untold = prepared.submit(ids, ids);
  EXPECT_EQ(failure_of_call([&] {
              untold.wait();
              return 0;
            }).code,
            ErrorCode::PeerLost);
  EXPECT_TRUE(untold.failed_blocks().empty()) << "the blocks did arrive";
}

/// How many runs the wire is asked for.
class RemoteRuns : public RemoteTest {
 protected:
  std::uint64_t runs_of(PhysicalLayout const& ours, PhysicalLayout const& theirs,
                        std::vector<BlockId> const& src_ids, std::vector<BlockId> const& dst_ids) {
    for (bool const to_peer : {true, false}) {
      auto const before = peer_->num_runs();
      check_remote(ours, theirs, to_peer, src_ids, dst_ids, whole(ours),
                   with(Strategy::DirectRemote));
      auto const explained =
          prepare(ours, theirs, to_peer, with(Strategy::DirectRemote)).explain(src_ids, dst_ids);
      EXPECT_GE(explained.choice.remote->num_runs, peer_->num_runs() - before);
      if (!to_peer) { return peer_->num_runs() - before; }
    }
    return 0;
  }
};

TEST_F(RemoteRuns, Q1_NeighbouringBlocksAreOneRunInEveryRegion) {
  auto const config = small_config(8);
  std::vector<BlockId> const from{0, 1, 2, 3, 4, 5, 6};
  std::vector<BlockId> const to{1, 2, 3, 4, 5, 6, 7};
  std::vector<BlockId> const scattered{6, 0, 2, 1, 4, 3, 5};
  struct Expectation {
    LayoutShape shape;
    std::uint64_t runs;  // of one group of neighbours
  };
  for (auto const& [shape, runs] :
       {Expectation{contiguous(KvBlockLayout::OperationalNHD), 1},
        Expectation{layer_wise(BlockDimension::First, KvBlockLayout::OperationalNHD), 4},
        Expectation{layer_wise(BlockDimension::Second, KvBlockLayout::OperationalNHD), 8}}) {
    SCOPED_TRACE(shape.name());
    auto const ours = make_ours(config, shape, StorageKind::Pinned);
    auto const theirs = make(config, shape, StorageKind::System);
    write(ours, 1);
    write(theirs, 2);
    EXPECT_EQ(runs_of(ours, theirs, from, to), runs);
    EXPECT_EQ(runs_of(ours, theirs, {0, 1, 5, 6, 7}, {3, 4, 5, 6, 0}), 3 * runs);
    EXPECT_EQ(runs_of(ours, theirs, from, scattered), 7 * runs);
  }
}

TEST_F(RemoteRuns, Q7_RegionsThatTouchAreNotMerged) {
  auto const config = small_config(4);
  for (auto const dimension : {BlockDimension::First, BlockDimension::Second}) {
    auto const shape = layer_wise(dimension, KvBlockLayout::OperationalNHD);
    auto const bytes =
        layout::make_geometry(config, shape.kind, dimension, shape.format).region_bytes;
    auto const abutting = [&] {
      auto const memory = manager_.memory_source()->allocate(
          {StorageKind::Pinned, config.num_layers() * bytes, memory::kRegionAlignment, -1});
      std::vector<memory::Region> regions;
      for (std::uint64_t layer = 0; layer < config.num_layers(); ++layer) {
        regions.push_back(memory.subregion(layer * bytes, bytes));
      }
      return manager_.layout_builder()
          .config(config)
          .layer_separate(dimension, shape.format)
          .with_regions(std::move(regions))
          .build();
    };
    auto const ours = abutting();
    auto const theirs = abutting();
    peer_->reach(ours);
    write(ours, 1);
    write(theirs, 2);
    // All blocks: the end of a region is followed by the start of the next on both sides.
    EXPECT_EQ(runs_of(ours, theirs, all(ours), all(ours)), 4U) << "one a region";
  }
}

TEST_F(RemoteTest, S1_ExplainNamesThePeerAndEveryHop) {
  auto const shape = contiguous(KvBlockLayout::OperationalNHD);
  auto const ours = make_ours(small_config(8), shape, StorageKind::Pinned);
  auto const theirs = make(small_config(8), shape, StorageKind::System);
  std::vector<BlockId> const ids{0, 1};
  for (bool const to_peer : {true, false}) {
    for (auto const& [strategy, hops] :
         {std::pair(Strategy::DirectRemote, 1U), std::pair(Strategy::StagedRemote, 2U),
          std::pair(Strategy::PackedRemote, 3U)}) {
      auto const explained = prepare(ours, theirs, to_peer, with(strategy)).explain(ids, ids);
      EXPECT_EQ(explained.decision.strategy, strategy);
      ASSERT_EQ(explained.hops.size(), hops) << explained.to_string();
      auto const& far = to_peer ? explained.hops.back() : explained.hops.front();
      EXPECT_NE(far.find(peer_->name() + "'s System"), std::string::npos) << explained.to_string();
    }
    EXPECT_EQ(prepare(ours, theirs, to_peer).explain(ids, ids).decision.strategy,
              Strategy::DirectRemote);
  }
  EXPECT_EQ(peer_->num_steps(), 0U) << "explaining moves nothing";
}

TEST_F(RemoteTest, S1_MemoryThatTheWireDoesNotReachIsStaged) {
  auto const shape = contiguous(KvBlockLayout::OperationalNHD);
  auto const ours = make(small_config(8), shape, StorageKind::System);  // not told to the peer
  auto const theirs = make(small_config(8), shape, StorageKind::System);
  write(ours, 1);
  write(theirs, 2);
  for (bool const to_peer : {true, false}) {
    auto const explained =
        prepare(ours, theirs, to_peer).explain(std::vector<BlockId>{0}, std::vector<BlockId>{0});
    EXPECT_EQ(explained.decision.strategy, Strategy::StagedRemote);
    check_remote(ours, theirs, to_peer, {0, 1, 2}, {3, 5, 4}, whole(ours), {});
    auto const failure = failure_of_call(
        [&] { return prepare(ours, theirs, to_peer, with(Strategy::DirectRemote)); });
    EXPECT_EQ(failure.code, ErrorCode::Unsupported);
    EXPECT_TRUE(failure.names("register")) << failure.message;
  }
}

TEST_F(RemoteTest, S1_APeerThatLendsTooLittleIsNotAskedForImages) {
  auto const config = small_config(4, 8, 16);  // 12 KiB a block
  auto const shape = contiguous(KvBlockLayout::OperationalNHD);
  auto const ours = make_ours(config, shape, StorageKind::Pinned);
  auto const theirs = make(config, shape, StorageKind::Pinned);
  auto const failure =
      failure_of_call([&] { return prepare(ours, theirs, true, with(Strategy::PackedRemote)); });
  EXPECT_EQ(failure.code, ErrorCode::Unsupported);
  EXPECT_TRUE(failure.names("landing")) << failure.message;
}

TEST_F(RemoteTest, M4_BetweenTwoPeersIsRefused) {
  auto const shape = contiguous(KvBlockLayout::OperationalNHD);
  auto const a = peer_->lend(make(small_config(4), shape, StorageKind::System));
  auto const b = peer_->lend(make(small_config(4), shape, StorageKind::System));
  auto const failure =
      failure_of_call([&] { return PreparedTransfer::prepare(context_, a, b, {}, {}); });
  EXPECT_EQ(failure.code, ErrorCode::Unsupported);
  EXPECT_TRUE(failure.names("other workers")) << failure.message;
}

TEST_F(RemoteTest, P11_O2_ACallersStreamIsRefused) {
  auto const shape = contiguous(KvBlockLayout::OperationalNHD);
  auto const ours = make_ours(small_config(4), shape, StorageKind::Device);
  auto const theirs = make(small_config(4), shape, StorageKind::System);
  TransferOptions options;
  options.cuda_stream = context_->acquire_h2d_stream();
  for (bool const to_peer : {true, false}) {
    auto const failure = failure_of_call([&] { return prepare(ours, theirs, to_peer, options); });
    EXPECT_EQ(failure.code, ErrorCode::Unsupported);
    EXPECT_TRUE(failure.names("stream")) << failure.message;
  }
}

TEST_F(RemoteTest, P11_WaitsForEventsAndHoldsStreamsUp) {
  auto const shape = contiguous(KvBlockLayout::OperationalNHD);
  auto const ours = make_ours(small_config(4), shape, StorageKind::Device);
  auto const theirs = make(small_config(4), shape, StorageKind::System);
  write(ours, 1);
  write(theirs, 2);
  StreamLatch latch(own_stream("writer"));
  auto const behind = own_stream("behind");
  TransferOptions options;
  options.wait_for = {event_behind(latch)};
  options.record_on = {behind};
  auto const notification = prepare(ours, theirs, true, options).submit(all(ours), all(ours));
  std::uint64_t differences = 1;
  behind->enqueue([&] { differences = count_differences(theirs, all(theirs), 1, all(theirs)); });
  EXPECT_FALSE(notification.is_ready());
  EXPECT_EQ(peer_->num_steps(), 0U);
  latch.open();
  notification.wait();
  behind->synchronize();
  EXPECT_EQ(differences, 0U);
}

TEST_F(RemoteTest, S1_MappedMemoryOfAPeerIsMovedLocallyAndThePeerIsTold) {
  auto const shape = contiguous(KvBlockLayout::OperationalNHD);
  auto const ours = make(small_config(4), shape, StorageKind::Pinned);
  auto const theirs = make(small_config(4), shape, StorageKind::Pinned);
  write(ours, 1);
  write(theirs, 2);
  Endpoint far{theirs, nullptr};
  far.peer = peer_;
  far.is_mapped = true;
  auto const options = TransferOptions::builder().nixl_write_notification(5).build();
  auto const to = PreparedTransfer::prepare(context_, {ours, nullptr}, far, {}, options);
  EXPECT_EQ(to.explain(all(ours), all(ours)).decision.strategy, Strategy::HostCopy);
  to.submit(all(ours), all(ours)).wait();
  EXPECT_EQ(count_differences(theirs, all(theirs), 1, all(theirs)), 0U);
  EXPECT_EQ(peer_->notified(), std::vector<std::uint64_t>{5});
  EXPECT_EQ(peer_->num_steps(), 0U);
}

}  // namespace
}  // namespace kvbm::testing
