// SPDX-License-Identifier: Apache-2.0
//
// What cannot work is refused, what fails is told, and the manager goes on.
#include <chrono>
#include <future>
#include <thread>

#include "contract/way_fixture.hpp"

namespace kvbm::testing {
namespace {

using namespace std::chrono_literals;
using transfer::KvBlocks;
using transfer::Strategy;

class Faults : public TransferTest {
 protected:
  PhysicalLayout plain(StorageKind storage, std::uint64_t num_blocks = 4) {
    return make(small_config(num_blocks), contiguous(KvBlockLayout::OperationalNHD), storage);
  }
};

/// Blocks that files can be read into and written from directly.
LayoutConfig aligned_config() {
  return LayoutConfig::builder()
      .num_blocks(4)
      .num_layers(4)
      .page_size(4)
      .inner_dim(64)
      .num_heads(4)
      .dtype_width_bytes(8)
      .alignment(4096)
      .build();
}

TEST_F(Faults, O2_S1_EveryStrategyWorksOrIsRefusedWithItsReasonAndTheManagerGoesOn) {
  for (auto const from : kAllStorage) {
    for (auto const to : kAllStorage) {
      auto const shape = contiguous(KvBlockLayout::OperationalNHD);
      auto const src = make(aligned_config(), shape, from);
      auto const dst = make(aligned_config(), shape, to);
      write(src, 1);
      for (std::size_t i = 0; i < transfer::kNumStrategies; ++i) {
        auto const strategy = static_cast<Strategy>(i);
        std::string const name(transfer::to_string(strategy));
        SCOPED_TRACE(name + ", " + std::string(memory::to_string(from)) + " -> " +
                     std::string(memory::to_string(to)));
        write(dst, 2);
        auto const options = TransferOptions::builder().strategy(strategy).build();
        auto const failure = failure_of_call([&] {
          check_move(src, {0, 1}, dst, {2, 3}, whole(src), options);
          return 0;
        });
        bool const file = memory::is_store(from) || memory::is_store(to);
        bool const device = from == StorageKind::Device || to == StorageKind::Device;
        bool const system = from == StorageKind::System || to == StorageKind::System;
        bool works = false;
        switch (strategy) {
          case Strategy::HostCopy: works = !file && !device; break;
          case Strategy::StreamCopy: works = !file && (!device || !on_cuda()); break;
          case Strategy::DmaCopy: works = !file && device && !(system && on_cuda()); break;
          case Strategy::SmCopy: works = !file && device && !system; break;
          case Strategy::StagedDma:
            works = !file && device && from != to && !(system && on_cuda());
            break;
          case Strategy::PinnedStaging: works = !file && device && system; break;
          case Strategy::DirectFile:
            works = file && (memory::is_host(from) || memory::is_host(to));
            break;
          case Strategy::StagedFile: works = file; break;
          case Strategy::DirectStorage:  // not allowed here
          case Strategy::DirectRemote:   // both sides are this worker's
          case Strategy::StagedRemote:
          case Strategy::PackedRemote: break;
        }
        if (works) {
          EXPECT_FALSE(failure.code) << failure.message;
        } else {
          EXPECT_EQ(failure.code, ErrorCode::Unsupported) << failure.message;
          EXPECT_TRUE(failure.names(name + " cannot do this: ")) << failure.message;
        }
      }
      check_move(src, {0, 1}, dst, {2, 3}, whole(src), {});
    }
  }
}

/// Takes the memory of a device until nothing of a megabyte is left.
std::vector<memory::Region> take_all(device::Device& device) {
  std::vector<memory::Region> taken;
  for (std::uint64_t bytes = std::uint64_t{1} << 36U; bytes >= 1U << 20U;) {
    try {
      taken.push_back(device.allocate(bytes, 4096));
    } catch (Error const& error) {
      EXPECT_EQ(error.code(), ErrorCode::OutOfMemory) << error.what();
      bytes /= 2;
    }
  }
  return taken;
}

TEST_F(Faults, OutOfMemoryForTheRingFailsThatTransferAndTheManagerGoesOn) {
  if (on_cuda()) {
    GTEST_SKIP() << "would take all of the memory that others on this GPU may need";
  }
  auto const config = LayoutConfig::builder()
                          .num_blocks(64)
                          .num_layers(2)
                          .page_size(16)
                          .inner_dim(4 * 64)
                          .num_heads(4)
                          .dtype_width_bytes(8)
                          .build();
  auto const host = make(config, contiguous(KvBlockLayout::UniversalTP), StorageKind::Pinned);
  auto const device = make(config, contiguous(KvBlockLayout::OperationalNHD), StorageKind::Device);
  auto const back = make(config, contiguous(KvBlockLayout::UniversalTP), StorageKind::Pinned);
  write(host, 1);
  auto const staged = TransferOptions::builder().strategy(Strategy::StagedDma).build();
  {
    auto const taken = take_all(*manager_.context().devices().front());
    for (auto const& [src, dst] : {std::pair(host, device), std::pair(device, back)}) {
      write(dst, 2);
      auto const failure = failure_of_call([&] {
        move(src, all(src), dst, all(dst), staged).wait();
        return 0;
      });
      EXPECT_EQ(failure.code, ErrorCode::OutOfMemory) << failure.message;
      EXPECT_EQ(count_differences(dst, all(dst), 2, all(dst)), 0U);
    }
    auto const failure = failure_of_call([&] {
      auto const stream = own_stream("caller");
      auto options = staged;
      options.cuda_stream = stream;
      move(host, all(host), device, all(device), options);
      return 0;
    });
    EXPECT_EQ(failure.code, ErrorCode::OutOfMemory) << "on a caller's stream: " << failure.message;
    auto direct = TransferOptions::builder().strategy(Strategy::DmaCopy).build();
    move(host, all(host), device, all(device), direct).wait();
    EXPECT_EQ(count_differences(device, all(device), 1, all(device)), 0U);
  }
  move(device, all(device), back, all(back), staged).wait();
  EXPECT_EQ(count_differences(back, all(back), 1, all(back)), 0U);
}

TEST_F(Faults, LayoutsOnADeviceThatTheManagerDoesNotHaveAreRefusedByItsId) {
  auto const stranger = device::make_memory_source({device::make_host_device(3)});
  auto const foreign = layout::PhysicalLayout::builder(stranger)
                           .config(small_config(4))
                           .fully_contiguous(KvBlockLayout::OperationalNHD)
                           .allocate_device(3)
                           .build();
  auto const expect_refused = [&](PhysicalLayout const& src, PhysicalLayout const& dst) {
    auto const failure = failure_of_call([&] {
      move(src, {0}, dst, {1}).wait();
      return 0;
    });
    EXPECT_EQ(failure.code, ErrorCode::NotFound) << failure.message;
    EXPECT_TRUE(failure.names("device 3")) << failure.message;
  };
  for (auto const storage : kAllStorage) {
    SCOPED_TRACE(memory::to_string(storage));
    auto const ours = plain(storage);
    write(ours, 1);
    expect_refused(ours, foreign);
    if (memory::is_memory(storage)) { write(foreign, 2); }
    expect_refused(foreign, ours);
  }
  check_move(plain(StorageKind::Pinned), {0}, plain(StorageKind::Device), {1},
             whole(plain(StorageKind::System)), {});
}

/// An event of the backend that the manager has no device of.
class ForeignEvent : public device::Event {
 public:
  explicit ForeignEvent(bool is_cuda) : is_cuda_(is_cuda) {}
  [[nodiscard]] bool is_complete() const override { return false; }
  void wait() const override {}
  [[nodiscard]] void* native_handle() const noexcept override {
    return is_cuda_ ? const_cast<ForeignEvent*>(this) : nullptr;
  }

 private:
  bool is_cuda_;
};

TEST_F(Faults, O2_EventsAndStreamsOfABackendWithoutADeviceAreRefusedBeforeAnythingMoves) {
  auto const event = std::make_shared<ForeignEvent>(!on_cuda());
  auto const options = TransferOptions::builder().wait_for(event).build();
  for (auto const from : kAllStorage) {
    for (auto const to : kAllStorage) {
      SCOPED_TRACE(std::string(memory::to_string(from)) + " -> " +
                   std::string(memory::to_string(to)));
      auto const src = plain(from);
      auto const dst = plain(to);
      write(src, 1);
      auto const failure = failure_of_call([&] { return move(src, {0}, dst, {1}, options); });
      EXPECT_EQ(failure.code, ErrorCode::Unsupported) << failure.message;
      EXPECT_TRUE(failure.names("wait_for")) << failure.message;
    }
  }
}

/// Waits until a manager's destructor runs: it lets go of its layouts on its way.
class EndObserver {
 public:
  explicit EndObserver(TransferManager& manager) {
    auto const config = small_config(1);
    memory_.resize(config.block_bytes());
    std::shared_ptr<void const> const alive(
        static_cast<void const*>(nullptr),
        [entered = entered_](void const*) { entered->set_value(); });
    manager.register_layout(
        manager.layout_builder()
            .config(config)
            .fully_contiguous(KvBlockLayout::OperationalNHD)
            .with_external_regions({{memory_.data(), memory_.size(), StorageKind::System, alive}})
            .build());
  }
  void wait() { entered_->get_future().wait(); }

 private:
  std::vector<std::byte> memory_;
  std::shared_ptr<std::promise<void>> entered_ = std::make_shared<std::promise<void>>();
};

/// A transfer that was told to have failed while its event is still pending: the manager may end,
/// and does so when the event is complete.
class EndWithPendingEvents : public ::testing::TestWithParam<Way> {};

TEST_P(EndWithPendingEvents, N5_AfterADeadlineTheDestructorWaitsForTheEventAndNothingMoves) {
  auto manager = std::make_unique<TransferManager>(small_manager().build());
  auto const device = manager->context().devices().front();
  auto const source = manager->memory_source();
  auto const shape = contiguous(KvBlockLayout::OperationalNHD);
  auto const src = make_layout(source, small_config(4), shape, GetParam().from);
  auto const dst = make_layout(source, small_config(4), shape, GetParam().to);
  auto const host = make_layout(source, small_config(4), shape, StorageKind::System);
  write_all_blocks(host, 1);
  manager->execute_transfer(KvBlocks::of(host, {0, 1}), KvBlocks::of(src, {0, 1})).wait();
  StreamLatch latch(device->create_stream("writer"));
  auto const event = device->create_event();
  latch.stream()->record(event);
  std::stop_source stop;
  auto options = TransferOptions::builder().wait_for(event).build();
  options.strategy = GetParam().strategy;
  auto late = options;
  late.timeout = 1ms;
  auto stopped = options;
  stopped.cancellation = stop.get_token();
  auto const a = manager->execute_transfer(KvBlocks::of(src, {0}), KvBlocks::of(dst, {2}), late);
  auto const b = manager->execute_transfer(KvBlocks::of(src, {1}), KvBlocks::of(dst, {3}), stopped);
  stop.request_stop();
  EXPECT_THROW(a.wait(), TimeoutError);
  EXPECT_THROW(b.wait(), CancelledError);

  EndObserver observer(*manager);
  std::thread opener([&] {
    observer.wait();
    latch.open();
  });
  manager.reset();
  opener.join();
  EXPECT_TRUE(event->is_complete()) << "the destructor did not wait for the event";

  auto other = small_manager().build();
  if (GetParam().to == StorageKind::Disk) {
    auto const reading =
        other.execute_transfer(KvBlocks::of(dst, {2, 3}), KvBlocks::of(host, {2, 3}));
    EXPECT_EQ(failure_of_call([&] {
                reading.wait();
                return 0;
              }).code,
              ErrorCode::NotFound)
        << "a block arrived after its transfer was told to have failed";
  } else {
    auto const image = snapshot(dst);
    EXPECT_TRUE(std::all_of(image[0].begin(), image[0].end(),
                            [](std::byte byte) { return byte == std::byte{}; }));
  }
}

TEST_P(EndWithPendingEvents, N5_WithoutADeadlineTheTransferRunsWhileTheDestructorWaits) {
  auto manager = std::make_unique<TransferManager>(small_manager().build());
  auto const device = manager->context().devices().front();
  auto const shape = contiguous(KvBlockLayout::OperationalNHD);
  auto const source = manager->memory_source();
  auto const src = make_layout(source, small_config(4), shape, GetParam().from);
  auto const dst = make_layout(source, small_config(4), shape, GetParam().to);
  auto const host = make_layout(source, small_config(4), shape, StorageKind::System);
  write_all_blocks(host, 1);
  manager->execute_transfer(KvBlocks::of(host, {0}), KvBlocks::of(src, {0})).wait();
  StreamLatch latch(device->create_stream("writer"));
  auto const event = device->create_event();
  latch.stream()->record(event);
  auto options = TransferOptions::builder().wait_for(event).build();
  options.strategy = GetParam().strategy;
  auto const moving =
      manager->execute_transfer(KvBlocks::of(src, {0}), KvBlocks::of(dst, {2}), options);
  EndObserver observer(*manager);
  std::thread opener([&] {
    observer.wait();
    latch.open();
  });
  manager.reset();
  opener.join();
  EXPECT_TRUE(moving.is_ready());
  EXPECT_NO_THROW(moving.wait());
  auto other = small_manager().build();
  other.execute_transfer(KvBlocks::of(dst, {2}), KvBlocks::of(host, {3})).wait();
  EXPECT_EQ(count_differences(host, 3, 1, 0), 0U);
}

std::vector<Way> ways_that_wait() {
  auto ways = every_way();
  for (auto const host : {StorageKind::System, StorageKind::Pinned, StorageKind::Device}) {
    ways.push_back({Strategy::StagedFile, host, StorageKind::Disk});
    ways.push_back({Strategy::StagedFile, StorageKind::Disk, host});
  }
  return ways;
}

INSTANTIATE_TEST_SUITE_P(Strategy, EndWithPendingEvents, ::testing::ValuesIn(ways_that_wait()),
                         name_of_way);

}  // namespace
}  // namespace kvbm::testing
