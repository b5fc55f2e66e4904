// SPDX-License-Identifier: Apache-2.0
//
// Corners where things meet: odd bounce buffers, damaged blocks under partial writes, stops that
// race with the work, managers that end while others still submit.
#include <cerrno>
#include <chrono>
#include <future>
#include <thread>

#include "contract/transfer_fixture.hpp"
#include "kvbm/testing/gated_disk.hpp"

namespace kvbm::testing {
namespace {

using namespace std::chrono_literals;
using transfer::KvBlocks;

class Corner : public TransferTest {
 protected:
  Corner() : Corner(std::make_unique<GatedDisk>()) {}

  PhysicalLayout make_plain(StorageKind storage, std::uint64_t num_blocks = 8) {
    return make(small_config(num_blocks), contiguous(KvBlockLayout::OperationalNHD), storage);
  }
  std::unique_ptr<GatedDisk> disk_;

 private:
  explicit Corner(std::unique_ptr<GatedDisk> disk)
      : TransferTest(std::move(small_manager().disk_io(disk->io()).num_streams(1, 1))),
        disk_(std::move(disk)) {}
};

TEST_F(Corner, P13_BounceBuffersOfEveryShapeStorageAndHeadCount) {
  for (auto const storage : kMemoryStorage) {
    for (auto const& shape : every_shape()) {
      for (auto const& [from, to] : {std::pair(StorageKind::Disk, StorageKind::Disk),
                                     {StorageKind::Disk, StorageKind::Device},
                                     {StorageKind::System, StorageKind::Disk}}) {
        for (bool const some_heads : {false, true}) {
          SCOPED_TRACE("bounce " + shape.name() + " in " + std::string(memory::to_string(storage)) +
                       ", " + std::string(memory::to_string(from)) + " -> " +
                       std::string(memory::to_string(to)) + (some_heads ? ", some heads" : ""));
          auto const src = make(small_config(7), contiguous(KvBlockLayout::UniversalPP), from);
          auto const dst =
              make(small_config(7, 2, some_heads ? 2 : 4),
                   layer_wise(BlockDimension::Second, KvBlockLayout::OperationalHND), to);
          // It may have the heads of either side.
          bool const like_dst = some_heads && storage == StorageKind::Pinned;
          auto const bounce = make(small_config(3, 2, like_dst ? 2 : 4), shape, storage);
          write(src, 1);
          write(dst, 2);
          TransferOptions options;
          options.bounce_buffer =
              BounceBuffer::from_handle(manager_.register_layout(bounce), {2, 0, 1});
          Part part{{0, 4}, {0, 4}, {0, 4}};
          if (some_heads) {
            part = {{1, 3}, {1, 3}, {0, 2}};
            options.layer_range = part.layers;
            options.src_head_range = part.src_heads;
            options.dst_head_range = part.dst_heads;
          }
          check_move(src, {0, 1, 2, 3, 4}, dst, {6, 5, 4, 3, 2}, part, options);
          if (HasFailure()) { return; }
        }
      }
    }
  }
}

TEST_F(Corner, P13_PartialWriteOverAnUnreadableBlockFailsThatBlockAndKeepsIt) {
  auto const src = make_plain(StorageKind::Pinned);
  auto const file = make_plain(StorageKind::Disk);
  write(src, 1);
  write(file, 2);
  disk_->fail(EIO, [stride = file.geometry().block_stride](memory::DiskRequest const& request) {
    return request.op == memory::DiskRequest::Op::Read && request.offset / stride == 4;
  });
  auto const notification = move(src, {0, 1, 2, 3}, file, {0, 2, 4, 6},
                                 TransferOptions::builder().layer_range(1, 2).build());
  EXPECT_EQ(failure_of_call([&] { notification.wait(); }).native_code, EIO);
  auto const failed = notification.failed_blocks();
  ASSERT_EQ(failed.size(), 1U);
  EXPECT_EQ(failed[0].position, 2U);
  disk_->fail(0, {});
  auto const back = like_in_memory(file);
  move(file, all(file), back, all(file)).wait();
  EXPECT_EQ(count_differences(back, 4, 2, 4), 0U);
  Image source = image_of(src);
  Image expected = image_of(back);
  copy_elements(src, source, {0, 1, 3}, back, expected, {0, 2, 6}, {{1, 2}, {0, 4}, {0, 4}});
  EXPECT_EQ(image_of(back), expected) << "the other blocks' layer arrived";
}

TEST_F(Corner, N5_StopsThatRaceWithTheWorkEndItOnceAndTruly) {
  auto const src = make_plain(StorageKind::Pinned, 64);
  write(src, 1);
  for (auto const to : {StorageKind::Device, StorageKind::Disk, StorageKind::System}) {
    auto const dst = make(small_config(64), contiguous(KvBlockLayout::UniversalTP), to);
    for (int i = 0; i < 100; ++i) {
      std::stop_source stop;
      auto const notification = move(src, all(src), dst, all(dst),
                                     TransferOptions::builder()
                                         .timeout(std::chrono::microseconds(1 + 7 * i))
                                         .cancellation(stop.get_token())
                                         .build());
      std::thread stopper([&stop] { stop.request_stop(); });
      auto const failure = failure_of_call([&] { notification.wait(); });
      stopper.join();
      EXPECT_EQ(failure.code.has_value(), !notification.failed_blocks().empty());
      if (failure.code) {
        EXPECT_TRUE(failure.code == ErrorCode::Timeout || failure.code == ErrorCode::Cancelled)
            << failure.message;
      } else if (to != StorageKind::Disk) {
        EXPECT_EQ(count_differences(dst, 63, 1, 63), 0U);
      }
    }
  }
}

TEST_F(Corner, N5_ManagersMayEndWhileOthersSubmit) {
  for (int round = 0; round < 10; ++round) {
    auto manager = std::make_unique<TransferManager>(small_manager().build());
    auto const make_in = [&manager](StorageKind storage) {
      return manager->register_layout(make_layout(manager->memory_source(), small_config(8),
                                                  contiguous(KvBlockLayout::UniversalTP), storage));
    };
    auto const prepared = manager->prepare_transfer(
        make_in(StorageKind::Pinned),
        make_in(round % 2 == 0 ? StorageKind::Device : StorageKind::Disk));
    std::vector<std::thread> threads;
    for (BlockId id = 0; id < 4; ++id) {
      threads.emplace_back([prepared, id] {
        for (int i = 0; i < 1000; ++i) {
          auto const failure = failure_of_call([&] {
            prepared.submit({&id, 1}, {&id, 1}).wait();
            return 0;
          });
          if (failure.code) {
            EXPECT_EQ(failure.code, ErrorCode::ShuttingDown) << failure.message;
            return;
          }
        }
      });
    }
    manager.reset();
    for (auto& thread : threads) {
      thread.join();
    }
  }
}

TEST_F(Corner, N5_ACallbackMayDropTheManager) {
  auto manager =
      std::make_shared<TransferManager>(std::move(small_manager().num_streams(1, 1)).build());
  auto const make_in = [&manager](StorageKind storage) {
    return make_layout(manager->memory_source(), small_config(2),
                       contiguous(KvBlockLayout::UniversalTP), storage);
  };
  auto const src = make_in(StorageKind::Pinned);
  auto const dst = make_in(StorageKind::Device);
  StreamLatch latch(manager->context().acquire_h2d_stream());
  auto const notification =
      manager->execute_transfer(KvBlocks::of(src, {0}), KvBlocks::of(dst, {1}));
  std::promise<void> dropped;
  notification.then([&dropped, kept = std::move(manager)](std::exception_ptr) mutable {
    kept.reset();
    dropped.set_value();
  });
  latch.open();
  dropped.get_future().wait();
  notification.wait();
}

}  // namespace
}  // namespace kvbm::testing
