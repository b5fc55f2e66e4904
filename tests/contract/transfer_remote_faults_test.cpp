// SPDX-License-Identifier: Apache-2.0
//
// Transfers from and to a peer that fail, are stopped, share a bounce buffer, or are many.
#include <algorithm>
#include <set>
#include <stop_token>
#include <thread>

#include "contract/transfer_remote_fixture.hpp"

namespace kvbm::testing {
namespace {

/// A strategy and a direction; seven blocks between our memory and the peer's.
using Way7 = std::tuple<Strategy, bool>;

std::string name_of(::testing::TestParamInfo<Way7> const& info) {
  return std::string(transfer::to_string(std::get<0>(info.param))) +
         (std::get<1>(info.param) ? "ToPeer" : "FromPeer");
}

class RemoteFaults : public RemoteTest, public ::testing::WithParamInterface<Way7> {
 protected:
  static constexpr std::size_t kBlocks = 7;

  RemoteFaults()
      : config_(small_config(kBlocks)),
        ours_(make_ours(config_, layer_wise(BlockDimension::First, KvBlockLayout::OperationalNHD),
                        StorageKind::Device)),
        theirs_(make(config_, contiguous(KvBlockLayout::UniversalTP), StorageKind::System)) {
    write(src(), 1);
  }

  [[nodiscard]] static Strategy strategy() { return std::get<0>(GetParam()); }
  [[nodiscard]] static bool to_peer() { return std::get<1>(GetParam()); }
  [[nodiscard]] PhysicalLayout const& src() const { return to_peer() ? ours_ : theirs_; }
  [[nodiscard]] PhysicalLayout const& dst() const { return to_peer() ? theirs_ : ours_; }
  [[nodiscard]] static TransferOptions options() { return with(strategy()); }
  PreparedTransfer prepared(TransferOptions const& options) {
    return prepare(ours_, theirs_, to_peer(), options);
  }

  /// Every block of the destination is either moved, or named as failed and as it was.
  void expect_exactly_failed(TransferCompleteNotification const& notification) {
    std::set<std::size_t> failed;
    for (auto const& block : notification.failed_blocks()) {
      EXPECT_NE(block.error, nullptr);
      EXPECT_TRUE(failed.insert(block.position).second) << "named twice: " << block.position;
    }
    for (BlockId i = 0; i < kBlocks; ++i) {
      EXPECT_EQ(count_differences(dst(), i, failed.contains(i) ? 2 : 1, i), 0U)
          << "block " << i << (failed.contains(i) ? ", told to have failed" : "");
    }
  }
  /// @param num_lent  pieces of landing memory that earlier transfers still have
  void expect_works(std::size_t num_lent = 0) {
    write(dst(), 2);
    auto const ids = first_blocks(kBlocks);
    prepared(options()).submit(ids, ids).wait();
    EXPECT_EQ(count_differences(dst(), ids, 1, ids), 0U);
    EXPECT_EQ(peer_->num_lent(), num_lent);
  }

  LayoutConfig config_;
  PhysicalLayout ours_;
  PhysicalLayout theirs_;
};

INSTANTIATE_TEST_SUITE_P(Way, RemoteFaults,
                         ::testing::Combine(::testing::ValuesIn(kRemoteStrategies),
                                            ::testing::Bool()),
                         name_of);

TEST_P(RemoteFaults, P13_AFailureAtAnyStepNamesExactlyTheBlocksThatDidNotArrive) {
  auto const ids = first_blocks(kBlocks);
  auto const before = peer_->num_steps();
  expect_works();
  auto const num_steps = peer_->num_steps() - before;
  EXPECT_GE(num_steps, strategy() == Strategy::DirectRemote ? 1U : 3U) << "too few to tell apart";
  auto const transfer = prepared(options());
  for (std::uint64_t n = 0; n < num_steps; ++n) {
    SCOPED_TRACE("step " + std::to_string(n) + " of " + std::to_string(num_steps));
    write(dst(), 2);
    peer_->fail_step(n);
    auto const notification = transfer.submit(ids, ids);
    auto const failure = failure_of_call([&] {
      notification.wait();
      return 0;
    });
    EXPECT_EQ(failure.code, ErrorCode::PeerLost) << failure.message;
    EXPECT_TRUE(failure.names(peer_->name())) << failure.message;
    EXPECT_FALSE(notification.failed_blocks().empty());
    if (strategy() != Strategy::DirectRemote) {
      EXPECT_LT(notification.failed_blocks().size(), kBlocks) << "one batch takes all with it";
    }
    expect_exactly_failed(notification);
    peer_->fail_no_step();
    expect_works();
    if (HasFailure()) { return; }
  }
}

TEST_P(RemoteFaults, N5_ATimeoutOrATokenEndsAMoveThatHangs) {
  auto const ids = first_blocks(kBlocks);
  for (bool const by_token : {false, true}) {
    SCOPED_TRACE(by_token ? "token" : "timeout");
    write(dst(), 2);
    peer_->hold();
    std::stop_source source;
    auto stoppable = options();
    if (by_token) {
      stoppable.cancellation = source.get_token();
    } else {
      stoppable.timeout = std::chrono::milliseconds(20);
    }
    auto const notification = prepared(stoppable).submit(ids, ids);
    if (by_token) {
      peer_->wait_until_held();
      source.request_stop();
    }
    auto const failure = failure_of_call([&] {
      notification.wait();
      return 0;
    });
    EXPECT_EQ(failure.code, by_token ? ErrorCode::Cancelled : ErrorCode::Timeout)
        << failure.message;
    EXPECT_TRUE(failure.names(peer_->name())) << failure.message;
    EXPECT_EQ(notification.failed_blocks().size(), kBlocks);
    expect_exactly_failed(notification);
    peer_->release();
    expect_works();
  }
}

TEST_P(RemoteFaults, N5_WhatAGivenUpMoveMayStillTouchIsKeptFromOthers) {
  auto const ids = first_blocks(kBlocks);
  write(dst(), 2);
  peer_->hold();
  peer_->keep_holds();
  std::stop_source source;
  auto stoppable = options();
  stoppable.cancellation = source.get_token();
  auto const notification = prepared(stoppable).submit(ids, ids);
  peer_->wait_until_held();
  source.request_stop();
  EXPECT_EQ(failure_of_call([&] {
              notification.wait();
              return 0;
            }).code,
            ErrorCode::Cancelled);
  peer_->release();
  if (strategy() == Strategy::DirectRemote) {
    auto const failure = failure_of_call([&] { return prepared(options()).submit(ids, ids); });
    EXPECT_EQ(failure.code, ErrorCode::Busy) << "the wire may still touch our blocks";
    EXPECT_TRUE(failure.names(peer_->name())) << failure.message;
  } else {
    // Through staging and landing memory that nobody else has.
    expect_works(strategy() == Strategy::PackedRemote ? 1 : 0);
  }
  EXPECT_GE(peer_->let_go(), 1U);
  expect_works();
}

TEST_P(RemoteFaults, N5_TransfersBehindAHangingPeerEndAtTheirDeadlineToo) {
  constexpr std::size_t kMoreThanThreads = 16;
  write(dst(), 2);
  peer_->hold();
  std::stop_source source;
  auto hanging = options();
  hanging.cancellation = source.get_token();
  auto const held = prepared(hanging);
  auto limited = options();
  limited.timeout = std::chrono::milliseconds(20);
  auto const waiting = prepared(limited);
  std::vector<TransferCompleteNotification> first;
  for (BlockId i = 0; i < 2; ++i) {
    first.push_back(held.submit(std::vector{i}, std::vector{i}));
  }
  peer_->wait_until_held(2);
  std::vector<TransferCompleteNotification> others;
  for (std::size_t i = 0; i < kMoreThanThreads; ++i) {
    others.push_back(waiting.submit(std::vector<BlockId>{4}, std::vector<BlockId>{4}));
  }
  for (auto const& notification : others) {
    EXPECT_EQ(failure_of_call([&] {
                notification.wait();
                return 0;
              }).code,
              ErrorCode::Timeout);
  }
  for (auto const& notification : first) {
    EXPECT_FALSE(notification.is_ready());
  }
  source.request_stop();
  for (auto const& notification : first) {
    EXPECT_EQ(failure_of_call([&] {
                notification.wait();
                return 0;
              }).code,
              ErrorCode::Cancelled);
  }
  peer_->release();
  EXPECT_EQ(count_differences(dst(), all(dst()), 2, all(dst())), 0U);
  expect_works();
}

TEST_P(RemoteFaults, P13_APeerThatIsGoneIsToldAtOnceAndMayComeBack) {
  auto const transfer = prepared(options());
  peer_->set_gone(true);
  auto const failure = failure_of_call([&] { return transfer.submit(all(ours_), all(theirs_)); });
  EXPECT_EQ(failure.code, ErrorCode::PeerLost);
  EXPECT_TRUE(failure.names(peer_->name())) << failure.message;
  peer_->set_gone(false);
  expect_works();
}

TEST_P(RemoteFaults, P14_TransfersThatOutliveTheirHandlesEndBeforeTheContext) {
  write(dst(), 2);
  auto const ids = first_blocks(kBlocks);
  peer_->hold();
  auto const notification = prepared(options()).submit(ids, ids);
  peer_->wait_until_held();
  std::thread end([&] { context_.reset(); });  // waits for what is under way
  peer_->release();
  end.join();
  EXPECT_TRUE(notification.is_ready());
  notification.wait();
  EXPECT_EQ(count_differences(dst(), ids, 1, ids), 0U);
  EXPECT_EQ(peer_->num_lent(), 0U);
}

/// Bounce buffers: whether the wire knows them, and whether they are in the peer's order.
using BounceCase = std::tuple<StorageKind, bool, bool>;

std::string name_of_bounce(::testing::TestParamInfo<BounceCase> const& info) {
  return std::string(memory::to_string(std::get<0>(info.param))) +
         (std::get<1>(info.param) ? "Known" : "Unknown") +
         (std::get<2>(info.param) ? "LikePeer" : "Other");
}

class RemoteBounce : public RemoteTest, public ::testing::WithParamInterface<BounceCase> {};

INSTANTIATE_TEST_SUITE_P(Case, RemoteBounce,
                         ::testing::Combine(::testing::ValuesIn(kAllStorage), ::testing::Bool(),
                                            ::testing::Bool()),
                         name_of_bounce);

TEST_P(RemoteBounce, P13_P5_AnyNumberOfBounceBlocksMovesEverythingInBothDirections) {
  auto const& [storage, is_known, like_peer] = GetParam();
  auto const config = small_config(7);
  auto const layered = layer_wise(BlockDimension::First, KvBlockLayout::OperationalNHD);
  auto const ours = make_ours(
      config, is_possible(layered, storage) ? layered : contiguous(KvBlockLayout::OperationalNHD),
      storage);
  auto const theirs = make(config, contiguous(KvBlockLayout::OperationalHND), StorageKind::System);
  auto const bounce =
      make(small_config(10),
           contiguous(like_peer ? KvBlockLayout::OperationalHND : KvBlockLayout::UniversalTP),
           StorageKind::Pinned);
  if (is_known) { peer_->reach(bounce); }
  auto const known = peer_->num_local();
  for (std::vector<BlockId> const& ids :
       {std::vector<BlockId>{4}, {4, 2}, {4, 2, 7}, {4, 2, 7, 1, 5}, {4, 2, 7, 1, 5, 8, 9, 3}}) {
    for (std::size_t const count : {7U, 1U}) {
      for (bool const to_peer : {true, false}) {
        SCOPED_TRACE(std::to_string(ids.size()) + " bounce blocks, " + std::to_string(count) +
                     " blocks" + (to_peer ? ", to the peer" : ""));
        write(ours, 1 + (to_peer ? 0U : 1U));
        write(theirs, 2 - (to_peer ? 0U : 1U));
        write(bounce, 3);
        std::vector<BlockId> src_ids{6, 0, 1, 2, 5, 4, 3};
        auto dst_ids = first_blocks(7);
        src_ids.resize(count);
        dst_ids.resize(count);
        auto const steps = peer_->num_steps();
        check_remote(ours, theirs, to_peer, src_ids, dst_ids, whole(ours),
                     with(Strategy::StagedRemote), ResolvedBounce{{bounce, nullptr}, ids});
        if (count == 7) {
          std::size_t const per_batch = ids.size() == 1 ? 1 : ids.size() / 2;
          EXPECT_GE(peer_->num_steps() - steps, (count + per_batch - 1) / per_batch);
        }
        for (BlockId block = 0; block < 10; ++block) {
          if (std::ranges::find(ids, block) != ids.end()) { continue; }
          EXPECT_EQ(count_differences(bounce, block, 3, block), 0U) << "bounce block " << block;
        }
        if (HasFailure()) { return; }
      }
    }
  }
  // Staging of a peer's two threads at most is still exposed.
  EXPECT_LE(peer_->num_local(), known + 2) << "bounce buffers are still exposed";
}

TEST_F(RemoteTest, P13_TransfersOverOneBounceBufferTakeTurns) {
  auto const config = small_config(7);
  auto const shape = contiguous(KvBlockLayout::OperationalNHD);
  auto const first = make_ours(config, shape, StorageKind::Pinned);
  auto const second = make_ours(config, shape, StorageKind::Pinned);
  auto const theirs = make(small_config(14), shape, StorageKind::System);
  auto const bounce = make_ours(small_config(4), shape, StorageKind::Pinned);
  write(theirs, 1);
  auto const ids = first_blocks(7);
  std::vector<BlockId> const others{7, 8, 9, 10, 11, 12, 13};
  for (int round = 0; round < 10; ++round) {
    write(first, 2);
    write(second, 3);
    auto const a = prepare(first, theirs, false, with(Strategy::StagedRemote),
                           ResolvedBounce{{bounce, nullptr}, {0, 1, 2}})
                       .submit(ids, ids);
    auto const b = prepare(second, theirs, false, with(Strategy::StagedRemote),
                           ResolvedBounce{{bounce, nullptr}, {2, 3}})
                       .submit(others, ids);
    b.wait();
    a.wait();
    EXPECT_EQ(count_differences(first, ids, 1, ids), 0U);
    EXPECT_EQ(count_differences(second, ids, 1, others), 0U);
  }
}

TEST_F(RemoteTest, P13_ABounceBufferOfAPeerIsRefused) {
  auto const shape = contiguous(KvBlockLayout::OperationalNHD);
  auto const ours = make_ours(small_config(4), shape, StorageKind::Pinned);
  auto const theirs = make(small_config(4), shape, StorageKind::System);
  auto const bounce = peer_->lend(make(small_config(4), shape, StorageKind::Pinned));
  auto const failure = failure_of_call(
      [&] { return prepare(ours, theirs, true, {}, ResolvedBounce{bounce, {0, 1}}); });
  EXPECT_EQ(failure.code, ErrorCode::InvalidArgument);
  EXPECT_TRUE(failure.names("bounce_buffer")) << failure.message;
}

TEST_F(RemoteTest, P13_AFailureOfOurFileLeavesTheOtherBlocks) {
  auto const config = small_config(7);
  auto const shape = contiguous(KvBlockLayout::OperationalNHD);
  auto const file = make(config, shape, StorageKind::Disk);
  auto const filled = like_in_memory(file);
  write(filled, 1);
  // Blocks 2, 3 and 5 were never written: reading them fails, and with them all of one batch.
  std::vector<BlockId> const written{0, 1, 4, 6};
  move(filled, written, file, written).wait();
  auto const theirs = make(config, contiguous(KvBlockLayout::UniversalTP), StorageKind::System);
  auto const ids = first_blocks(7);
  for (auto const strategy : {Strategy::StagedRemote, Strategy::PackedRemote}) {
    write(theirs, 2);
    auto options = with(strategy);
    options.nixl_write_notification = 1;
    auto const notification = prepare(file, theirs, true, options).submit(ids, ids);
    EXPECT_EQ(failure_of_call([&] {
                notification.wait();
                return 0;
              }).code,
              ErrorCode::NotFound);
    std::vector<std::size_t> failed;
    for (auto const& block : notification.failed_blocks()) {
      failed.push_back(block.position);
    }
    EXPECT_EQ(failed, (std::vector<std::size_t>{2, 3, 5}));
    for (BlockId const id : ids) {
      bool const missing = id == 2 || id == 3 || id == 5;
      EXPECT_EQ(count_differences(theirs, id, missing ? 2 : 1, id), 0U) << "block " << id;
    }
    EXPECT_TRUE(peer_->notified().empty());
  }
}

TEST_F(RemoteTest, P13_OfAnImageFourBatchesAreOnTheirWayAtOnce) {
  auto const config = small_config(60);
  auto const ours =
      make_ours(config, contiguous(KvBlockLayout::OperationalNHD), StorageKind::Pinned);
  auto const theirs = make(config, contiguous(KvBlockLayout::UniversalTP), StorageKind::System);
  auto const from = first_blocks(60);
  std::vector<BlockId> const to(from.rbegin(), from.rend());
  for (bool const to_peer : {true, false}) {
    SCOPED_TRACE(to_peer ? "to the peer" : "from the peer");
    write(ours, to_peer ? 1 : 2);
    write(theirs, to_peer ? 2 : 1);
    peer_->hold();
    auto const notification =
        prepare(ours, theirs, to_peer, with(Strategy::PackedRemote)).submit(from, to);
    peer_->wait_until_held(4);
    peer_->release();
    notification.wait();
    EXPECT_EQ(count_differences(to_peer ? theirs : ours, to, 1, from), 0U);
  }
}

TEST_F(RemoteTest, P14_TwoHundredFromEightThreadsInEveryWayAndDirection) {
  constexpr std::size_t kTransfers = 200;
  constexpr std::size_t kThreads = 8;
  auto const config = small_config(2 * kTransfers, 1, 2, 1);
  auto const shape = contiguous(KvBlockLayout::OperationalNHD);
  auto const ours = make_ours(config, shape, StorageKind::Pinned);
  auto const theirs = make(config, contiguous(KvBlockLayout::UniversalTP), StorageKind::System);
  write(ours, 1);
  write(theirs, 2);
  std::vector<PreparedTransfer> ways;
  for (bool const to_peer : {true, false}) {
    for (auto const strategy : kRemoteStrategies) {
      ways.push_back(prepare(ours, theirs, to_peer, with(strategy)));
    }
  }
  // Blocks [0, kTransfers) of ours go to the peer's, and the others of the peer's to ours.
  peer_->hold();
  std::vector<TransferCompleteNotification> outstanding(kTransfers);
  std::vector<std::thread> threads;
  for (std::size_t t = 0; t < kThreads; ++t) {
    threads.emplace_back([&, t] {
      for (std::size_t i = t; i < kTransfers; i += kThreads) {
        std::size_t const way = (i / kThreads + t) % ways.size();
        auto const id = static_cast<BlockId>(way < 3 ? i : i + kTransfers);
        outstanding[i] = ways[way].submit(std::vector{id}, std::vector{id});
      }
    });
  }
  for (auto& thread : threads) {
    thread.join();
  }
  for (auto const& notification : outstanding) {
    EXPECT_FALSE(notification.is_ready());
  }
  peer_->release();
  for (auto const& notification : outstanding) {
    notification.wait();
  }
  for (std::size_t i = 0; i < kTransfers; ++i) {
    bool const to_peer = (i / kThreads + i % kThreads) % ways.size() < 3;
    auto const id = static_cast<BlockId>(to_peer ? i : i + kTransfers);
    EXPECT_EQ(count_differences(to_peer ? theirs : ours, id, to_peer ? 1 : 2, id), 0U);
    auto const other = static_cast<BlockId>(to_peer ? i + kTransfers : i);
    EXPECT_EQ(count_differences(theirs, other, 2, other), 0U) << "was nobody's";
    EXPECT_EQ(count_differences(ours, other, 1, other), 0U) << "was nobody's";
  }
}

}  // namespace
}  // namespace kvbm::testing
