// SPDX-License-Identifier: Apache-2.0
//
// Every option of a transfer has its effect, or the call is refused.
#include <array>
#include <atomic>
#include <thread>

#include "contract/transfer_fixture.hpp"
#include "kvbm/testing/gated_disk.hpp"

namespace kvbm::testing {
namespace {

using namespace std::chrono_literals;
using transfer::KvBlocks;

/// One stream each way, so that a latch holds all of them; one file worker behind a gate.
class Options : public TransferTest {
 protected:
  Options() : Options(std::make_unique<GatedDisk>()) {}

  PhysicalLayout make_plain(StorageKind storage, std::uint64_t num_blocks = 8) {
    return make(small_config(num_blocks), contiguous(KvBlockLayout::OperationalNHD), storage);
  }
  static std::vector<std::size_t> positions(TransferCompleteNotification const& notification) {
    std::vector<std::size_t> found;
    for (auto const& block : notification.failed_blocks()) {
      found.push_back(block.position);
    }
    return found;
  }
  device::StreamPtr h2d() { return manager_.context().acquire_h2d_stream(); }

  std::unique_ptr<GatedDisk> disk_;

 private:
  explicit Options(std::unique_ptr<GatedDisk> disk)
      : TransferTest(std::move(small_manager()
                                   .disk_io(disk->io())
                                   .num_streams(1, 1)
                                   .file_workers(1)
                                   .staging_bytes(64U << 10U))),
        disk_(std::move(disk)) {}
};

TEST_F(Options, N5_TimeoutBeforeItBeganLeavesTheMemoryAloneForEver) {
  auto const src = make_plain(StorageKind::Pinned);
  auto const dst = make_plain(StorageKind::Device);
  write(src, 1);
  write(dst, 2);
  auto const before = snapshot(dst);
  StreamLatch latch(own_stream("writer"));
  auto const notification =
      move(src, {0, 1, 2}, dst, {3, 4, 5},
           TransferOptions::builder().wait_for(event_behind(latch)).timeout(1ms).build());
  EXPECT_THROW(notification.wait(), TimeoutError);
  EXPECT_EQ(positions(notification), (std::vector<std::size_t>{0, 1, 2}));
  latch.open();
  manager_.context().devices().front()->synchronize();
  EXPECT_EQ(snapshot(dst), before);
}

TEST_F(Options, N5_CancellationBeforeItBeganLeavesTheMemoryAloneForEver) {
  auto const src = make_plain(StorageKind::Pinned);
  auto const dst = make_plain(StorageKind::Device);
  write(src, 1);
  write(dst, 2);
  auto const before = snapshot(dst);
  StreamLatch latch(own_stream("writer"));
  std::stop_source stop;
  auto const options = TransferOptions::builder().cancellation(stop.get_token()).build();
  auto waiting = options;
  waiting.wait_for = {event_behind(latch)};
  auto const notification = move(src, {0, 1}, dst, {3, 4}, waiting);
  EXPECT_FALSE(notification.is_ready());
  stop.request_stop();
  EXPECT_THROW(notification.wait(), CancelledError);
  EXPECT_EQ(positions(notification), (std::vector<std::size_t>{0, 1}));
  latch.open();
  manager_.context().devices().front()->synchronize();
  EXPECT_EQ(snapshot(dst), before);
  EXPECT_THROW(move(src, {0}, dst, {1}, options).wait(), CancelledError) << "stopped already";
  auto const host = make_plain(StorageKind::System);
  EXPECT_THROW(move(src, {0}, host, {1}, options).wait(), CancelledError) << "host copies too";
}

TEST_F(Options, N5_StopsBehindABusyStreamOfAnEmulatedDevice) {
  if (on_cuda()) { GTEST_SKIP() << "what is in a GPU's queue cannot be taken out of it"; }
  auto const src = make_plain(StorageKind::Pinned);
  auto const dst = make_plain(StorageKind::Device);
  write(src, 1);
  write(dst, 2);
  auto const before = snapshot(dst);
  StreamLatch latch(h2d());
  std::stop_source stop;
  auto const late = move(src, {0, 1}, dst, {3, 4}, TransferOptions::builder().timeout(1ms).build());
  auto const stopped =
      move(src, {0}, dst, {5}, TransferOptions::builder().cancellation(stop.get_token()).build());
  stop.request_stop();
  EXPECT_THROW(late.wait(), TimeoutError);
  EXPECT_THROW(stopped.wait(), CancelledError);
  latch.open_and_synchronize();
  EXPECT_EQ(snapshot(dst), before);
}

TEST_F(Options, N5_ReachedDeadlinesAndTokensThatNobodyUsedChangeNothing) {
  auto const src = make_plain(StorageKind::Pinned);
  for (auto const storage : kAllStorage) {
    auto const dst = make_plain(storage);
    std::stop_source stop;
    write(src, 1);
    write(dst, 2);
    auto const options =
        TransferOptions::builder().timeout(1h).cancellation(stop.get_token()).build();
    check_move(src, {0, 1}, dst, {3, 4}, whole(src), options);
    stop.request_stop();
  }
}

/// Stops a file transfer of 32 blocks, in batches of at most 8, at the request for block 12.
class StoppedWhileRunning : public Options {
 protected:
  void expect_stopped(bool by_timeout, bool reading) {
    constexpr std::size_t kBlocks = 32;
    auto const file = make_plain(StorageKind::Disk, kBlocks);
    auto const memory = make_plain(StorageKind::Device, kBlocks);
    write(file, 1);
    write(memory, 2);
    std::uint64_t const offset = 12 * file.geometry().block_stride;
    disk_->hold(
        [offset](auto const& r) { return r.offset <= offset && offset < r.offset + r.bytes; });
    std::stop_source stop;
    TransferOptions options;
    if (by_timeout) {
      options.timeout = 2s;  // the held block is reached well before
    } else {
      options.cancellation = stop.get_token();
    }
    auto const ids = first_blocks(kBlocks);
    auto const notification =
        reading ? move(file, ids, memory, ids, options) : move(memory, ids, file, ids, options);
    std::promise<void> passed;  // later than the deadline, on the same thread
    auto const later = std::chrono::steady_clock::now() + 2010ms;
    auto const timer =
        manager_.context().event_system()->call_at(later, [&passed] { passed.set_value(); });
    disk_->wait_until_held();
    stop.request_stop();
    passed.get_future().wait();
    EXPECT_FALSE(notification.is_ready()) << "told before the I/O under way ended";
    disk_->open();
    if (by_timeout) {
      EXPECT_THROW(notification.wait(), TimeoutError);
    } else {
      EXPECT_THROW(notification.wait(), CancelledError);
    }
    auto const failed = positions(notification);
    ASSERT_FALSE(failed.empty());
    EXPECT_EQ(failed.back(), kBlocks - 1);
    EXPECT_EQ(failed.size(), kBlocks - failed.front()) << "the rest, without gaps";
    Image const now = image_of(reading ? memory : file);
    auto const back = reading ? memory : like_in_memory(file);
    if (!reading) { move(file, ids, back, ids).wait(); }
    for (BlockId i = 0; i < failed.front(); ++i) {
      EXPECT_EQ(count_differences(back, i, reading ? 1 : 2, i), 0U) << "arrived block " << i;
    }
    move(file, ids, make_plain(StorageKind::System, kBlocks), ids).wait();
    EXPECT_EQ(image_of(reading ? memory : file), now) << "went on after it was told to have ended";
  }
};

TEST_F(StoppedWhileRunning, N5_ByTimeoutWhileReading) { expect_stopped(true, true); }
TEST_F(StoppedWhileRunning, N5_ByTimeoutWhileWriting) { expect_stopped(true, false); }
TEST_F(StoppedWhileRunning, N5_ByTokenWhileReading) { expect_stopped(false, true); }
TEST_F(StoppedWhileRunning, N5_ByTokenWhileWriting) { expect_stopped(false, false); }

TEST_F(StoppedWhileRunning, N5_StreamCopiesEndBetweenTwoBatches) {
  // 3 batches of 32 MiB, with a token used at some moment: all, a part in order, or nothing.
  auto const config = LayoutConfig::builder()
                          .num_blocks(24)
                          .num_layers(1)
                          .outer_dim(1)
                          .page_size(1)
                          .inner_dim(4U << 20U)
                          .dtype_width_bytes(1)
                          .build();
  auto const unknown = contiguous(KvBlockLayout::Unknown);
  auto const src = make(config, unknown, StorageKind::Pinned);
  auto const dst = make(config, unknown, StorageKind::Device);
  auto const size = config.block_bytes();
  for (BlockId i = 0; i < 24; ++i) {
    std::memset(src.regions()[0].host_data() + i * size, static_cast<int>(i) + 1, size);
  }
  std::stop_source stop;
  auto const stream = h2d();
  auto const started = std::make_shared<std::promise<void>>();
  stream->enqueue([started] { started->set_value(); });
  auto const notification = move(src, all(src), dst, all(dst),
                                 TransferOptions::builder().cancellation(stop.get_token()).build());
  started->get_future().wait();
  stop.request_stop();
  auto const failure = failure_of_call([&] { notification.wait(); });
  auto const failed = positions(notification);
  EXPECT_EQ(failure.code.value_or(ErrorCode::Cancelled), ErrorCode::Cancelled);
  EXPECT_EQ(failure.code.has_value(), !failed.empty());
  std::size_t const arrived = 24 - failed.size();
  Image const now = snapshot(dst);
  for (std::size_t i = 0; i < 24; ++i) {
    auto const* const block = now[0].data() + i * size;
    auto const expected = static_cast<std::byte>(i < arrived ? i + 1 : 0);
    EXPECT_EQ(block[0], expected);
    EXPECT_EQ(std::memcmp(block, block + 1, size - 1), 0) << "block " << i << " arrived in part";
  }
}

class Ordering : public Options {
 protected:
  /// A stream on which a writer of `layout` waits behind a latch, and its event.
  device::EventPtr write_later(StreamLatch const& latch, PhysicalLayout const& layout,
                               std::uint64_t seed) {
    latch.stream()->enqueue([layout, seed] { write_all_blocks(layout, seed); });
    return event_behind(latch);
  }
};

TEST_F(Ordering, O2_WaitForMakesTheTransferSeeWhatTheSourcesWriterWrites) {
  for (auto const from : kMemoryStorage) {
    for (auto const to : kAllStorage) {
      for (bool const waits : {false, true}) {
        SCOPED_TRACE(std::string(memory::to_string(from)) + " -> " +
                     std::string(memory::to_string(to)) + (waits ? " with" : " without"));
        auto const src = make_plain(from);
        auto const dst = make_plain(to);
        write(src, 1);
        write(dst, 2);
        StreamLatch latch(manager_.context().acquire_d2d_stream());
        auto const event = write_later(latch, src, 3);
        TransferOptions options;
        if (waits) { options.wait_for = {event}; }
        auto const notification = move(src, {0, 1}, dst, {2, 3}, options);
        if (waits) {
          EXPECT_FALSE(notification.is_ready());
        } else {
          notification.wait();
        }
        latch.open_and_synchronize();
        notification.wait();
        auto const memory = memory::is_store(to) ? like_in_memory(dst) : dst;
        if (memory::is_store(to)) { move(dst, {2, 3}, memory, {2, 3}).wait(); }
        for (BlockId const id : {0U, 1U}) {
          EXPECT_EQ(count_differences(memory, id + 2, waits ? 3 : 1, id), 0U);
        }
        // The event is complete by now: nothing has to wait.
        options.wait_for = {event};
        check_move(src, {0, 1}, dst, {2, 3}, whole(src), options);
      }
    }
  }
}

TEST_F(Ordering, O2_WaitForKeepsAFileFromOverwritingWhatSomebodyStillReads) {
  auto const file = make_plain(StorageKind::Disk);
  auto const dst = make_plain(StorageKind::Device);
  write(file, 1);
  write(dst, 2);
  StreamLatch latch(manager_.context().acquire_d2d_stream());
  std::uint64_t seen = 99;
  latch.stream()->enqueue([&] { seen = count_differences(dst, 0, 2, 0); });
  auto const event = manager_.context().devices().front()->create_event();
  latch.stream()->record(event);
  auto const notification =
      move(file, {0}, dst, {0}, TransferOptions::builder().wait_for(event).build());
  EXPECT_FALSE(notification.is_ready());
  latch.open_and_synchronize();
  notification.wait();
  EXPECT_EQ(seen, 0U) << "the reader found new data";
  EXPECT_EQ(count_differences(dst, 0, 1, 0), 0U);
}

TEST_F(Ordering, O2_RecordOnMakesAStreamWaitForStreamTransfers) {
  auto const src = make_plain(StorageKind::Pinned);
  auto const dst = make_plain(StorageKind::Device);
  write(src, 1);
  auto const reader = manager_.context().devices().front()->create_stream("reader");
  StreamLatch latch(h2d());
  auto const notification =
      move(src, {0}, dst, {1}, TransferOptions::builder().record_on(reader).build());
  std::uint64_t seen = 99;
  reader->enqueue([&] { seen = count_differences(dst, 1, 1, 0); });
  EXPECT_FALSE(reader->is_idle());
  latch.open();
  reader->synchronize();
  EXPECT_EQ(seen, 0U);
  notification.wait();
}

TEST_F(Ordering, O2_RecordOnMakesAStreamWaitForFileTransfersAlsoForFailedOnes) {
  auto const file = make_plain(StorageKind::Disk);
  auto const dst = make_plain(StorageKind::Device);
  write(file, 1);
  auto const reader = manager_.context().devices().front()->create_stream("reader");
  auto const options = TransferOptions::builder().record_on(reader).build();
  disk_->hold([](auto const&) { return true; });
  auto const notification = move(file, {0}, dst, {1}, options);
  std::uint64_t seen = 99;
  reader->enqueue([&] { seen = count_differences(dst, 1, 1, 0); });
  disk_->wait_until_held();
  EXPECT_FALSE(reader->is_idle());
  disk_->open();
  reader->synchronize();
  EXPECT_EQ(seen, 0U);
  notification.wait();

  disk_->fail(EIO, [](auto const&) { return true; });
  auto const failing = move(file, {0}, dst, {1}, options);
  reader->synchronize();
  EXPECT_TRUE(failing.is_ready());
  EXPECT_THROW(failing.wait(), Error);
}

TEST_F(Options, O2_HigherPriorityGoesFirstThroughTheFileWorkers) {
  auto const file = make_plain(StorageKind::Disk);
  auto const src = make_plain(StorageKind::Pinned);
  write(src, 1);
  disk_->hold([](auto const&) { return true; });
  auto const with_priority = [](int priority) {
    return TransferOptions::builder().priority(priority).build();
  };
  auto const first = move(src, {0}, file, {0});
  disk_->wait_until_held();
  auto const low = move(src, {1}, file, {2}, with_priority(-1));
  auto const also_low = move(src, {1}, file, {6}, with_priority(-1));
  auto const high = move(src, {2}, file, {4}, with_priority(5));
  static_cast<void>(disk_->take_seen());
  disk_->open();
  for (auto const& notification : {first, low, high, also_low}) {
    notification.wait();
  }
  std::vector<std::uint64_t> order;
  for (auto const& request : disk_->take_seen()) {
    order.push_back(request.offset / file.geometry().block_stride);
  }
  EXPECT_EQ(order, (std::vector<std::uint64_t>{4, 2, 6}));
}

TEST_F(Options, O2_SparingTheCpuOrTheGpuMovesTheSameAndIsExplained) {
  for (auto const from : kAllStorage) {
    for (auto const to : kAllStorage) {
      for (auto const spare : {transfer::Spare::SpareCpu, transfer::Spare::SpareSms}) {
        auto const src = make_plain(from);
        auto const dst = make(small_config(8), contiguous(KvBlockLayout::UniversalPP), to);
        write(src, 1);
        write(dst, 2);
        auto const options = TransferOptions::builder().spare(spare).build();
        check_move(src, {0, 7}, dst, {2, 3}, whole(src), options);
        auto const explained =
            manager_.explain_transfer(KvBlocks::of(src, {0}), KvBlocks::of(dst, {1}), options);
        EXPECT_NE(explained.to_string().find("spare"), std::string::npos) << explained.to_string();
      }
    }
  }
}

TEST_F(Options, O2_HeadRangesReshardTensorParallelRanks) {
  struct Resharding {
    std::uint64_t from_ranks;
    std::uint64_t to_ranks;
    std::uint64_t heads;
  };
  for (auto const [from_ranks, to_ranks, heads] :
       {Resharding{1, 3, 3}, {3, 1, 3}, {4, 2, 4}, {2, 4, 8}}) {
    for (auto const& [from, to] : {std::pair(StorageKind::System, StorageKind::Device),
                                   {StorageKind::Device, StorageKind::Disk},
                                   {StorageKind::Disk, StorageKind::Pinned}}) {
      SCOPED_TRACE(std::to_string(from_ranks) + " -> " + std::to_string(to_ranks));
      std::uint64_t const from_heads = heads / from_ranks;
      std::uint64_t const to_heads = heads / to_ranks;
      std::vector<PhysicalLayout> sources;
      for (std::uint64_t rank = 0; rank < from_ranks; ++rank) {
        sources.push_back(
            make(small_config(3, 2, from_heads), contiguous(KvBlockLayout::UniversalTP), from));
        write(sources.back(), 10 + rank);
      }
      for (std::uint64_t rank = 0; rank < to_ranks; ++rank) {
        auto const dst =
            make(small_config(3, 2, to_heads),
                 layer_wise(BlockDimension::Second, KvBlockLayout::OperationalNHD), to);
        write(dst, 99);
        std::uint64_t const step = std::min(from_heads, to_heads);
        for (std::uint64_t head = 0; head < to_heads; head += step) {
          std::uint64_t const global = rank * to_heads + head;
          auto const& src = sources[global / from_heads];
          Part part = whole(src);
          part.src_heads = {global % from_heads, global % from_heads + step};
          part.dst_heads = {head, head + step};
          TransferOptions options;
          options.src_head_range = part.src_heads;
          options.dst_head_range = part.dst_heads;
          check_move(src, {0, 2}, dst, {1, 0}, part, options);
        }
      }
    }
  }
}

TEST_F(Options, O2_FormatOverridesSayHowTheBytesAreRead) {
  auto const config = small_config(4);
  for (auto const from : kAllStorage) {
    for (auto const to : kAllStorage) {
      auto const src = make(config, contiguous(KvBlockLayout::OperationalNHD), from);
      auto const dst = make(config, contiguous(KvBlockLayout::Unknown), to);
      write(src, 1);
      write(dst, 2);
      auto const refused = failure_of_call([&] { return move(src, {0}, dst, {1}); });
      EXPECT_EQ(refused.code, ErrorCode::InvalidArgument);
      EXPECT_TRUE(refused.names("dst_kv_layout")) << refused.message;
      auto const options = TransferOptions::builder()
                               .src_kv_layout(KvBlockLayout::UniversalTP)
                               .dst_kv_layout(KvBlockLayout::OperationalHND)
                               .build();
      auto const read_src = src.with_format(KvBlockLayout::UniversalTP);
      auto const read_dst = dst.with_format(KvBlockLayout::OperationalHND);
      Image source = image_of(src);
      Image expected = image_of(dst);
      copy_elements(read_src, source, {0, 3}, read_dst, expected, {1, 2}, whole(read_src));
      move(src, {0, 3}, dst, {1, 2}, options).wait();
      expect_image(read_dst, expected);
    }
  }
}

}  // namespace
}  // namespace kvbm::testing
