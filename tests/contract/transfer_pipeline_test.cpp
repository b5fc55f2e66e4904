// SPDX-License-Identifier: Apache-2.0
//
// Transfers with company: a caller's stream, bounce buffers that are too small, failing disks,
// a thousand at a time.
#include <algorithm>
#include <atomic>
#include <cerrno>
#include <random>
#include <thread>

#include "contract/transfer_fixture.hpp"
#include "kvbm/testing/gated_disk.hpp"

namespace kvbm::testing {
namespace {

using Op = memory::DiskRequest::Op;

class CallerStream : public TransferTest {};

TEST_F(CallerStream, P11_N1_ReturnsAtOnceAndTheDataIsThereAfterSynchronize) {
  auto const config = small_config(4);
  for (auto const from : kMemoryStorage) {
    for (auto const to : kMemoryStorage) {
      SCOPED_TRACE(std::string(memory::to_string(from)) + " -> " +
                   std::string(memory::to_string(to)));
      auto const src = make(config, contiguous(KvBlockLayout::UniversalTP), from);
      auto const dst =
          make(config, layer_wise(BlockDimension::Second, KvBlockLayout::OperationalNHD), to);
      write(src, 1);
      write(dst, 2);
      Image source = image_of(src);
      Image const before = image_of(dst);
      Image expected = before;
      copy_elements(src, source, {0, 1}, dst, expected, {2, 3}, whole(src));

      StreamLatch latch(manager_.context().acquire_d2d_stream());
      auto const pending = manager_.context().event_system()->num_pending();
      auto const notification = move(
          src, {0, 1}, dst, {2, 3}, TransferOptions::builder().cuda_stream(latch.stream()).build());
      EXPECT_TRUE(notification.is_ready());
      EXPECT_FALSE(notification.could_yield());
      if (from != StorageKind::System && to != StorageKind::System) {
        EXPECT_EQ(manager_.context().event_system()->num_pending(), pending) << "no event is made";
      }
      EXPECT_EQ(image_of(dst), before) << "moved before its turn";
      latch.open_and_synchronize();
      expect_image(dst, expected);
    }
  }
}

TEST_F(CallerStream, P11_WorkEnqueuedBehindTheTransferSeesItsData) {
  auto const config = small_config(2);
  auto const shape = contiguous(KvBlockLayout::OperationalNHD);
  auto const a = make(config, shape, StorageKind::Device);
  auto const b = make(config, shape, StorageKind::System);
  auto const c = make(config, shape, StorageKind::Device);
  auto const stream = manager_.context().acquire_h2d_stream();
  auto const options = TransferOptions::builder().cuda_stream(stream).build();
  stream->enqueue([&] { write_all_blocks(a, 3); });
  move(a, {0, 1}, b, {1, 0}, options);
  move(b, {0, 1}, c, {1, 0}, options);
  stream->synchronize();
  EXPECT_EQ(count_differences(c, 0, 3, 0), 0U);
  EXPECT_EQ(count_differences(c, 1, 3, 1), 0U);
}

TEST_F(CallerStream, P11_O2_IsRefusedWithFilesTimeoutsAndForeignOptions) {
  auto const config = small_config(2);
  auto const shape = contiguous(KvBlockLayout::OperationalNHD);
  auto const disk = make(config, shape, StorageKind::Disk);
  auto const pinned = make(config, shape, StorageKind::Pinned);
  auto const device = make(config, shape, StorageKind::Device);
  auto const stream = manager_.context().acquire_h2d_stream();
  auto const options = TransferOptions::builder().cuda_stream(stream).build();
  for (auto const& [src, dst] : {std::pair(disk, pinned), std::pair(device, disk)}) {
    auto const failure = failure_of_call([&] { return move(src, {0}, dst, {1}, options); });
    EXPECT_EQ(failure.code, ErrorCode::Unsupported);
    EXPECT_TRUE(failure.names("stream")) << failure.message;
  }
  std::stop_source const source;
  for (auto const& bad :
       {TransferOptions::builder().cuda_stream(stream).timeout(std::chrono::seconds(1)).build(),
        TransferOptions::builder().cuda_stream(stream).cancellation(source.get_token()).build()}) {
    EXPECT_EQ(failure_of_call([&] { return move(pinned, {0}, device, {1}, bad); }).code,
              ErrorCode::Unsupported);
  }
}

/// Seven blocks between a file and a device, whose extents are apart in the file, so that each has
/// requests of its own.
class Bounce : public TransferTest {
 protected:
  static constexpr std::size_t kBlocks = 7;

  Bounce() : Bounce(std::make_unique<GatedDisk>()) {}

  PhysicalLayout make_file() {
    return make(small_config(2 * kBlocks), contiguous(KvBlockLayout::OperationalHND),
                StorageKind::Disk);
  }
  PhysicalLayout make_memory() {
    return make(small_config(kBlocks),
                layer_wise(BlockDimension::First, KvBlockLayout::OperationalNHD),
                StorageKind::Device);
  }
  /// Like the file (then it is its staging) or in another format (then a station of its own).
  PhysicalLayout make_bounce(bool like_file) {
    return make(small_config(10),
                contiguous(like_file ? KvBlockLayout::OperationalHND : KvBlockLayout::UniversalTP),
                StorageKind::Pinned);
  }

  [[nodiscard]] static std::vector<BlockId> even_blocks() {
    std::vector<BlockId> ids;
    for (BlockId i = 0; i < kBlocks; ++i) {
      ids.push_back(2 * i);
    }
    return ids;
  }
  /// Requests of `op` for the file's block of one of these positions.
  static GatedDisk::Matches at_positions(PhysicalLayout const& file, Op op,
                                         std::vector<std::size_t> positions) {
    std::uint64_t const stride = file.geometry().block_stride;
    return [=](memory::DiskRequest const& request) {
      return request.op == op &&
             std::ranges::find(positions, request.offset / stride / 2) != positions.end();
    };
  }

  void expect_failed(TransferCompleteNotification const& notification,
                     std::vector<std::size_t> const& positions, int error) {
    std::atomic<int> calls = 0;
    std::promise<void> called;
    notification.then([&](std::exception_ptr e) {
      EXPECT_NE(e, nullptr);
      ++calls;
      called.set_value();
    });
    auto const failure = failure_of_call([&] { notification.wait(); });
    EXPECT_EQ(failure.code, ErrorCode::Io) << failure.message;
    EXPECT_EQ(failure.native_code, error) << failure.message;
    called.get_future().wait();
    EXPECT_EQ(calls, 1);
    std::vector<std::size_t> found;
    for (auto const& block : notification.failed_blocks()) {
      found.push_back(block.position);
      EXPECT_EQ(failure_of(block.error).native_code, error);
    }
    EXPECT_EQ(found, positions);
  }

  std::unique_ptr<GatedDisk> disk_;

 private:
  explicit Bounce(std::unique_ptr<GatedDisk> disk)
      : TransferTest(std::move(small_manager().disk_io(disk->io()))), disk_(std::move(disk)) {}
};

TEST_F(Bounce, P13_AnyNumberOfBounceBlocksMovesEverythingInBothDirections) {
  for (bool const like_file : {true, false}) {
    for (std::vector<BlockId> const& ids :
         {std::vector<BlockId>{4}, {4, 2}, {4, 2, 7}, {4, 2, 7, 1, 5}}) {
      for (std::size_t const count : {kBlocks, std::size_t{1}}) {
        SCOPED_TRACE(std::to_string(ids.size()) + " bounce blocks, " + std::to_string(count) +
                     " blocks, like file " + std::to_string(like_file));
        auto const file = make_file();
        auto const memory = make_memory();
        auto const bounce = make_bounce(like_file);
        write(file, 1);
        write(memory, 2);
        write(bounce, 3);
        TransferOptions options;
        options.bounce_buffer = BounceBuffer::from_handle(manager_.register_layout(bounce), ids);
        auto file_ids = even_blocks();
        auto memory_ids = first_blocks(kBlocks);
        file_ids.resize(count);
        memory_ids.resize(count);
        check_move(file, file_ids, memory, memory_ids, whole(file), options);
        write(memory, 4);
        check_move(memory, memory_ids, file, file_ids, whole(file), options);
        for (BlockId const guard : {0U, 3U, 6U, 8U, 9U}) {
          EXPECT_EQ(count_differences(bounce, guard, 3, guard), 0U) << "bounce block " << guard;
        }
      }
    }
  }
}

TEST_F(Bounce, P13_OneBlockWithEightBounceBlocks) {
  auto const file = make_file();
  auto const memory = make_memory();
  auto const bounce = make_bounce(true);
  write(file, 1);
  write(memory, 2);
  TransferOptions options;
  options.bounce_buffer =
      BounceBuffer::from_handle(manager_.register_layout(bounce), {0, 1, 2, 3, 4, 5, 6, 7});
  check_move(file, {5}, memory, {2}, whole(file), options);
  check_move(memory, {1}, file, {3}, whole(file), options);
}

TEST_F(Bounce, P13_TwoTransfersOverOneBounceBufferTakeTurns) {
  auto const file = make_file();
  auto const first = make_memory();
  auto const second = make_memory();
  auto const bounce = make_bounce(true);
  write(file, 1);
  TransferOptions options;
  options.bounce_buffer = BounceBuffer::from_handle(manager_.register_layout(bounce), {0, 1, 2});
  auto other = options;
  other.bounce_buffer->block_ids = {2, 3};  // one block in common
  std::vector<BlockId> const odd{1, 3, 5, 7, 9, 11, 13};
  for (int round = 0; round < 10; ++round) {
    write(first, 2);
    write(second, 3);
    auto const a = move(file, even_blocks(), first, first_blocks(kBlocks), options);
    auto const b = move(file, odd, second, first_blocks(kBlocks), other);
    b.wait();
    a.wait();
    for (BlockId i = 0; i < kBlocks; ++i) {
      EXPECT_EQ(count_differences(first, i, 1, 2 * i), 0U);
      EXPECT_EQ(count_differences(second, i, 1, 2 * i + 1), 0U);
    }
  }
}

TEST_F(Bounce, P13_N5_TransfersThatWaitForBounceBlocksEndAtTheirDeadline) {
  constexpr std::size_t kMoreThanWorkers = 64;
  auto const file = make_file();
  auto const memory = make_memory();
  auto const back = make_memory();
  write(memory, 1);
  write(back, 2);
  TransferOptions options;
  options.bounce_buffer =
      BounceBuffer::from_handle(manager_.register_layout(make_bounce(false)), {4, 2});
  disk_->hold([](auto const& request) { return request.op == Op::Write; });
  auto const first = move(memory, {0, 1}, file, {0, 1}, options);
  disk_->wait_until_held();

  options.timeout = std::chrono::milliseconds(1);
  std::vector<TransferCompleteNotification> waiting;
  for (std::size_t i = 0; i < kMoreThanWorkers; ++i) {
    waiting.push_back(move(memory, {2}, file, {2}, options));
  }
  for (auto const& notification : waiting) {  // while the first still has the blocks
    EXPECT_EQ(failure_of_call([&] { notification.wait(); }).code, ErrorCode::Timeout);
  }
  EXPECT_FALSE(first.is_ready());
  disk_->open();
  first.wait();

  options.timeout.reset();
  move(memory, {3}, file, {3}, options).wait();
  move(file, {0, 1, 3}, back, {0, 1, 3}).wait();
  for (BlockId const block : {0U, 1U, 3U}) {
    EXPECT_EQ(count_differences(back, block, 1, block), 0U) << "block " << block;
  }
  EXPECT_EQ(failure_of_call([&] { move(file, {2}, back, {2}).wait(); }).code, ErrorCode::NotFound)
      << "a transfer that was told to have failed wrote its block";
}

TEST_F(Bounce, P13_FailuresInEitherHopNameExactlyTheirBlocksAndLeaveTheBounceBlocksUsable) {
  for (bool const like_file : {true, false}) {
    for (std::size_t const num_ids : {1U, 2U, 3U, 5U}) {
      auto const file = make_file();
      auto const memory = make_memory();
      TransferOptions options;
      options.bounce_buffer = BounceBuffer::from_handle(
          manager_.register_layout(make_bounce(like_file)), first_blocks(num_ids));
      write(file, 1);
      auto const ids = first_blocks(kBlocks);
      for (std::vector<std::size_t> const& bad :
           {std::vector<std::size_t>{0}, {1}, {4}, {6}, {0, 3, 6}, {2, 3}, {0, 1, 2, 3, 4, 5, 6}}) {
        SCOPED_TRACE(std::to_string(num_ids) + " bounce blocks, first failure " +
                     std::to_string(bad.front()) + " of " + std::to_string(bad.size()));
        auto const is_bad = [&bad](std::size_t i) {
          return std::ranges::find(bad, i) != bad.end();
        };
        write(memory, 2);
        disk_->fail(EIO, at_positions(file, Op::Read, bad));
        expect_failed(move(file, even_blocks(), memory, ids, options), bad, EIO);
        for (BlockId i = 0; i < kBlocks; ++i) {
          EXPECT_EQ(count_differences(memory, i, is_bad(i) ? 2 : 1, is_bad(i) ? i : 2 * i), 0U)
              << "block " << i;
        }
        disk_->fail(0, {});
        move(file, even_blocks(), memory, ids, options).wait();

        disk_->fail(ENOSPC, at_positions(file, Op::Write, bad));
        expect_failed(move(memory, ids, file, even_blocks(), options), bad, ENOSPC);
        disk_->fail(0, {});
        auto const back = make_memory();
        auto const reading = move(file, even_blocks(), back, ids);
        EXPECT_EQ(failure_of_call([&] { reading.wait(); }).code, ErrorCode::NotFound)
            << "a block whose write failed reads as if it had been written";
        EXPECT_EQ(reading.failed_blocks().size(), bad.size());
        for (BlockId i = 0; i < kBlocks; ++i) {
          if (!is_bad(i)) { EXPECT_EQ(count_differences(back, i, 1, 2 * i), 0U) << "block " << i; }
        }
        move(memory, ids, file, even_blocks(), options).wait();
        if (HasFailure()) { return; }
      }
    }
  }
}

TEST_F(Bounce, V2_BounceBlocksThatAreAlsoMovedAreRefused) {
  auto const file = make_file();
  auto const memory = make_memory();
  write(memory, 2);
  auto const handle = manager_.register_layout(memory);
  auto const with_ids = [&](std::vector<BlockId> ids) {
    TransferOptions options;
    options.bounce_buffer = BounceBuffer::from_handle(handle, std::move(ids));
    return options;
  };
  auto const before = snapshot(memory);
  auto const failure = failure_of_call(
      [&] { return move(memory, {0, 1, 2, 3}, file, {0, 2, 4, 6}, with_ids({2, 5})); });
  EXPECT_EQ(failure.code, ErrorCode::InvalidArgument);
  EXPECT_TRUE(failure.names("bounce")) << failure.message;
  EXPECT_EQ(snapshot(memory), before);
  move(memory, {0, 1, 2, 3}, file, {0, 2, 4, 6}, with_ids({4, 5})).wait();
  EXPECT_EQ(
      failure_of_call([&] { return move(file, {0, 2}, memory, {5, 6}, with_ids({4, 5})); }).code,
      ErrorCode::InvalidArgument);
  move(file, {0, 2, 4, 6}, memory, {0, 1, 2, 3}, with_ids({4, 5})).wait();
  for (BlockId id = 0; id < 4; ++id) {
    EXPECT_EQ(count_differences(memory, id, 2, id), 0U);
  }
}

/// Streams enough that what a thousand transfers enqueue fits into a GPU's queues.
class ManyTransfers : public TransferTest {
 protected:
  ManyTransfers() : TransferTest(std::move(small_manager().num_streams(16, 4))) {}
};

TEST_F(ManyTransfers, P14_AThousandOutstandingFromSixteenThreadsAllComplete) {
  constexpr std::size_t kTransfers = 1008;
  constexpr std::size_t kThreads = 16;
  auto const config = small_config(2 * kTransfers, 1, 2, 1);
  auto const src = make(config, contiguous(KvBlockLayout::OperationalNHD), StorageKind::Pinned);
  auto const dst = make(config, layer_wise(BlockDimension::Second, KvBlockLayout::OperationalHND),
                        StorageKind::Device);
  auto const file = make(config, contiguous(KvBlockLayout::UniversalTP), StorageKind::Disk);
  write(src, 1);
  auto& context = manager_.context();
  std::vector<std::unique_ptr<StreamLatch>> latches;
  for (std::size_t i = 0; i < context.options().num_h2d_streams; ++i) {
    latches.push_back(std::make_unique<StreamLatch>(context.acquire_h2d_stream()));
  }
  // Blocks [0, kTransfers) go over streams, every eighth of the others into the file.
  std::vector<TransferCompleteNotification> outstanding(kTransfers);
  std::vector<TransferCompleteNotification> files(kTransfers);
  std::vector<std::thread> threads;
  for (std::size_t t = 0; t < kThreads; ++t) {
    threads.emplace_back([&, t] {
      for (std::size_t i = t; i < kTransfers; i += kThreads) {
        auto const block = static_cast<BlockId>(i);
        outstanding[i] = move(src, {block}, dst, {block});
        if (i % 8 == 0) {
          auto const other = static_cast<BlockId>(i + kTransfers);
          files[i] = move(src, {other}, file, {other});
        }
      }
    });
  }
  for (auto& thread : threads) {
    thread.join();
  }
  for (auto const& notification : outstanding) {
    EXPECT_FALSE(notification.is_ready());
  }
  EXPECT_GE(context.event_system()->num_pending(), kTransfers);

  std::mt19937 random(1);
  std::ranges::shuffle(latches, random);
  std::ranges::shuffle(outstanding, random);
  for (auto& latch : latches) {
    latch->open();
  }
  for (auto const& notification : outstanding) {
    notification.wait();
  }
  TransferCompleteNotification::aggregate(files).wait();
  auto const read_back = like_in_memory(src);
  std::vector<BlockId> written;
  for (std::size_t i = 0; i < kTransfers; i += 8) {
    written.push_back(static_cast<BlockId>(i + kTransfers));
  }
  move(file, written, read_back, written).wait();
  auto const moved = first_blocks(kTransfers);
  EXPECT_EQ(count_differences(dst, moved, 1, moved), 0U);
  EXPECT_EQ(count_differences(read_back, written, 1, written), 0U);
}

}  // namespace
}  // namespace kvbm::testing
