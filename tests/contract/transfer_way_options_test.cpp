// SPDX-License-Identifier: Apache-2.0
//
// Every option together with every way of a GPU.
#include <array>
#include <chrono>
#include <cstring>
#include <optional>
#include <stop_token>

#include "contract/way_fixture.hpp"

namespace kvbm::testing {
namespace {

using namespace std::chrono_literals;
using transfer::KvBlocks;
using transfer::Spare;
using transfer::Strategy;

/// One way; whatever it should wait for is behind a latch on a stream of its own.
class WayOptions : public WayTest {
 protected:
  void SetUp() override {
    src_ = small_src(1);
    dst_ = small_dst(2);
  }
  TransferCompleteNotification submit(TransferOptions options) {
    options.strategy = GetParam().strategy;
    return move(*src_, from_, *dst_, to_, options);
  }
  /// Elements of the moved blocks that are not those of `seed`.
  std::uint64_t differences_from(std::uint64_t seed) {
    return count_differences(*dst_, to_, seed, from_);
  }
  static std::vector<std::size_t> positions(TransferCompleteNotification const& notification) {
    std::vector<std::size_t> found;
    for (auto const& block : notification.failed_blocks()) {
      found.push_back(block.position);
    }
    return found;
  }

  std::optional<PhysicalLayout> src_;
  std::optional<PhysicalLayout> dst_;
  std::vector<BlockId> const from_{0, 1, 5};
  std::vector<BlockId> const to_{3, 4, 6};
};

INSTANTIATE_TEST_SUITE_P(Strategy, WayOptions, ::testing::ValuesIn(every_way()), name_of_way);

TEST_P(WayOptions, P11_N1_OnACallersStreamItReturnsAtOnceAndGoesInOrder) {
  StreamLatch latch(own_stream("caller"));
  auto const options = TransferOptions::builder().cuda_stream(latch.stream()).build();
  Image const before = snapshot(*dst_);
  latch.stream()->enqueue([src = *src_] { write_all_blocks(src, 3); });
  auto const pending = manager_.context().event_system()->num_pending();
  auto const notification = submit(options);
  EXPECT_TRUE(notification.is_ready());
  EXPECT_FALSE(notification.could_yield());
  if (GetParam().strategy != Strategy::PinnedStaging) {  // which the stream waits for by an event
    EXPECT_EQ(manager_.context().event_system()->num_pending(), pending) << "no event is made";
  }
  // Later on the stream: the source is overwritten, which must not show.
  latch.stream()->enqueue([src = *src_] { write_all_blocks(src, 4); });
  EXPECT_EQ(snapshot(*dst_), before) << "moved before its turn";
  latch.open_and_synchronize();
  EXPECT_EQ(differences_from(3), 0U);
}

class OnACallersStream : public WayOptions {};
INSTANTIATE_TEST_SUITE_P(Strategy, OnACallersStream, ::testing::ValuesIn(every_way()), name_of_way);

TEST_P(OnACallersStream, P11_ThereAndBackOnOneStream) {
  StreamLatch latch(own_stream("caller"));
  auto options = TransferOptions::builder().cuda_stream(latch.stream()).build();
  auto const back = small_src(7);
  submit(options);
  options.strategy = GetParam().strategy;
  move(*dst_, to_, back, from_, options);
  latch.open_and_synchronize();
  EXPECT_EQ(differences_from(1), 0U);
  EXPECT_EQ(count_differences(back, from_, 1, from_), 0U);
  EXPECT_EQ(count_differences(back, 2, 7, 2), 0U) << "a guard";
}

TEST_P(WayOptions, O2_WithoutWaitForTheOldDataMovesAndWithItTheNew) {
  for (bool const waits : {false, true}) {
    write(*src_, 1);
    StreamLatch latch(own_stream("writer"));
    latch.stream()->enqueue([src = *src_] { write_all_blocks(src, 3); });
    TransferOptions options;
    if (waits) { options.wait_for = {event_behind(latch)}; }
    auto const notification = submit(options);
    if (waits) {
      EXPECT_FALSE(notification.is_ready());
    } else {
      notification.wait();
    }
    latch.open_and_synchronize();
    notification.wait();
    EXPECT_EQ(differences_from(waits ? 3 : 1), 0U);
    EXPECT_NE(differences_from(waits ? 1 : 3), 0U);
  }
}

TEST_P(WayOptions, O2_WaitForAllOfSeveralEventsInAnyOrder) {
  StreamLatch first(own_stream("first"));
  StreamLatch second(own_stream("second"));
  std::array<BlockId, 1> const zero{0};
  first.stream()->enqueue([src = *src_, zero] { write_blocks(src, zero, 3, zero); });
  auto const never_recorded = manager_.context().devices().front()->create_event();
  auto const notification = submit(TransferOptions::builder()
                                       .wait_for(event_behind(first))
                                       .wait_for(never_recorded)
                                       .wait_for(event_behind(second))
                                       .build());
  second.open_and_synchronize();
  EXPECT_FALSE(notification.is_ready());
  first.open();
  notification.wait();
  EXPECT_EQ(count_differences(*dst_, to_[0], 3, from_[0]), 0U);
  EXPECT_EQ(count_differences(*dst_, to_[1], 1, from_[1]), 0U);
}

TEST_P(WayOptions, O2_WithoutRecordOnAReaderSeesTheOldDataAndWithItTheNew) {
  StreamLatch latch(own_stream("writer"));
  auto const reader = own_stream("reader");
  auto const hasty = own_stream("hasty reader");
  auto const notification =
      submit(TransferOptions::builder().wait_for(event_behind(latch)).record_on(reader).build());
  std::uint64_t seen = 99;
  std::uint64_t seen_hastily = 99;
  reader->enqueue([&] { seen = differences_from(1); });
  hasty->enqueue([&] { seen_hastily = differences_from(1); });
  hasty->synchronize();
  EXPECT_NE(seen_hastily, 0U);
  EXPECT_FALSE(reader->is_idle());
  latch.open();
  reader->synchronize();
  EXPECT_EQ(seen, 0U);
  notification.wait();
}

TEST_P(OnACallersStream, P11_O2_RecordOnFollowsACallersStreamToo) {
  StreamLatch latch(own_stream("caller"));
  auto const reader = own_stream("reader");
  submit(TransferOptions::builder().cuda_stream(latch.stream()).record_on(reader).build());
  std::uint64_t seen = 99;
  reader->enqueue([&] { seen = differences_from(1); });
  EXPECT_FALSE(reader->is_idle());
  latch.open();
  reader->synchronize();
  EXPECT_EQ(seen, 0U);
}

TEST_P(WayOptions, N5_StoppedBeforeItBeganItLeavesTheMemoryAloneForEver) {
  auto const before = snapshot(*dst_);
  StreamLatch latch(own_stream("writer"));
  std::stop_source stop;
  auto const waiting = [&] { return TransferOptions::builder().wait_for(event_behind(latch)); };
  auto const late = submit(waiting().timeout(1ms).build());
  auto const stopped = submit(waiting().cancellation(stop.get_token()).build());
  EXPECT_FALSE(stopped.is_ready());
  stop.request_stop();
  EXPECT_THROW(late.wait(), TimeoutError);
  EXPECT_THROW(stopped.wait(), CancelledError);
  for (auto const& notification : {late, stopped}) {
    EXPECT_EQ(positions(notification), (std::vector<std::size_t>{0, 1, 2}));
  }
  EXPECT_THROW(submit(TransferOptions::builder().cancellation(stop.get_token()).build()).wait(),
               CancelledError)
      << "stopped already";
  latch.open();
  manager_.context().devices().front()->synchronize();
  submit({}).wait();  // behind whatever a worker still holds
  EXPECT_EQ(differences_from(1), 0U);
  write(*dst_, 2);
  EXPECT_EQ(snapshot(*dst_), before);
}

TEST_P(WayOptions, N5_DeadlinesAndTokensThatComeAfterTheEndChangeNothing) {
  std::stop_source stop;
  auto const notification =
      submit(TransferOptions::builder().timeout(1h).cancellation(stop.get_token()).build());
  notification.wait();
  stop.request_stop();
  EXPECT_NO_THROW(notification.wait());
  EXPECT_EQ(notification.error(), nullptr);
  EXPECT_EQ(differences_from(1), 0U);
}

TEST_P(WayOptions, N5_ATransferThatCanBeStoppedStillWaitsForItsEvents) {
  StreamLatch latch(own_stream("writer"));
  latch.stream()->enqueue([src = *src_] { write_all_blocks(src, 3); });
  std::stop_source stop;
  auto const notification = submit(TransferOptions::builder()
                                       .wait_for(event_behind(latch))
                                       .timeout(1h)
                                       .cancellation(stop.get_token())
                                       .build());
  EXPECT_FALSE(notification.is_ready());
  latch.open();
  notification.wait();
  EXPECT_EQ(differences_from(3), 0U);
}

TEST_P(WayOptions, O2_PriorityAndSparingMoveTheSame) {
  for (auto const spare : {Spare::Fastest, Spare::SpareSms, Spare::SpareCpu}) {
    for (int const priority : {-3, 0, 3}) {
      write(*dst_, 2);
      submit(TransferOptions::builder().spare(spare).priority(priority).build()).wait();
      EXPECT_EQ(differences_from(1), 0U);
    }
  }
}

TEST_P(WayOptions, O2_S3_MaxSmsIsKeptOnAGpuAndRefusedWithout) {
  for (unsigned const max_sms : {1U, 4U, 1000U}) {
    auto const options = TransferOptions::builder().max_sms(max_sms).build();
    if (on_cuda()) {
      write(*dst_, 2);
      submit(options).wait();
      EXPECT_EQ(differences_from(1), 0U);
    } else {
      auto const failure = failure_of_call([&] { return submit(options); });
      EXPECT_EQ(failure.code, ErrorCode::Unsupported);
      EXPECT_TRUE(failure.names("max_sms " + std::to_string(max_sms))) << failure.message;
      EXPECT_TRUE(failure.names("CUDA")) << failure.message;
    }
  }
}

TEST_P(WayOptions, O2_ABounceBufferThatIsNotNeededIsNotedAndNotTouched) {
  auto const bounce =
      make(small_config(4), contiguous(KvBlockLayout::OperationalNHD), StorageKind::Pinned);
  write(bounce, 6);
  auto options = GetParam().options();
  options.bounce_buffer = BounceBuffer::from_handle(manager_.register_layout(bounce), {0, 1});
  submit(options).wait();
  EXPECT_EQ(differences_from(1), 0U);
  EXPECT_EQ(count_differences(bounce, all(bounce), 6, all(bounce)), 0U);
  auto const text =
      manager_.explain_transfer(KvBlocks::of(*src_, {0}), KvBlocks::of(*dst_, {1}), options)
          .to_string();
  EXPECT_NE(text.find("bounce"), std::string::npos) << text;
}

/// Three batches and more of 4 MiB blocks.
class StoppedWay : public WayTest {
 protected:
  static constexpr std::size_t kBlocks = 24;
};

INSTANTIATE_TEST_SUITE_P(Strategy, StoppedWay, ::testing::ValuesIn(every_way()), name_of_way);

TEST_P(StoppedWay, N5_InTheMiddleItEndsBetweenTwoBatchesAndStaysEnded) {
  auto const config = LayoutConfig::builder()
                          .num_blocks(kBlocks)
                          .num_layers(1)
                          .outer_dim(1)
                          .page_size(1)
                          .inner_dim(4U << 20U)
                          .num_heads(1)
                          .dtype_width_bytes(1)
                          .build();
  auto const shape = contiguous(KvBlockLayout::OperationalNHD);
  auto const src = make_src(config, shape);
  auto const dst = make_dst(config, shape);
  std::size_t const size = config.block_bytes();
  std::vector<std::byte> content(kBlocks * size);
  for (std::size_t i = 0; i < kBlocks; ++i) {
    std::memset(content.data() + i * size, static_cast<int>(i) + 1, size);
  }
  write_region(src.regions()[0], content);
  StreamLatch latch(own_stream("writer"));
  auto const event = event_behind(latch);
  for (bool const by_timeout : {false, true}) {
    write_region(dst.regions()[0], std::vector<std::byte>(kBlocks * size));
    std::stop_source stop;
    auto options = GetParam().options();
    if (by_timeout) {
      options.timeout = 3ms;
    } else {
      options.cancellation = stop.get_token();
      options.wait_for = {event};
    }
    auto const notification = move(src, all(src), dst, all(dst), options);
    if (!by_timeout) {
      latch.open_and_synchronize();
      stop.request_stop();  // while it begins, or a little later
    }
    auto const failure = failure_of_call([&] {
      notification.wait();
      return 0;
    });
    auto const code = by_timeout ? ErrorCode::Timeout : ErrorCode::Cancelled;
    EXPECT_EQ(failure.code.value_or(code), code) << failure.message;
    auto const failed = notification.failed_blocks();
    EXPECT_EQ(failure.code.has_value(), !failed.empty());
    std::size_t const arrived = kBlocks - failed.size();
    for (std::size_t i = 0; i < failed.size(); ++i) {
      EXPECT_EQ(failed[i].position, arrived + i) << "the rest, without gaps";
    }
    Image const now = snapshot(dst);
    for (std::size_t i = 0; i < kBlocks; ++i) {
      auto const* const block = now[0].data() + i * size;
      EXPECT_EQ(block[0], static_cast<std::byte>(i < arrived ? i + 1 : 0)) << "block " << i;
      EXPECT_EQ(std::memcmp(block, block + 1, size - 1), 0) << "block " << i << " in part";
    }
    manager_.context().devices().front()->synchronize();
    EXPECT_EQ(snapshot(dst), now) << "went on after it was told to have ended";
  }
}

}  // namespace
}  // namespace kvbm::testing
