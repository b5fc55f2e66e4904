// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "contract/device_fixture.hpp"

/// What every Device promises about callbacks; part of device_contract.hpp.
namespace kvbm::device::contract {

// --- completion ---------------------------------------------------------------------------------

TEST_P(DeviceContract, CallbackComesAfterItsPointAndNotBefore) {
  auto const stream = device_->create_stream("observed");
  auto const latch = make_latch();
  auto const called = make_latch();
  auto const event = device_->create_event();
  std::atomic<bool> done{false};
  std::atomic<bool> was_done{false};
  std::atomic<bool> failed{false};
  hold(stream, latch);
  stream->enqueue([&done] { done = true; });
  stream->record(event);
  device_->when_complete(event, [&, called](std::exception_ptr const& error) {
    was_done = done.load();
    failed = error != nullptr;
    called->open();
  });
  EXPECT_FALSE(called->is_open());
  latch->open();
  EXPECT_TRUE(called->wait());
  EXPECT_TRUE(was_done);
  EXPECT_FALSE(failed);
}

TEST_P(DeviceContract, CallbackOfACompleteEventComesToo) {
  auto const caller = std::this_thread::get_id();
  auto const called = make_latch();
  std::atomic<bool> on_caller{false};
  device_->when_complete(device_->create_event(), [&, called](std::exception_ptr const&) {
    on_caller = std::this_thread::get_id() == caller;
    called->open();
  });
  EXPECT_TRUE(called->wait());
  EXPECT_FALSE(on_caller) << "callbacks run on a thread of the device";
}

TEST_P(DeviceContract, CallbackDoesNotWaitForThoseAskedForEarlier) {
  auto const busy = device_->create_stream("busy");
  auto const quick = device_->create_stream("quick");
  auto const latch = make_latch();
  auto const called = make_latch();
  auto const late = make_latch();
  auto const busy_end = device_->create_event();
  auto const quick_end = device_->create_event();
  hold(busy, latch);
  busy->record(busy_end);
  device_->when_complete(busy_end, [late](std::exception_ptr const&) { late->open(); });
  quick->enqueue([] {});
  quick->record(quick_end);
  device_->when_complete(quick_end, [called](std::exception_ptr const&) { called->open(); });
  EXPECT_TRUE(called->wait());
  EXPECT_FALSE(late->is_open());
  latch->open();
  EXPECT_TRUE(late->wait());
}

TEST_P(DeviceContract, CallbacksRunOneAtATime) {
  auto const end = make_latch();
  int count = 0;  // no atomic: one at a time
  constexpr int kStreams = 4;
  constexpr int kEvents = 50;
  std::vector<StreamPtr> streams;
  for (int s = 0; s < kStreams; ++s) {
    streams.push_back(device_->create_stream("many." + std::to_string(s)));
    for (int i = 0; i < kEvents; ++i) {
      streams.back()->enqueue([] {});
      auto const event = device_->create_event();
      streams.back()->record(event);
      device_->when_complete(event, [&count, end](std::exception_ptr const&) {
        if (++count == kStreams * kEvents) { end->open(); }
      });
    }
  }
  EXPECT_TRUE(end->wait());
  EXPECT_EQ(count, kStreams * kEvents);
}

TEST_P(DeviceContract, CallbackMayAskForAnother) {
  auto const end = make_latch();
  int count = 0;
  auto const event = device_->create_event();
  std::function<void(std::exception_ptr)> again = [&](std::exception_ptr const&) {
    if (++count < 100) {
      device_->when_complete(event, again);
    } else {
      end->open();
    }
  };
  device_->when_complete(event, again);
  EXPECT_TRUE(end->wait());
  EXPECT_EQ(count, 100);
}

TEST_P(DeviceContract, CallbackComesAfterTheDeviceIsGone) {
  auto device = GetParam().make();
  auto const latch = make_latch();
  auto const called = make_latch();
  auto const stream = device->create_stream("survivor");
  auto const event = device->create_event();
  hold(stream, latch);
  stream->record(event);
  device->when_complete(event, [called](std::exception_ptr const&) { called->open(); });
  device.reset();
  EXPECT_FALSE(called->is_open());
  latch->open();
  EXPECT_TRUE(called->wait());
}

TEST_P(DeviceContract, CallbackMayHoldTheLastReferenceToTheDevice) {
  auto device = GetParam().make();
  auto const latch = make_latch();
  auto const called = make_latch();
  auto const stream = device->create_stream("survivor");
  auto const event = device->create_event();
  hold(stream, latch);
  stream->record(event);
  auto const held = std::make_shared<DevicePtr>(device);
  device->when_complete(event, [called, held](std::exception_ptr const&) {
    held->reset();
    called->open();
  });
  device.reset();
  latch->open();
  EXPECT_TRUE(called->wait());
}

TEST_P(DeviceContract, WhenCompleteRefusesNothingToWaitForAndNothingToCall) {
  EXPECT_EQ(code_of([&] { device_->when_complete(nullptr, [](std::exception_ptr const&) {}); }),
            ErrorCode::InvalidArgument);
  EXPECT_EQ(code_of([&] { device_->when_complete(device_->create_event(), nullptr); }),
            ErrorCode::InvalidArgument);
}

}  // namespace kvbm::device::contract
