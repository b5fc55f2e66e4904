// SPDX-License-Identifier: Apache-2.0
//
// Two managers that exchange metadata and move blocks between each other's layouts, through NIXL's
// UCX and through mapped memory. Processes that die are tested from Python.
#include <chrono>
#include <thread>

#include "integration/two_workers.hpp"

namespace kvbm::testing {
namespace {

using namespace std::chrono_literals;  // NOLINT(google-build-using-namespace): literals
using remote::LogicalLayoutHandle;
using transfer::Strategy;

constexpr std::uint64_t kBlocks = 8;

class Remote : public ::testing::TestWithParam<Reach> {
 protected:
  void SetUp() override {
    if (auto const why = why_no_nixl(); !why.empty()) { GTEST_SKIP() << why; }
    workers_.emplace(GetParam());
  }

  static PhysicalLayout make_at(TransferManager& worker, LayoutShape const& shape,
                                StorageKind storage) {
    return make_layout(worker.memory_source(), small_config(kBlocks), shape, storage);
  }
  TransferManager& here() { return workers_->here; }
  TransferManager& there() { return workers_->there; }

  std::optional<TwoWorkers> workers_;
};

INSTANTIATE_TEST_SUITE_P(Reaches, Remote, ::testing::Values(Reach::Mapped, Reach::Wire),
                         [](auto const& reach) { return to_string(reach.param); });

std::vector<LayoutShape> shapes() {
  return {
      contiguous(KvBlockLayout::OperationalNHD),
      contiguous(KvBlockLayout::UniversalTP),
      {layout::LayoutKind::LayerSeparate, BlockDimension::Second, KvBlockLayout::OperationalNHD},
      {layout::LayoutKind::LayerSeparate, BlockDimension::First, KvBlockLayout::OperationalHND}};
}

TEST_P(Remote, M6_M7_EveryPairOfStoragesAndFormatsArrivesBothWays) {
  std::vector<StorageKind> const storages(kMemoryStorage.begin(), kMemoryStorage.end());
  std::size_t number = 0;
  for (auto const& near_shape : shapes()) {
    for (auto const& far_shape : shapes()) {
      auto const near_storage = storages[number % 3];
      auto const far_storage = storages[number / 3 % 3];
      auto const near = make_at(here(), near_shape, near_storage);
      auto const far = make_at(there(), far_shape, far_storage);
      SCOPED_TRACE(near.to_string() + " <-> " + far.to_string());
      auto const near_handle = here().register_layout(near);
      auto const far_handle = there().register_layout(far);
      auto const worker = here().import_metadata(there().export_metadata());
      EXPECT_EQ(worker, there().worker_id());
      auto const turned = rotation(number++, near);
      std::vector<BlockId> const near_ids{5, 0, 3};
      std::vector<BlockId> const far_ids{1, 2, 7};
      for (auto const strategy :
           {std::optional<Strategy>{}, std::optional(Strategy::DirectRemote),
            std::optional(Strategy::StagedRemote), std::optional(Strategy::PackedRemote)}) {
        if (strategy && GetParam() == Reach::Mapped) { continue; }  // no wire there
        // A GPU's memory does not go over the wire itself.
        bool const near_gpu = on_cuda() && near_storage == StorageKind::Device;
        bool const far_gpu = on_cuda() && far_storage == StorageKind::Device;
        if (strategy == Strategy::DirectRemote && (near_gpu || far_gpu)) { continue; }
        if (strategy == Strategy::StagedRemote && far_gpu) { continue; }
        SCOPED_TRACE(strategy ? to_string(*strategy) : "automatic");
        auto options = turned.options;
        options.strategy = strategy;
        write_all_blocks(near, 1);
        write_all_blocks(far, 2);
        Image source = snapshot(near);
        Image expected = snapshot(far);
        copy_elements(near, source, near_ids, far, expected, far_ids, turned.part);
        EXPECT_EQ(
            failure_of_call([&] {
              here().execute_transfer(near_handle, near_ids, far_handle, far_ids, options).wait();
              return 0;
            }).message,
            "");
        EXPECT_EQ(snapshot(far), expected) << "written";

        write_all_blocks(near, 3);
        expected = snapshot(near);
        auto back = options;
        std::swap(back.src_head_range, back.dst_head_range);
        auto part = turned.part;
        std::swap(part.src_heads, part.dst_heads);
        source = snapshot(far);
        copy_elements(far, source, far_ids, near, expected, near_ids, part);
        here().execute_transfer(far_handle, far_ids, near_handle, near_ids, back).wait();
        EXPECT_EQ(snapshot(near), expected) << "read";
      }
      here().unimport_worker(worker);
      here().unregister_layout(near_handle);
      there().unregister_layout(far_handle);
    }
  }
}

TEST_P(Remote, M7_ATierOfAWorkerResolvesToItsLayout) {
  auto const g1 = there().register_layout(make_at(there(), shapes()[0], StorageKind::Device));
  auto const g2 = there().register_layout(make_at(there(), shapes()[0], StorageKind::Pinned));
  auto const mine = here().register_layout(make_at(here(), shapes()[0], StorageKind::Pinned));
  auto const worker = here().import_metadata(there().export_metadata().to_bytes());
  EXPECT_EQ(here().resolve(worker, LogicalLayoutHandle::G1), g1);
  EXPECT_EQ(here().resolve(worker, LogicalLayoutHandle::G2), g2);
  EXPECT_EQ(here().resolve(here().worker_id(), LogicalLayoutHandle::G2), mine);
  EXPECT_EQ(failure_of_call([&] { return here().resolve(worker, LogicalLayoutHandle::G3); }).code,
            ErrorCode::NotFound);
  EXPECT_EQ(here().imported_handles(), (std::vector{g1, g2}));
  EXPECT_EQ(here().imported_workers(), std::vector{worker});
}

TEST_P(Remote, M9_DescriptorsAreOfThisWorkersLayoutsAndTheirOwnTier) {
  auto const mine = here().register_layout(make_at(here(), shapes()[0], StorageKind::Pinned));
  auto const theirs = there().register_layout(make_at(there(), shapes()[0], StorageKind::Pinned));
  static_cast<void>(here().import_metadata(there().export_metadata()));
  EXPECT_EQ(here().build_logical_descriptor(mine, LogicalLayoutHandle::G2).handle, mine);
  auto const code = [&](LayoutHandle handle, LogicalLayoutHandle tier) {
    return failure_of_call([&] { return here().build_logical_descriptor(handle, tier); }).code;
  };
  EXPECT_EQ(code(mine, LogicalLayoutHandle::G1), ErrorCode::InvalidArgument);
  EXPECT_EQ(code(theirs, LogicalLayoutHandle::G2), ErrorCode::NotFound);
  EXPECT_EQ(code({here().worker_id(), 77}, LogicalLayoutHandle::G2), ErrorCode::NotFound);
}

TEST_P(Remote, WriteNotificationsComeOnceBehindTheirData) {
  auto const near = make_at(here(), shapes()[0], StorageKind::Pinned);
  auto const far = make_at(there(), shapes()[2], StorageKind::System);
  auto const near_handle = here().register_layout(near);
  auto const far_handle = there().register_layout(far);
  auto notices = there().subscribe_write_notifications();
  auto second = there().subscribe_write_notifications();
  workers_->meet();
  std::vector<BlockId> const ids{0, 1, 2};
  Part const all = whole(near);
  constexpr std::uint64_t kRounds = 20;
  for (std::uint64_t round = 0; round < kRounds; ++round) {
    write_all_blocks(near, round);
    auto const options = TransferOptions::builder().nixl_write_notification(round).build();
    here().execute_transfer(near_handle, ids, far_handle, ids, options).wait();
    auto const told = notices.next(20s);
    ASSERT_TRUE(told);
    EXPECT_EQ(*told, (remote::WriteNotification{here().worker_id(), round}));
    Image source = snapshot(near);
    Image expected = snapshot(far);
    copy_elements(near, source, ids, far, expected, ids, all);
    EXPECT_EQ(snapshot(far), expected) << "told before the data was there";
    EXPECT_EQ(second.next(20s), told);
  }
  EXPECT_EQ(there().remote_stats().notifications, kRounds);
  EXPECT_EQ(notices.next(0s), std::nullopt);
  auto const failure = failure_of_call([&] {
    auto const options = TransferOptions::builder().nixl_write_notification(1).build();
    here().execute_transfer(far_handle, ids, near_handle, ids, options).wait();
    return 0;
  });
  EXPECT_EQ(failure.code, ErrorCode::Unsupported) << "a read notifies nobody";
}

TEST_P(Remote, UnregisteringTellsImportersAndTheirHandlesEnd) {
  auto const near_handle =
      here().register_layout(make_at(here(), shapes()[0], StorageKind::Pinned));
  auto const far_handle =
      there().register_layout(make_at(there(), shapes()[0], StorageKind::Pinned));
  workers_->meet();
  std::vector<BlockId> const ids{0, 1};
  here().execute_transfer(near_handle, ids, far_handle, ids).wait();
  auto const prepared = here().prepare_transfer(near_handle, far_handle);
  there().unregister_layout(far_handle);
  auto const code = [&](auto const& call) { return failure_of_call(call).code; };
  EXPECT_EQ(code([&] { return here().execute_transfer(near_handle, ids, far_handle, ids); }),
            ErrorCode::NotFound);
  EXPECT_EQ(code([&] { return prepared.submit(ids, ids); }), ErrorCode::NotFound);
  EXPECT_TRUE(here().imported_handles().empty());
}

TEST_P(Remote, M6_ImportingIsRefusedTwiceAndForOneself) {
  static_cast<void>(there().register_layout(make_at(there(), shapes()[0], StorageKind::Pinned)));
  auto const metadata = there().export_metadata();
  static_cast<void>(here().import_metadata(metadata));
  auto const code = [&](remote::SerializedLayout const& given) {
    return failure_of_call([&] { return here().import_metadata(given); }).code;
  };
  EXPECT_EQ(code(metadata), ErrorCode::AlreadyExists);
  EXPECT_EQ(code(here().export_metadata()), ErrorCode::InvalidArgument);
  auto renamed = metadata;  // another worker of the same agent name
  renamed.worker_id += 1;
  renamed.layouts.clear();
  EXPECT_EQ(code(renamed), ErrorCode::AlreadyExists);
  here().unimport_worker(metadata.worker_id);
  here().unimport_worker(metadata.worker_id);
  EXPECT_EQ(here().import_metadata(metadata), metadata.worker_id);
  EXPECT_EQ(here().imported_handles().size(), 1U);
}

TEST_P(Remote, M8_NothingIsKeptOfMetadataThatIsRefused) {
  static_cast<void>(there().register_layout(make_at(there(), shapes()[0], StorageKind::Pinned)));
  auto metadata = there().export_metadata();
  metadata.address.nixl_metadata.resize(metadata.address.nixl_metadata.size() / 2);
  EXPECT_TRUE(failure_of_call([&] { return here().import_metadata(metadata); }).code);
  EXPECT_TRUE(here().imported_handles().empty());
  EXPECT_TRUE(here().imported_workers().empty());
  auto const bytes = there().export_metadata().to_bytes();
  auto damaged = bytes;
  damaged[damaged.size() / 2] ^= std::byte{1};
  EXPECT_EQ(failure_of_call([&] { return here().import_metadata(damaged); }).code,
            ErrorCode::Corrupt);
  EXPECT_EQ(here().import_metadata(bytes), there().worker_id());
}

TEST_P(Remote, WhatIsOfAnotherWorkerCannotBeMovedFromAfarOrAsked) {
  auto const far = make_at(there(), shapes()[0], StorageKind::Pinned);
  auto const far_handle = there().register_layout(far);
  auto const second = there().register_layout(make_at(there(), shapes()[0], StorageKind::Pinned));
  static_cast<void>(here().import_metadata(there().export_metadata()));
  std::vector<BlockId> const ids{0};
  auto const move =
      failure_of_call([&] { return here().execute_transfer(far_handle, ids, second, ids); });
  auto const ask = failure_of_call([&] { return here().block_checksums(far_handle, ids); });
  if (GetParam() == Reach::Wire) {
    EXPECT_EQ(move.code, ErrorCode::Unsupported) << move.message;
    EXPECT_EQ(ask.code, ErrorCode::Unsupported) << ask.message;
    EXPECT_NE(here().how_reached(far_handle).find("NIXL"), std::string::npos);
  } else {
    EXPECT_EQ(move.code, std::nullopt) << move.message;
    EXPECT_EQ(ask.code, std::nullopt) << ask.message;
    EXPECT_NE(here().how_reached(far_handle).find("mapped"), std::string::npos);
  }
}

TEST_P(Remote, P14_ManyTransfersAtOnceAllArrive) {
  auto const near = make_at(here(), shapes()[0], StorageKind::Pinned);
  auto const far = make_at(there(), shapes()[1], StorageKind::Pinned);
  auto const near_handle = here().register_layout(near);
  auto const far_handle = there().register_layout(far);
  workers_->meet();
  write_all_blocks(near, 9);
  std::vector<std::thread> threads;
  for (std::size_t t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      std::vector<TransferCompleteNotification> notifications;
      std::vector<BlockId> const ids{static_cast<BlockId>(t), static_cast<BlockId>(t + 4)};
      for (int i = 0; i < 50; ++i) {
        notifications.push_back(here().execute_transfer(near_handle, ids, far_handle, ids));
      }
      TransferCompleteNotification::aggregate(notifications).wait();
    });
  }
  for (auto& thread : threads) {
    thread.join();
  }
  auto const back = make_at(here(), shapes()[0], StorageKind::System);
  auto const back_handle = here().register_layout(back);
  auto const ids = first_blocks(kBlocks);
  here().execute_transfer(far_handle, ids, back_handle, ids).wait();
  Image found = snapshot(back);
  Image wanted = snapshot(near);
  EXPECT_EQ(count_element_differences(back, found, wanted, ids), 0U);
}

TEST_P(Remote, AWorkerThatWasShutDownIsGoneAndOthersGoOn) {
  auto const near_handle =
      here().register_layout(make_at(here(), shapes()[0], StorageKind::Pinned));
  std::vector<BlockId> const ids{0};
  auto const failure = [&] {
    auto third = remote_manager("third", GetParam()).build();
    auto const handle = third.register_layout(make_at(third, shapes()[0], StorageKind::Pinned));
    static_cast<void>(here().import_metadata(third.export_metadata()));
    static_cast<void>(third.import_metadata(here().export_metadata()));
    here().execute_transfer(near_handle, ids, handle, ids).wait();
    return handle;
  }();
  // The farewell is on its way: what comes before it is refused or fails by itself.
  auto const deadline = std::chrono::steady_clock::now() + 20s;
  Failure last;
  while (last.code != ErrorCode::PeerLost && std::chrono::steady_clock::now() < deadline) {
    last = failure_of_call([&] {
      here().execute_transfer(near_handle, ids, failure, ids).wait();
      return 0;
    });
  }
  EXPECT_EQ(last.code, ErrorCode::PeerLost) << last.message;
  EXPECT_TRUE(last.names("third")) << last.message;
  here().unimport_worker(failure.worker_id());
  auto const far_handle =
      there().register_layout(make_at(there(), shapes()[0], StorageKind::Pinned));
  workers_->meet();
  here().execute_transfer(near_handle, ids, far_handle, ids).wait();
}

TEST(RemoteGpu, ItsMemoryGoesOverTheWireOnlyWhereThatIsAllowed) {
  if (!on_cuda()) { GTEST_SKIP() << "for a GPU"; }
  if (auto const why = why_no_nixl(); !why.empty()) { GTEST_SKIP() << why; }
  for (bool const allowed : {false, true}) {
    transfer::TransferCapabilities capabilities;
    capabilities.allow_gpu_rdma = allowed;
    auto const worker = [&](std::string const& name) {
      return remote_manager(name, Reach::Wire).capabilities(capabilities).build();
    };
    auto here = worker("gpu-here");
    auto there = worker("gpu-there");
    auto const make = [](TransferManager& manager, LayoutShape const& shape) {
      return make_layout(manager.memory_source(), small_config(kBlocks), shape,
                         StorageKind::Device);
    };
    auto const near = make(here, shapes()[0]);
    auto const far = make(there, shapes()[1]);
    auto const near_handle = here.register_layout(near);
    auto const far_handle = there.register_layout(far);
    static_cast<void>(here.import_metadata(there.export_metadata()));
    write_all_blocks(near, 1);
    write_all_blocks(far, 2);
    auto const ids = first_blocks(kBlocks);
    Image source = snapshot(near);
    Image expected = snapshot(far);
    copy_elements(near, source, ids, far, expected, ids, whole(near));
    auto const options = TransferOptions::builder().strategy(Strategy::DirectRemote).build();
    auto const failure = failure_of_call([&] {
      here.execute_transfer(near_handle, ids, far_handle, ids, options).wait();
      return 0;
    });
    if (allowed) {
      EXPECT_EQ(failure.message, "");
      EXPECT_EQ(snapshot(far), expected);
    } else {
      EXPECT_EQ(failure.code, ErrorCode::Unsupported);
      EXPECT_TRUE(failure.names("allow_gpu_rdma")) << failure.message;
    }
  }
}

TEST(RemoteAlone, WithoutABackendThereAreNoOthers) {
  auto manager = emulated_manager().build();
  EXPECT_EQ(failure_of_call([&] { return manager.export_metadata(); }).code,
            ErrorCode::Unsupported);
  EXPECT_EQ(failure_of_call([&] { return manager.remote_stats(); }).code, ErrorCode::Unsupported);
}

TEST(RemoteAlone, AnUnknownBackendOrLibraryIsRefusedByName) {
  auto const no_library = failure_of_call([] {
    return emulated_manager().nixl_backend("ucx").nixl_library("/nowhere/libnixl_capi.so").build();
  });
  EXPECT_EQ(no_library.code, ErrorCode::Unsupported);
  EXPECT_TRUE(no_library.names("/nowhere/libnixl_capi.so")) << no_library.message;
  if (auto const why = why_no_nixl(); !why.empty()) { GTEST_SKIP() << why; }
  auto const unknown =
      failure_of_call([] { return emulated_manager().nixl_backend("carrier_pigeon").build(); });
  EXPECT_EQ(unknown.code, ErrorCode::InvalidArgument);
  EXPECT_TRUE(unknown.names("carrier_pigeon") && unknown.names("UCX")) << unknown.message;
}

}  // namespace
}  // namespace kvbm::testing
