// SPDX-License-Identifier: Apache-2.0
//
// Ready at once, refused at once, prepared once, and the end of the manager.
#include <array>
#include <cerrno>
#include <chrono>
#include <future>
#include <optional>
#include <thread>

#include "contract/transfer_fixture.hpp"
#include "kvbm/testing/completion_contract.hpp"
#include "kvbm/testing/gated_disk.hpp"

namespace kvbm::testing {
namespace {

using transfer::KvBlocks;

TransferManager::Builder one_stream_manager() {
  return std::move(small_manager().num_streams(1, 1).file_workers(1));
}

class Lifetime : public TransferTest {
 protected:
  Lifetime() : TransferTest(one_stream_manager()) {}
  PhysicalLayout make_plain(StorageKind storage, std::uint64_t num_blocks = 8) {
    return make(small_config(num_blocks), contiguous(KvBlockLayout::OperationalNHD), storage);
  }
};

TEST_F(Lifetime, N2_EmptyTransfersAndHostCopiesAreReadyWithoutAllocation) {
  for (auto const from : kAllStorage) {
    for (auto const to : kAllStorage) {
      auto const src = make_plain(from);
      auto const dst = make_plain(to);
      auto const empty = move(src, {}, dst, {});
      EXPECT_TRUE(empty.is_ready());
      EXPECT_FALSE(empty.could_yield());
      write(src, 1);
      auto const one = move(src, {0}, dst, {1});
      bool const is_host = memory::is_host(from) && memory::is_host(to);
      EXPECT_EQ(one.could_yield(), !is_host);
      EXPECT_TRUE(!is_host || one.is_ready());
      one.wait();
    }
  }
}

TEST_F(Lifetime, V1_V2_BadBlockListsAreRefusedBeforeAnythingMoves) {
  for (auto const from : kAllStorage) {
    for (auto const to : kAllStorage) {
      auto const src = make_plain(from);
      auto const dst = make_plain(to);
      write(src, 1);
      write(dst, 2);
      auto const before = image_of(dst);
      auto const code = [&](std::vector<BlockId> const& a, std::vector<BlockId> const& b,
                            std::string const& names) {
        auto const failure = failure_of_call([&] {
          return manager_.execute_transfer(manager_.register_layout(src), a,
                                           manager_.register_layout(dst), b);
        });
        EXPECT_TRUE(failure.names(names)) << failure.message;
        return failure.code;
      };
      EXPECT_EQ(code({0, 1, 2, 3, 4}, {0, 1, 2, 1, 3}, "[1]"), ErrorCode::InvalidArgument);
      EXPECT_EQ(code({0, 1, 2}, {0, 1}, "3"), ErrorCode::InvalidArgument);
      EXPECT_EQ(code({0, 8}, {0, 1}, "source block 8"), ErrorCode::OutOfRange);
      EXPECT_EQ(code({0, 1}, {0, 71}, "destination block 71"), ErrorCode::OutOfRange);
      EXPECT_EQ(image_of(dst), before);
      EXPECT_EQ(failure_of_call([&] { return move(src, {0, 1, 2}, src, {2, 3, 4}); }).code,
                ErrorCode::InvalidArgument);
    }
  }
}

TEST_F(Lifetime, V2_LayoutsOfDifferentShapeAreRefusedNamingBothValues) {
  auto const src = make_plain(StorageKind::System);
  auto const base = [] {
    return LayoutConfig::builder().num_blocks(8).num_layers(4).page_size(4).inner_dim(12).num_heads(
        4);
  };
  for (auto const& [config, field] : std::vector<std::pair<LayoutConfig, std::string>>{
           {base().num_layers(5).build(), "num_layers"},
           {base().outer_dim(1).build(), "outer_dim"},
           {base().page_size(8).build(), "page_size"},
           {base().inner_dim(16).build(), "head_dim"},
           {base().inner_dim(6).num_heads(2).build(), "heads"},
           {base().dtype_width_bytes(4).build(), "dtype_width_bytes"}}) {
    auto const dst = make(config, contiguous(KvBlockLayout::OperationalNHD), StorageKind::Device);
    auto const failure = failure_of_call([&] { return move(src, {0}, dst, {1}); });
    EXPECT_EQ(failure.code, ErrorCode::InvalidArgument) << field;
    EXPECT_TRUE(failure.names(field)) << failure.message;
  }
}

TEST_F(Lifetime, V2_BlocksThatOverlapByAddressAreRefused) {
  auto const config = small_config(8);
  std::vector<std::byte> memory(8 * config.block_bytes() + 64);
  auto const at = [&](std::uint64_t offset) {
    return manager_.layout_builder()
        .config(config)
        .fully_contiguous(KvBlockLayout::OperationalNHD)
        .with_external_regions(
            {{memory.data() + offset, 8 * config.block_bytes(), StorageKind::System, {}}})
        .build();
  };
  auto const a = at(0);
  auto const b = at(8);
  EXPECT_EQ(failure_of_call([&] { return move(a, {3}, b, {3}); }).code, ErrorCode::InvalidArgument);
  EXPECT_EQ(failure_of_call([&] { return move(a, {3}, b, {2}); }).code, ErrorCode::InvalidArgument);
  EXPECT_NO_THROW(move(a, {3}, b, {5}).wait());
}

TEST_F(Lifetime, O2_S3_OptionsThatCannotBeHonouredAreRefused) {
  auto const src = make_plain(StorageKind::Pinned);
  auto const dst = make_plain(StorageKind::Disk);
  auto const handle = manager_.register_layout(make_plain(StorageKind::Pinned));
  auto const code = [&](TransferOptions const& options) {
    return failure_of_call([&] { return move(src, {0}, dst, {1}, options); }).code;
  };
  auto const with = [] { return TransferOptions::builder(); };
  EXPECT_EQ(code(with().nixl_write_notification(7).build()), ErrorCode::Unsupported);
  EXPECT_EQ(code(with().max_sms(4).build()), ErrorCode::Unsupported);
  EXPECT_EQ(code(with().layer_range(2, 2).build()), ErrorCode::InvalidArgument);
  EXPECT_EQ(code(with().layer_range(3, 1).build()), ErrorCode::InvalidArgument);
  EXPECT_EQ(code(with().layer_range(3, 5).build()), ErrorCode::OutOfRange);
  EXPECT_EQ(code(with().head_range({4, 5}).build()), ErrorCode::OutOfRange);
  EXPECT_EQ(code(with().head_range({1, 1}).build()), ErrorCode::InvalidArgument);
  EXPECT_EQ(code(with().src_head_range({0, 2}).build()), ErrorCode::InvalidArgument);
  EXPECT_EQ(code(with().bounce_buffer({handle, {}}).build()), ErrorCode::InvalidArgument);
  EXPECT_EQ(code(with().bounce_buffer({handle, {1, 1}}).build()), ErrorCode::InvalidArgument);
  EXPECT_EQ(code(with().bounce_buffer({handle, {8}}).build()), ErrorCode::OutOfRange);
  auto const other = manager_.register_layout(
      make(small_config(4, 8), contiguous(KvBlockLayout::OperationalNHD), StorageKind::Pinned));
  EXPECT_EQ(code(with().bounce_buffer({other, {0}}).build()), ErrorCode::InvalidArgument);
  auto const file = manager_.register_layout(dst);
  EXPECT_EQ(code(with().bounce_buffer({file, {0}}).build()), ErrorCode::InvalidArgument);
}

TEST(TransferOptionsBuilder, O1_RefusesBadValues) {
  using namespace std::chrono_literals;
  using Builder = TransferOptions::Builder;
  auto const code = [](auto const& set) {
    return failure_of_call([&set] {
             auto builder = TransferOptions::builder();
             set(builder);
             return builder.build();
           })
        .code;
  };
  EXPECT_EQ(code([](Builder& b) { b.timeout(0ns); }), ErrorCode::InvalidArgument);
  EXPECT_EQ(code([](Builder& b) { b.timeout(-1ns); }), ErrorCode::InvalidArgument);
  EXPECT_EQ(code([](Builder& b) { b.max_sms(0); }), ErrorCode::InvalidArgument);
  EXPECT_EQ(code([](Builder& b) { b.cuda_stream(nullptr); }), ErrorCode::InvalidArgument);
  EXPECT_EQ(code([](Builder& b) { b.wait_for(nullptr); }), ErrorCode::InvalidArgument);
  EXPECT_EQ(code([](Builder& b) { b.record_on(nullptr); }), ErrorCode::InvalidArgument);
}

TEST_F(Lifetime, PreparedTransfersAreSubmittedFromManyThreads) {
  constexpr std::size_t kThreads = 8;
  constexpr std::size_t kEach = 40;
  for (auto const to : kAllStorage) {
    auto const config = small_config(kThreads * kEach, 2, 2, 2);
    auto const src = make(config, contiguous(KvBlockLayout::OperationalNHD), StorageKind::Pinned);
    auto const dst = make(config, contiguous(KvBlockLayout::UniversalTP), to);
    write(src, 1);
    auto const prepared =
        manager_.prepare_transfer(manager_.register_layout(src), manager_.register_layout(dst));
    std::vector<std::thread> threads;
    for (std::size_t t = 0; t < kThreads; ++t) {
      threads.emplace_back([&, t] {
        std::vector<TransferCompleteNotification> parts;
        for (std::size_t i = 0; i < kEach; ++i) {
          auto const id = static_cast<BlockId>(t * kEach + i);
          parts.push_back(prepared.submit({&id, 1}, {&id, 1}));
        }
        TransferCompleteNotification::aggregate(parts).wait();
      });
    }
    for (auto& thread : threads) {
      thread.join();
    }
    Image source = image_of(src);
    Image expected = image_of(dst);
    copy_elements(src, source, all(src), dst, expected, all(dst), whole(src));
    expect_image(dst, expected);
  }
}

TEST_F(Lifetime, PreparedTransfersOfLayoutsUnregisteredSinceAreRefused) {
  auto const src = manager_.register_layout(make_plain(StorageKind::System));
  auto const dst = manager_.register_layout(make_plain(StorageKind::Device));
  auto const prepared = manager_.prepare_transfer(src, dst);
  std::array<BlockId, 1> const id{0};
  prepared.submit(id, id).wait();
  manager_.unregister_layout(dst);
  EXPECT_EQ(failure_of_call([&] { return prepared.submit(id, id); }).code, ErrorCode::NotFound);
}

TEST(ManagerEnd, N5_PreparedTransfersOutliveItAndRefuse) {
  std::optional<transfer::PreparedTransfer> prepared;
  {
    auto manager = one_stream_manager().build();
    auto const make = [&](StorageKind storage) {
      return manager.register_layout(make_layout(manager.memory_source(), small_config(2),
                                                 contiguous(KvBlockLayout::OperationalNHD),
                                                 storage));
    };
    prepared = manager.prepare_transfer(make(StorageKind::System), make(StorageKind::Device));
  }
  std::array<BlockId, 1> const id{0};
  EXPECT_EQ(failure_of_call([&] { return prepared->submit(id, id); }).code,
            ErrorCode::ShuttingDown);
}

TEST(ManagerEnd, N5_WaitsForTransfersInFlight) {
  auto const shape = contiguous(KvBlockLayout::OperationalNHD);
  auto manager = std::make_unique<TransferManager>(one_stream_manager().build());
  auto const src =
      make_layout(manager->memory_source(), small_config(4), shape, StorageKind::Pinned);
  auto const dst =
      make_layout(manager->memory_source(), small_config(4), shape, StorageKind::Device);
  auto const file =
      make_layout(manager->memory_source(), small_config(4), shape, StorageKind::Disk);
  write_all_blocks(src, 1);
  StreamLatch latch(manager->context().acquire_h2d_stream());
  auto const event = manager->context().devices().front()->create_event();
  latch.stream()->record(event);
  auto const notification =
      manager->execute_transfer(KvBlocks::of(src, {0}), KvBlocks::of(dst, {1}));
  auto const to_file =
      manager->execute_transfer(KvBlocks::of(src, {0}), KvBlocks::of(file, {1}),
                                TransferOptions::builder().wait_for(event).build());
  EXPECT_FALSE(notification.is_ready());
  EXPECT_FALSE(to_file.is_ready());
  std::promise<void> about_to_end;
  std::thread opener([&] {
    about_to_end.get_future().wait();
    latch.open();
  });
  about_to_end.set_value();
  manager.reset();
  EXPECT_TRUE(notification.is_ready());
  EXPECT_TRUE(to_file.is_ready());
  EXPECT_NO_THROW(notification.wait());
  EXPECT_NO_THROW(to_file.wait());
  EXPECT_EQ(count_differences(dst, 1, 1, 0), 0U);
  opener.join();
}

TEST(ManagerEnd, N5_DroppedNotificationsNeitherCancelNorLeak) {
  auto const shape = contiguous(KvBlockLayout::OperationalNHD);
  auto manager = std::make_unique<TransferManager>(one_stream_manager().build());
  auto const src =
      make_layout(manager->memory_source(), small_config(4), shape, StorageKind::Pinned);
  auto const dst =
      make_layout(manager->memory_source(), small_config(4), shape, StorageKind::Device);
  write_all_blocks(src, 1);
  manager->execute_transfer(KvBlocks::of(src, {0, 1}), KvBlocks::of(dst, {2, 3}));
  manager.reset();
  EXPECT_EQ(count_differences(dst, 3, 1, 1), 0U);
}

/// A file transfer at a gate; a failure is one of the disk.
class FileSource {
 public:
  static constexpr char const* kFailureText = "Input/output error";
  FileSource()
      : manager_(one_stream_manager().disk_io(disk_.io()).build()),
        pinned_(make(StorageKind::Pinned)),
        file_(make(StorageKind::Disk)) {}

  TransferCompleteNotification pending() {
    disk_.hold([](auto const&) { return true; });
    auto notification =
        manager_.execute_transfer(KvBlocks::of(pinned_, {0}), KvBlocks::of(file_, {0}));
    disk_.wait_until_held();
    return notification;
  }
  void succeed() { disk_.open(); }
  void fail() {
    // The disk decides about a request when the gate opens.
    disk_.fail(EIO, [](auto const&) { return true; });
    disk_.open();
  }

 private:
  PhysicalLayout make(StorageKind storage) {
    return make_layout(manager_.memory_source(), small_config(2),
                       contiguous(KvBlockLayout::OperationalNHD), storage);
  }
  GatedDisk disk_;
  TransferManager manager_;
  PhysicalLayout pinned_;
  PhysicalLayout file_;
};

/// A transfer between memories that waits for an event; a failure is a token used meanwhile.
class StreamSource {
 public:
  static constexpr char const* kFailureText = "cancelled by the caller";
  StreamSource() : manager_(one_stream_manager().build()) {}
  TransferCompleteNotification pending() {
    latch_.reset();
    auto const device = manager_.context().devices().front();
    latch_ = std::make_unique<StreamLatch>(device->create_stream("writer"));
    stop_ = std::stop_source();
    auto const event = device->create_event();
    latch_->stream()->record(event);
    return manager_.execute_transfer(
        KvBlocks::of(pinned_, {0}), KvBlocks::of(device_, {0}),
        TransferOptions::builder().wait_for(event).cancellation(stop_.get_token()).build());
  }
  void succeed() { latch_->open(); }
  void fail() { stop_.request_stop(); }

 private:
  PhysicalLayout make(StorageKind storage) {
    return make_layout(manager_.memory_source(), small_config(2),
                       contiguous(KvBlockLayout::OperationalNHD), storage);
  }
  TransferManager manager_;
  PhysicalLayout pinned_ = make(StorageKind::Pinned);
  PhysicalLayout device_ = make(StorageKind::Device);
  std::stop_source stop_;
  std::unique_ptr<StreamLatch> latch_;
};

using Sources = ::testing::Types<FileSource, StreamSource>;
INSTANTIATE_TYPED_TEST_SUITE_P(Manager, CompletionContract, Sources);

}  // namespace
}  // namespace kvbm::testing
