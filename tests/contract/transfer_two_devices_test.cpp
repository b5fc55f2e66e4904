// SPDX-License-Identifier: Apache-2.0
//
// Transfers between two devices: emulated ones, or two GPUs.
#include <optional>

#include "contract/transfer_fixture.hpp"
#include "kvbm/core/error.hpp"
#include "kvbm/device/device.hpp"
#include "kvbm/transfer/strategy.hpp"

namespace kvbm::testing {
namespace {

using transfer::Strategy;

/// Two GPUs where the tests run on GPUs and there are two; one where there is one.
TransferManager::Builder two_devices() {
  auto builder = emulated_manager();
  if (!on_cuda()) {
    builder.host_device(2, std::uint64_t{256} << 20U);
    return builder;
  }
  std::vector<device::DevicePtr> devices{device::make_cuda_device(0)};
  try {
    devices.push_back(device::make_cuda_device(1));
  } catch (Error const&) {  // there is no second one
  }
  builder.devices(std::move(devices));
  return builder;
}

class TwoDevices : public TransferTest {
 protected:
  TwoDevices() : TransferTest(two_devices()) {}
  void SetUp() override {
    if (manager_.context().devices().size() < 2) { GTEST_SKIP() << "one GPU only"; }
  }

  PhysicalLayout make_on(DeviceId device, LayoutConfig const& config, LayoutShape const& shape) {
    return make_layout(manager_.memory_source(), config, shape, StorageKind::Device, device);
  }
};

TEST_F(TwoDevices, P1_EveryKindAndFormatMovesFromOneToTheOther) {
  auto const config = small_config(5);
  std::size_t number = 0;
  for (auto const& a : every_shape()) {
    for (auto const& b : every_shape()) {
      DeviceId const from = ++number % 2 == 0 ? 0 : 1;
      SCOPED_TRACE(a.name() + " -> " + b.name() + " from " + std::to_string(from));
      auto const src = make_on(from, config, a);
      auto const dst = make_on(1 - from, config, b);
      write(src, number);
      write(dst, 1000 + number);
      auto const [part, options] = rotation(number, src);
      check_move(src, {3, 1}, dst, {0, 2}, part, options);
      if (HasFailure()) { return; }
    }
  }
}

TEST_F(TwoDevices, P1_EveryWayThatIsPossibleMovesTheSame) {
  auto const config = small_config(40, 2, 8, 4);
  auto const shape = contiguous(KvBlockLayout::OperationalNHD);
  auto const ids = first_blocks(33);
  std::size_t num_ways = 0;
  for (DeviceId const from : {0, 1}) {
    auto const src = make_on(from, config, shape);
    auto const dst = make_on(1 - from, config, contiguous(KvBlockLayout::UniversalTP));
    auto const same = make_on(1 - from, config, shape);
    write(src, 7);
    for (std::optional<Strategy> const strategy :
         {std::optional<Strategy>(), std::optional(Strategy::StreamCopy),
          std::optional(Strategy::SmCopy), std::optional(Strategy::DmaCopy)}) {
      for (auto const& target : {dst, same}) {
        SCOPED_TRACE(std::string(strategy ? transfer::to_string(*strategy) : "chosen") + " from " +
                     std::to_string(from));
        write(target, 9);
        TransferOptions options;
        options.strategy = strategy;
        try {
          check_move(src, ids, target, ids, whole(src), options);
          ++num_ways;
        } catch (UnsupportedError const& error) {
          EXPECT_TRUE(strategy.has_value()) << error.what();
        }
      }
    }
  }
  EXPECT_GE(num_ways, 4U);
}

TEST_F(TwoDevices, P1_O2_ATransferWaitsForTheOtherDevicesEvents) {
  auto const config = small_config(4);
  auto const shape = contiguous(KvBlockLayout::OperationalNHD);
  auto const src = make_on(0, config, shape);
  auto const dst = make_on(1, config, shape);
  write(dst, 2);
  auto const& other = manager_.context().devices().back();
  StreamLatch latch(other->create_stream("writer"));
  auto const event = other->create_event();
  latch.stream()->record(event);
  auto const done =
      move(src, {0, 1}, dst, {2, 3}, TransferOptions::builder().wait_for(event).build());
  EXPECT_FALSE(done.is_ready());
  write(src, 1);
  latch.open();
  done.wait();
  EXPECT_EQ(count_differences(dst, 2, 1, 0), 0U);
  EXPECT_EQ(count_differences(dst, 3, 1, 1), 0U);
  EXPECT_EQ(count_differences(dst, 0, 2, 0), 0U);
}

}  // namespace
}  // namespace kvbm::testing
