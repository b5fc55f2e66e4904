// SPDX-License-Identifier: Apache-2.0
#include "kvbm/manager/transfer_manager.hpp"

#include <algorithm>
#include <array>
#include <set>
#include <unordered_set>

#include "contract/transfer_fixture.hpp"

namespace kvbm::testing {
namespace {

using transfer::KvBlocks;

TEST(LayoutHandleTest, M1_KeepsBothPartsAtTheirLimitsAndThroughBits) {
  std::uint64_t const max_worker = ~std::uint64_t{0};
  for (auto const& [worker, id] : {std::pair<std::uint64_t, std::uint16_t>{0, 0},
                                   {42, 7},
                                   {max_worker, 65535},
                                   {1, 65535},
                                   {max_worker, 0}}) {
    LayoutHandle const handle(worker, id);
    EXPECT_EQ(handle.worker_id(), worker);
    EXPECT_EQ(handle.layout_id(), id);
    EXPECT_EQ(handle.reserved_bits(), 0U);
    EXPECT_EQ(handle.to_bits(), (std::array<std::uint64_t, 2>{worker, id}));
    EXPECT_EQ(LayoutHandle::from_bits(handle.to_bits()), handle);
    EXPECT_EQ(to_string(handle), "LayoutHandle(worker=" + std::to_string(worker) +
                                     ", layout=" + std::to_string(id) + ")");
  }
  std::unordered_set<LayoutHandle> const set{{1, 2}, {2, 1}, {1, 2}};
  EXPECT_EQ(set.size(), 2U);
  EXPECT_LT(LayoutHandle(1, 2), LayoutHandle(1, 3));
}

class Manager : public TransferTest {
 protected:
  PhysicalLayout plain(StorageKind storage = StorageKind::System) {
    return make(small_config(4), contiguous(KvBlockLayout::OperationalNHD), storage);
  }
  std::array<BlockId, 1> const zero_{0};
  std::array<BlockId, 1> const one_{1};
};

TEST_F(Manager, M2_HandlesWithReservedBitsAreRefused) {
  auto const handle = manager_.register_layout(plain());
  auto bits = handle.to_bits();
  bits[1] |= std::uint64_t{1} << 16U;
  auto const strange = LayoutHandle::from_bits(bits);
  EXPECT_EQ(strange.to_bits(), bits);
  EXPECT_EQ(failure_of_call([&] { return manager_.layout(strange); }).code, ErrorCode::NotFound);
  EXPECT_EQ(failure_of_call([&] {
              manager_.unregister_layout(strange);
              return 0;
            }).code,
            ErrorCode::NotFound);
}

TEST_F(Manager, M3_RegistersZeroOneTwoAndListsThem) {
  for (std::uint16_t id = 0; id < 3; ++id) {
    EXPECT_EQ(manager_.register_layout(plain()), LayoutHandle(manager_.worker_id(), id));
  }
  auto const handles = manager_.handles();
  ASSERT_EQ(handles.size(), 3U);
  EXPECT_TRUE(std::ranges::is_sorted(handles));
}

TEST_F(Manager, M3_BadHandlesAreNamedByTheirRole) {
  auto other = small_manager().build();
  auto const mine = manager_.register_layout(plain());
  auto const second = manager_.register_layout(plain());
  auto const foreign = other.register_layout(plain());
  auto const stale = manager_.register_layout(plain());
  manager_.unregister_layout(stale);
  for (auto const& bad : {foreign, stale}) {
    auto const expect = [&](std::string const& role, auto const& call) {
      auto const failure = failure_of_call(call);
      EXPECT_EQ(failure.code, ErrorCode::NotFound);
      EXPECT_TRUE(failure.names(role + " handle")) << failure.message;
      EXPECT_TRUE(failure.names(to_string(bad))) << failure.message;
    };
    expect("source", [&] { return manager_.execute_transfer(bad, zero_, mine, one_); });
    expect("destination", [&] { return manager_.execute_transfer(mine, zero_, bad, one_); });
    expect("source", [&] { return manager_.explain_transfer(bad, zero_, mine, one_); });
    expect("bounce", [&] {
      return manager_.execute_transfer(
          mine, zero_, second, one_, TransferOptions::builder().bounce_buffer({bad, {0}}).build());
    });
    EXPECT_EQ(failure_of_call([&] { return manager_.blocks(bad, {0}); }).code, ErrorCode::NotFound);
    EXPECT_EQ(failure_of_call([&] { return manager_.block_checksums(bad, zero_); }).code,
              ErrorCode::NotFound);
  }
}

TEST_F(Manager, M4_TheLayoutAfter65536IsRefusedAndIdsComeAgainOnlyAfterAllOthers) {
  auto const layout = plain();
  for (std::uint32_t i = 0; i < 100; ++i) {
    manager_.register_layout(layout);
  }
  LayoutHandle const fifth(manager_.worker_id(), 5);
  manager_.unregister_layout(fifth);
  EXPECT_EQ(manager_.register_layout(layout).layout_id(), 100) << "5 has to wait for its turn";
  for (std::uint32_t i = 101; i < 65536; ++i) {
    ASSERT_EQ(manager_.register_layout(layout).layout_id(), i);
  }
  EXPECT_EQ(manager_.register_layout(layout).layout_id(), 5);
  auto const failure = failure_of_call([&] { return manager_.register_layout(layout); });
  EXPECT_EQ(failure.code, ErrorCode::OutOfRange);
  EXPECT_TRUE(failure.names("65536")) << failure.message;
  EXPECT_EQ(manager_.handles().size(), 65536U);
  manager_.unregister_layout(LayoutHandle(manager_.worker_id(), 65535));
  EXPECT_EQ(manager_.register_layout(layout).layout_id(), 65535);
}

TEST_F(Manager, M4_UnregisteringFreesTheMemory) {
  auto const device = manager_.context().devices().front();
  auto const before = device->used_bytes();
  auto const handle = manager_.register_layout(plain(StorageKind::Device));
  EXPECT_GT(device->used_bytes(), before);
  manager_.unregister_layout(handle);
  EXPECT_EQ(device->used_bytes(), before);
  EXPECT_EQ(failure_of_call([&] { return manager_.layout(handle); }).code, ErrorCode::NotFound);
}

TEST_F(Manager, M4_UnregisteringWhatATransferUsesIsBusyUntilItEnds) {
  auto const src = manager_.register_layout(plain());
  auto const dst = manager_.register_layout(plain());
  StreamLatch latch(manager_.context().acquire_d2d_stream());
  auto const event = manager_.context().devices().front()->create_event();
  latch.stream()->record(event);
  auto const notification = manager_.execute_transfer(
      src, zero_, dst, one_, TransferOptions::builder().wait_for(event).build());
  for (auto const handle : {src, dst}) {
    auto const failure = failure_of_call([&] {
      manager_.unregister_layout(handle);
      return 0;
    });
    EXPECT_EQ(failure.code, ErrorCode::Busy);
    EXPECT_TRUE(failure.names(to_string(handle))) << failure.message;
  }
  latch.open();
  notification.wait();
  EXPECT_NO_THROW(manager_.unregister_layout(src));
  EXPECT_NO_THROW(manager_.unregister_layout(dst));
}

TEST_F(Manager, L11_KvBlocksMoveWhetherTheirLayoutIsRegisteredOrNot) {
  auto const src = plain();
  auto const dst = plain(StorageKind::Device);
  write(src, 1);
  auto const handle = manager_.register_layout(src);
  manager_.execute_transfer(manager_.blocks(handle, {0, 1}), KvBlocks::of(dst, {2, 3})).wait();
  EXPECT_EQ(count_differences(dst, 2, 1, 0), 0U);
  EXPECT_EQ(count_differences(dst, 3, 1, 1), 0U);
  EXPECT_EQ(manager_.blocks(handle, {0}).handle(), handle);
  EXPECT_EQ(failure_of_call([&] { return manager_.blocks(handle, {0, 4}); }).code,
            ErrorCode::OutOfRange);
  auto const stale = manager_.blocks(handle, {0});
  manager_.unregister_layout(handle);
  EXPECT_EQ(failure_of_call([&] {
              return manager_.execute_transfer(stale, KvBlocks::of(dst, {0}));
            }).code,
            ErrorCode::NotFound);
}

TEST_F(Manager, L11_KvBlocksOverridesAreUsedInTheTransfer) {
  auto const src = plain();
  auto const dst = plain();
  write(src, 1);
  auto const read = src.with_format(KvBlockLayout::UniversalTP);
  Image source = image_of(src);
  Image expected = image_of(dst);
  copy_elements(read, source, {0}, dst, expected, {1}, whole(dst));
  manager_
      .execute_transfer(
          manager_.blocks(manager_.register_layout(src), {0}, KvBlockLayout::UniversalTP),
          KvBlocks::of(dst, {1}))
      .wait();
  EXPECT_EQ(image_of(dst), expected);
}

TEST(ManagerBuilder, WorkerIdsAreNeverZeroAndDifferBetweenManagers) {
  std::set<std::uint64_t> ids{0};
  for (int i = 0; i < 5; ++i) {
    ids.insert(small_manager().build().worker_id());
  }
  EXPECT_EQ(ids.size(), 6U);
}

TEST(ManagerBuilder, SharedEventSystemsGiveTheirWorkerId) {
  auto const system = transfer::EventSystem::create();
  EXPECT_EQ(small_manager().event_system(system).build().worker_id(), system->worker_id());
}

TEST(ManagerBuilder, RefusesWhatIsNotHere) {
  auto const nixl = failure_of_call(
      [] { return small_manager().nixl_backend("UCX").nixl_library("/no/such/nixl.so").build(); });
  EXPECT_EQ(nixl.code, ErrorCode::Unsupported);
  EXPECT_TRUE(nixl.names("/no/such/nixl.so")) << nixl.message;
  if (!device::cuda_unavailable_reason().empty()) {
    auto const cuda = failure_of_call([] { return emulated_manager().cuda_device_id(0).build(); });
    EXPECT_EQ(cuda.code, ErrorCode::Unsupported);
    EXPECT_TRUE(cuda.names("no CUDA device")) << cuda.message;
  }
}

TEST(ManagerBuilder, RefusesBadValuesByName) {
  auto const expect_refused = [](TransferManager::Builder& builder, std::string const& names) {
    auto const failure = failure_of_call([&] { return builder.build(); });
    EXPECT_EQ(failure.code, ErrorCode::InvalidArgument) << names;
    EXPECT_TRUE(failure.names(names)) << failure.message;
  };
  auto builder = emulated_manager();
  expect_refused(builder.host_device(0), "host_device");
  builder = emulated_manager();
  expect_refused(builder.file_workers(0), "file_workers");
  builder = emulated_manager();
  expect_refused(builder.num_streams(0, 1), "h2d");
  builder = emulated_manager();
  expect_refused(builder.num_streams(1, 0), "d2h");
  builder = emulated_manager();
  expect_refused(builder.devices({nullptr}), "null");
  builder = emulated_manager();
  expect_refused(builder.devices({device::make_host_device(3), device::make_host_device(3)}), "3");
}

TEST(ManagerBuilder, GivesAsManyDevicesStreamsAndPoolBytesAsAskedFor) {
  auto const manager = TransferManager::builder()
                           .host_device(3, std::uint64_t{64} << 20U)
                           .cuda_pool_reserve_size(4U << 20U)
                           .num_streams(2, 3)
                           .build();
  auto& context = manager.context();
  EXPECT_EQ(context.devices().size(), 3U);
  EXPECT_EQ(context.memory_pool_stats().reserved_bytes, 4U << 20U);
  std::set<device::StreamPtr> h2d;
  std::set<device::StreamPtr> d2h;
  for (int i = 0; i < 12; ++i) {
    h2d.insert(context.acquire_h2d_stream());
    d2h.insert(context.acquire_d2h_stream());
  }
  EXPECT_EQ(h2d.size(), 2U);
  EXPECT_EQ(d2h.size(), 3U);
}

TEST_F(Manager, TransfersReachEveryDevice) {
  auto manager = TransferManager::builder()
                     .host_device(2, std::uint64_t{64} << 20U)
                     .cuda_pool_reserve_size(1U << 20U)
                     .build();
  auto const on = [&](DeviceId id) {
    return manager.layout_builder()
        .config(small_config(4))
        .fully_contiguous(KvBlockLayout::OperationalNHD)
        .allocate_device(id)
        .build();
  };
  auto const src = on(0);
  auto const dst = on(1);
  write_all_blocks(src, 1);
  manager.execute_transfer(KvBlocks::of(src, {0}), KvBlocks::of(dst, {3})).wait();
  EXPECT_EQ(count_differences(dst, 3, 1, 0), 0U);
}

TEST_F(Manager, S1_ExplainNamesTheStrategyOfEveryPairAndMovesNothing) {
  using transfer::Strategy;
  for (auto const from : kAllStorage) {
    for (auto const to : kAllStorage) {
      auto const src = plain(from);
      auto const dst = make(small_config(4), contiguous(KvBlockLayout::UniversalTP), to);
      write(src, 1);
      write(dst, 2);
      auto const before = image_of(dst);
      auto const explained =
          manager_.explain_transfer(manager_.register_layout(src), first_blocks(2),
                                    manager_.register_layout(dst), std::vector<BlockId>{2, 3});
      EXPECT_EQ(image_of(dst), before);
      bool const file = memory::is_store(from) || memory::is_store(to);
      bool const device = from == StorageKind::Device || to == StorageKind::Device;
      auto const chosen = explained.decision.strategy;
      if (!file && device && on_cuda()) {
        bool const system = from == StorageKind::System || to == StorageKind::System;
        bool const of_a_gpu = chosen == Strategy::DmaCopy || chosen == Strategy::SmCopy ||
                              chosen == Strategy::StagedDma || chosen == Strategy::PinnedStaging;
        EXPECT_TRUE(of_a_gpu) << explained.to_string();
        EXPECT_TRUE(!system || chosen != Strategy::SmCopy) << explained.to_string();
      } else {
        auto const expected = file     ? Strategy::StagedFile
                              : device ? Strategy::StreamCopy
                                       : Strategy::HostCopy;
        EXPECT_EQ(chosen, expected) << explained.to_string();
      }
      EXPECT_EQ(explained.decision.candidates.size(), transfer::kNumStrategies);
      EXPECT_EQ(explained.num_blocks, 2U);
      EXPECT_EQ(explained.total_bytes, 2 * src.config().block_bytes());
      bool const two = chosen == Strategy::StagedDma || chosen == Strategy::PinnedStaging ||
                       (file && memory::is_store(from) != memory::is_store(to));
      EXPECT_EQ(explained.hops.size(), two ? 2U : file ? 3U : 1U) << explained.to_string();
      EXPECT_NE(explained.to_string().find(transfer::to_string(chosen)), std::string::npos);
    }
  }
}

TEST(ManagerPreferences, O1_O2_CapabilitiesAndPreferencesAreNotedWhereTheyChangeNothing) {
  EXPECT_FALSE(transfer::TransferCapabilities{}.allow_gds);
  EXPECT_FALSE(transfer::TransferCapabilities{}.allow_gpu_rdma);
  auto manager = small_manager()
                     .capabilities({true, true})
                     .preferences({transfer::NativeVsNixlPolicy::PreferNixl})
                     .build();
  auto const make = [&](StorageKind storage) {
    return make_layout(manager.memory_source(), small_config(2),
                       contiguous(KvBlockLayout::OperationalNHD), storage);
  };
  auto const text = manager
                        .explain_transfer(KvBlocks::of(make(StorageKind::Device), {0}),
                                          KvBlocks::of(make(StorageKind::Disk), {1}))
                        .to_string();
  EXPECT_NE(text.find("GPUDirect"), std::string::npos) << text;
  EXPECT_NE(text.find("RDMA"), std::string::npos) << text;
  EXPECT_NE(text.find("NIXL"), std::string::npos) << text;
}

}  // namespace
}  // namespace kvbm::testing
