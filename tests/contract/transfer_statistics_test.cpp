// SPDX-License-Identifier: Apache-2.0
//
// Every way in which a transfer can end is counted, once.
#include <atomic>
#include <cerrno>
#include <chrono>
#include <stop_token>
#include <thread>

#include "contract/transfer_remote_fixture.hpp"
#include "kvbm/testing/gated_disk.hpp"
#include "kvbm/testing/transfer_books.hpp"

namespace kvbm::testing {
namespace {

using namespace std::chrono_literals;
using transfer::Reach;
using transfer::Route;
using transfer::TransferCounts;

class Statistics : public TransferTest {
 protected:
  Statistics() : Statistics(std::make_unique<GatedDisk>()) {}

  PhysicalLayout make_plain(StorageKind storage, std::uint64_t num_blocks = 8) {
    return make(small_config(num_blocks), contiguous(KvBlockLayout::OperationalNHD), storage);
  }
  [[nodiscard]] TransferCounts counts(StorageKind src, StorageKind dst,
                                      Reach reach = Reach::Local) const {
    auto const stats = manager_.statistics().transfers;
    expect_balanced(stats);
    return stats.of({src, dst, reach});
  }
  /// One transfer of `num_blocks` blocks that went well.
  static void expect_completed(TransferCounts const& counts, std::uint64_t num_blocks) {
    EXPECT_EQ(counts.submitted, 1U);
    EXPECT_EQ(counts.completed, 1U);
    EXPECT_EQ(counts.bytes_completed, num_blocks * kBlockBytes);
    EXPECT_EQ(counts.in_flight, 0U);
  }
  /// One transfer that failed, `num_failed` of its `num_blocks` blocks.
  static void expect_failed(TransferCounts const& counts, std::uint64_t num_blocks,
                            std::uint64_t num_failed, ErrorCode code) {
    EXPECT_EQ(counts.submitted, 1U);
    EXPECT_EQ(counts.completed, 0U);
    EXPECT_EQ(counts.errors_of(code), 1U);
    EXPECT_EQ(counts.bytes_failed, num_failed * kBlockBytes);
    EXPECT_EQ(counts.bytes_completed, (num_blocks - num_failed) * kBlockBytes);
    EXPECT_EQ(counts.in_flight, 0U);
  }
  /// One transfer that has not ended.
  static void expect_in_flight(TransferCounts const& counts, std::uint64_t num_blocks) {
    EXPECT_EQ(counts.submitted, 1U);
    EXPECT_EQ(counts.in_flight, 1U);
    EXPECT_EQ(counts.bytes_in_flight, num_blocks * kBlockBytes);
  }

  static std::uint64_t const kBlockBytes;
  std::unique_ptr<GatedDisk> disk_;

 private:
  explicit Statistics(std::unique_ptr<GatedDisk> disk)
      : TransferTest(std::move(small_manager().disk_io(disk->io()).num_streams(1, 1))),
        disk_(std::move(disk)) {}
};
std::uint64_t const Statistics::kBlockBytes = small_config(1).block_bytes();

constexpr auto kSystem = StorageKind::System;
constexpr auto kPinned = StorageKind::Pinned;
constexpr auto kDevice = StorageKind::Device;
constexpr auto kDisk = StorageKind::Disk;

TEST_F(Statistics, HostCopiesThatAreReadyAtOnce) {
  auto const src = make_plain(kSystem);
  auto const dst = make_plain(kPinned);
  EXPECT_FALSE(move(src, {0, 1, 2}, dst, {3, 4, 5}).could_yield());
  expect_completed(counts(kSystem, kPinned), 3);
  EXPECT_EQ(counts(kPinned, kSystem).submitted, 0U) << "the other direction is another route";
}

TEST_F(Statistics, HostCopiesThatCouldHaveBeenStopped) {
  auto const src = make_plain(kSystem);
  auto const dst = make_plain(kPinned);
  move(src, {0, 1}, dst, {3, 4}, TransferOptions::builder().timeout(1h).build()).wait();
  expect_completed(counts(kSystem, kPinned), 2);
}

TEST_F(Statistics, OnlyTheMovedPartOfABlockCounts) {
  auto const src = make_plain(kSystem);
  auto const dst = make_plain(kPinned);
  move(src, {0, 1}, dst, {3, 4}, TransferOptions::builder().layer_range(1, 2).build());
  EXPECT_EQ(counts(kSystem, kPinned).bytes_completed, 2 * kBlockBytes / 4) << "a layer of four";
}

TEST_F(Statistics, TransfersOfNoBlocks) {
  move(make_plain(kSystem), {}, make_plain(kPinned), {});
  expect_completed(counts(kSystem, kPinned), 0);
}

TEST_F(Statistics, WhatIsRefusedForItsArgumentsIsNoTransfer) {
  auto const src = make_plain(kSystem);
  auto const dst = make_plain(kPinned);
  EXPECT_THROW(move(src, {0, 99}, dst, {0, 1}), Error);
  EXPECT_THROW(move(src, {0, 1}, dst, {2, 2}), Error);
  EXPECT_TRUE(manager_.statistics().transfers.routes.empty());
}

TEST_F(Statistics, DeviceCopiesAreInFlightUntilTheDeviceIsDone) {
  auto const src = make_plain(kPinned);
  auto const dst = make_plain(kDevice);
  StreamLatch latch(own_stream("writer"));
  auto const notification = move(src, {0, 1}, dst, {3, 4},
                                 TransferOptions::builder().wait_for(event_behind(latch)).build());
  expect_in_flight(counts(kPinned, kDevice), 2);
  latch.open();
  notification.wait();
  expect_completed(counts(kPinned, kDevice), 2);
}

TEST_F(Statistics, CopiesThatOnlyACallersStreamOrdersAreCompletedAtTheirSubmission) {
  auto const src = make_plain(kPinned);
  auto const dst = make_plain(kDevice);
  StreamLatch latch(own_stream("caller"));
  auto const options = TransferOptions::builder()
                           .cuda_stream(latch.stream())
                           .strategy(transfer::Strategy::DmaCopy)
                           .build();
  EXPECT_TRUE(move(src, {0, 1}, dst, {3, 4}, options).is_ready());
  expect_completed(counts(kPinned, kDevice), 2);
  latch.open_and_synchronize();
  expect_completed(counts(kPinned, kDevice), 2);
}

TEST_F(Statistics, WhatWeRunBehindACallersStreamIsInFlightUntilItEnds) {
  auto const src = make_plain(kSystem);
  auto const dst = make_plain(kPinned);
  StreamLatch latch(own_stream("caller"));
  auto const options = TransferOptions::builder().cuda_stream(latch.stream()).build();
  EXPECT_TRUE(move(src, {0, 1}, dst, {3, 4}, options).is_ready());
  expect_in_flight(counts(kSystem, kPinned), 2);
  latch.open_and_synchronize();
  expect_completed(counts(kSystem, kPinned), 2);
}

TEST_F(Statistics, BlocksThatFailedAreToldFromThoseThatArrived) {
  auto const src = make_plain(kPinned);
  auto const file = make_plain(kDisk);
  disk_->fail(EIO, [stride = file.geometry().block_stride](memory::DiskRequest const& request) {
    auto const block = request.offset / stride;
    return request.op == memory::DiskRequest::Op::Write && (block == 2 || block == 6);
  });
  auto const notification = move(src, {0, 1, 2, 3}, file, {0, 2, 4, 6});
  EXPECT_THROW(notification.wait(), Error);
  ASSERT_EQ(notification.failed_blocks().size(), 2U);
  expect_failed(counts(kPinned, kDisk), 4, 2, ErrorCode::Io);
}

TEST_F(Statistics, TransfersThatWereStoppedBeforeTheyBegan) {
  auto const src = make_plain(kPinned);
  auto const dst = make_plain(kDisk);
  auto const host = make_plain(kSystem);
  auto const device = make_plain(kDevice);  // a GPU clears new memory behind what its streams hold
  StreamLatch latch(own_stream("writer"));
  std::stop_source stop;
  auto options = TransferOptions::builder()
                     .wait_for(event_behind(latch))
                     .cancellation(stop.get_token())
                     .build();
  auto const stopped = move(src, {0, 1}, dst, {3, 4}, options);
  expect_in_flight(counts(kPinned, kDisk), 2);
  stop.request_stop();
  EXPECT_THROW(stopped.wait(), CancelledError);
  expect_failed(counts(kPinned, kDisk), 2, 2, ErrorCode::Cancelled);
  EXPECT_EQ(counts(kPinned, kDisk).cancelled, 1U);
  EXPECT_EQ(counts(kPinned, kDisk).failed, 0U);

  options.wait_for.clear();
  EXPECT_THROW(move(src, {0}, host, {1}, options).wait(), CancelledError);
  expect_failed(counts(kPinned, kSystem), 1, 1, ErrorCode::Cancelled);

  auto const late =
      move(src, {0, 1}, device, {3, 4},
           TransferOptions::builder().wait_for(event_behind(latch)).timeout(1ms).build());
  EXPECT_THROW(late.wait(), TimeoutError);
  expect_failed(counts(kPinned, kDevice), 2, 2, ErrorCode::Timeout);
  latch.open();
}

TEST_F(Statistics, TransfersThatWereStoppedOnTheirWay) {
  constexpr std::uint64_t kBlocks = 64;
  auto const src = make(LayoutConfig::builder()
                            .num_blocks(kBlocks)
                            .num_layers(4)
                            .page_size(16)
                            .inner_dim(512)
                            .num_heads(4)
                            .build(),
                        contiguous(KvBlockLayout::OperationalNHD), kPinned);
  auto const file = make(src.config(), contiguous(KvBlockLayout::UniversalTP), kDisk);
  std::stop_source stop;
  disk_->hold([stride = file.geometry().block_stride](memory::DiskRequest const& request) {
    return request.offset / stride == 20;
  });
  auto const notification = move(src, all(src), file, all(file),
                                 TransferOptions::builder().cancellation(stop.get_token()).build());
  disk_->wait_until_held();
  stop.request_stop();
  disk_->open();
  EXPECT_THROW(notification.wait(), CancelledError);
  auto const failed = notification.failed_blocks().size();
  EXPECT_LT(failed, kBlocks);
  auto const counted = counts(kPinned, kDisk);
  EXPECT_EQ(counted.bytes_failed, failed * src.config().block_bytes());
  EXPECT_EQ(counted.bytes_completed, (kBlocks - failed) * src.config().block_bytes());
  EXPECT_EQ(counted.cancelled, 1U);
}

TEST_F(Statistics, SubmissionsThatThrowAfterTheyWereAccepted) {
  if (on_cuda()) { GTEST_SKIP() << "a GPU's allocator reports nothing on a caller's stream"; }
  auto const config = LayoutConfig::builder()
                          .num_blocks(64)
                          .num_layers(2)
                          .page_size(16)
                          .inner_dim(256)
                          .num_heads(4)
                          .dtype_width_bytes(8)
                          .build();
  auto const src = make(config, contiguous(KvBlockLayout::UniversalTP), kPinned);
  auto const dst = make(config, contiguous(KvBlockLayout::OperationalNHD), kDevice);
  auto const& device = *manager_.context().devices().front();
  std::vector<PhysicalLayout> taken;
  for (std::uint64_t bytes = 256U << 20U; bytes >= 4096; bytes /= 2) {
    auto const part = LayoutConfig::builder()
                          .num_blocks(1)
                          .num_layers(1)
                          .page_size(1)
                          .inner_dim(bytes / 4)
                          .num_heads(1)
                          .build();
    try {
      for (;;) {
        taken.push_back(make(part, contiguous(KvBlockLayout::OperationalNHD), kDevice));
      }
    } catch (Error const&) {  // less than that is left
    }
  }
  ASSERT_GT(device.used_bytes(), 200U << 20U);
  auto const stream = own_stream("caller");
  auto options = TransferOptions::builder().strategy(transfer::Strategy::StagedDma).build();
  EXPECT_THROW(move(src, all(src), dst, all(dst), options).wait(), Error);
  options.cuda_stream = stream;
  EXPECT_THROW(move(src, all(src), dst, all(dst), options), Error);
  auto const counted = counts(kPinned, kDevice);
  EXPECT_EQ(counted.submitted, 2U);
  EXPECT_EQ(counted.failed, 2U);
  EXPECT_EQ(counted.errors_of(ErrorCode::OutOfMemory), 2U);
  EXPECT_EQ(counted.bytes_failed, 2 * 64 * config.block_bytes());
}

TEST_F(Statistics, TheManagersEndWaitsForTransfersAndEndsItsSource) {
  auto manager = std::make_unique<TransferManager>(small_manager().build());
  auto const source = manager->statistics_source();
  auto const moved = std::make_unique<TransferManager>(std::move(*manager));
  manager.reset();
  ASSERT_TRUE(source().has_value()) << "a manager that was moved lives on";
  std::atomic<bool> ended{false};
  std::jthread reader([&] {
    while (auto const stats = source()) {
      expect_balanced(stats->transfers);
    }
    ended = true;
  });
  auto const device = moved->context().devices().front();
  auto const src = make_layout(moved->memory_source(), small_config(4),
                               contiguous(KvBlockLayout::OperationalNHD), kPinned);
  auto const dst = make_layout(moved->memory_source(), small_config(4),
                               contiguous(KvBlockLayout::OperationalNHD), kDevice);
  // Starting on a GPU waits for what its streams hold.
  TransferManager next = small_manager().build();
  StreamLatch latch(device->create_stream("writer"));
  auto const event = device->create_event();
  latch.stream()->record(event);
  auto const pending =
      moved->execute_transfer(transfer::KvBlocks::of(src, {0}), transfer::KvBlocks::of(dst, {1}),
                              TransferOptions::builder().wait_for(event).build());
  EXPECT_EQ(source()->transfers.total().in_flight, 1U);
  std::jthread opener([&] {
    while (!ended) {
      std::this_thread::yield();
    }
    latch.open();  // only once the destructor has begun
  });
  *moved = std::move(next);
  EXPECT_TRUE(pending.is_ready());
  EXPECT_NO_THROW(pending.wait());
}

class RemoteStatistics : public RemoteTest {
 protected:
  PhysicalLayout const ours_ =
      make_ours(small_config(4), contiguous(KvBlockLayout::OperationalNHD), StorageKind::Pinned);
  PhysicalLayout const theirs_ =
      make(small_config(4), contiguous(KvBlockLayout::OperationalNHD), StorageKind::System);
  [[nodiscard]] TransferCounts counts(Route const& route) const {
    expect_balanced(context_->statistics());
    return context_->statistics().of(route);
  }
  std::vector<BlockId> const ids_ = first_blocks(4);
  std::uint64_t const bytes_ = 4 * small_config(1).block_bytes();
};

TEST_F(RemoteStatistics, BothDirectionsAreRoutesOfTheirOwn) {
  prepare(ours_, theirs_, true).submit(ids_, ids_).wait();
  prepare(ours_, theirs_, false).submit(ids_, ids_).wait();
  EXPECT_EQ(counts({kPinned, kSystem, Reach::ToPeer}).bytes_completed, bytes_);
  EXPECT_EQ(counts({kSystem, kPinned, Reach::FromPeer}).bytes_completed, bytes_);
  EXPECT_EQ(counts({kPinned, kSystem, Reach::Local}).submitted, 0U);
}

TEST_F(RemoteStatistics, ATransferWhosePeerCannotBeToldFailedThoughItsBytesArrived) {
  TransferOptions options;
  options.nixl_write_notification = 7;
  peer_->fail_notify(true);
  auto const prepared = prepare(ours_, theirs_, true, options);
  EXPECT_THROW(prepared.submit(ids_, ids_).wait(), PeerError);
  auto counted = counts({kPinned, kSystem, Reach::ToPeer});
  EXPECT_EQ(counted.failed, 1U);
  EXPECT_EQ(counted.errors_of(ErrorCode::PeerLost), 1U);
  EXPECT_EQ(counted.bytes_completed, bytes_);
  EXPECT_EQ(counted.bytes_failed, 0U);
  EXPECT_THROW(prepared.submit({}, {}), PeerError) << "also without blocks";
  counted = counts({kPinned, kSystem, Reach::ToPeer});
  EXPECT_EQ(counted.failed, 2U);
  EXPECT_EQ(counted.bytes_completed, bytes_);
}

TEST_F(RemoteStatistics, StepsThatFailOnTheWire) {
  peer_->fail_step(0);
  EXPECT_THROW(prepare(ours_, theirs_, true).submit(ids_, ids_).wait(), Error);
  auto const counted = counts({kPinned, kSystem, Reach::ToPeer});
  EXPECT_EQ(counted.failed, 1U);
  EXPECT_GT(counted.bytes_failed, 0U);
}

}  // namespace
}  // namespace kvbm::testing
