// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <numeric>
#include <ostream>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "contract/device_support.hpp"
#include "kvbm/core/error.hpp"
#include "kvbm/core/types.hpp"
#include "kvbm/device/device.hpp"

/// What every Device promises, whichever backend is behind it. A backend instantiates it:
///
///   INSTANTIATE_TEST_SUITE_P(Host, DeviceContract, ::testing::Values(DeviceFactory{"host",
///   make}));
namespace kvbm::device::contract {

/// One backend under test.
struct DeviceFactory {
  std::string name;
  std::function<DevicePtr()> make;
  /// Whether host functions of two streams really run side by side (a CUDA driver may run all of
  /// them on one thread).
  bool host_work_overlaps = true;
};

inline void PrintTo(DeviceFactory const& factory, std::ostream* out) { *out << factory.name; }

class DeviceContract : public ::testing::TestWithParam<DeviceFactory> {
 protected:
  [[nodiscard]] LatchPtr make_latch() {
    latches_.push_back(std::make_shared<Latch>());
    return latches_.back();
  }
  /// Holds `stream` until the latch opens.
  void hold(StreamPtr const& stream, LatchPtr const& latch) {
    stream->enqueue([latch, in_time = in_time_] {
      if (!latch->wait()) { in_time->store(false); }
    });
  }
  void SetUp() override {
    try {
      device_ = GetParam().make();
    } catch (UnsupportedError const& error) { GTEST_SKIP() << error.what(); }
  }
  void TearDown() override {
    if (device_ == nullptr) { return; }
    for (auto const& latch : latches_) {
      latch->open();
    }
    device_->synchronize();
    EXPECT_TRUE(in_time_->load()) << "a latch was not opened in time";
  }

  DevicePtr device_;

 private:
  std::vector<LatchPtr> latches_;
  std::shared_ptr<std::atomic<bool>> in_time_ = std::make_shared<std::atomic<bool>>(true);
};

// --- streams ------------------------------------------------------------------------------------

TEST_P(DeviceContract, StreamRunsWorkInOrderOneAtATime) {
  auto const stream = device_->create_stream("order");
  std::vector<int> order;
  int running = 0;
  for (int i = 0; i < 1000; ++i) {
    stream->enqueue([&order, &running, i] {
      EXPECT_EQ(++running, 1);
      order.push_back(i);
      --running;
    });
  }
  stream->synchronize();
  std::vector<int> expected(1000);
  std::iota(expected.begin(), expected.end(), 0);
  EXPECT_EQ(order, expected);
  EXPECT_TRUE(stream->is_idle());
}

TEST_P(DeviceContract, TwoStreamsOverlap) {
  if (!GetParam().host_work_overlaps) { GTEST_SKIP() << "host functions share one thread here"; }
  auto const a = device_->create_stream("a");
  auto const b = device_->create_stream("b");
  auto const from_a = make_latch();
  auto const from_b = make_latch();
  // Each ends only if the other has begun: possible only side by side.
  std::atomic<int> met{0};
  a->enqueue([&] {
    from_a->open();
    met += from_b->wait() ? 1 : 0;
  });
  b->enqueue([&] {
    from_b->open();
    met += from_a->wait() ? 1 : 0;
  });
  a->synchronize();
  b->synchronize();
  EXPECT_EQ(met, 2);
}

TEST_P(DeviceContract, N1_BusyStreamDelaysTheWaiterNotTheCaller) {
  auto const stream = device_->create_stream("busy");
  auto const latch = make_latch();
  auto const event = device_->create_event();
  std::atomic<bool> done{false};
  hold(stream, latch);
  stream->enqueue([&done] { done = true; });
  stream->record(event);
  // Only this thread opens the latch: if enqueue or record waited, nobody ever would.
  EXPECT_FALSE(event->is_complete());
  EXPECT_FALSE(stream->is_idle());
  EXPECT_FALSE(done);
  std::atomic<bool> opened_first{false};
  auto const waiting = make_latch();
  std::thread waiter([&] {
    waiting->open();
    event->wait();
    opened_first = latch->is_open() && done;
  });
  EXPECT_TRUE(waiting->wait());
  latch->open();
  waiter.join();
  EXPECT_TRUE(opened_first);
  EXPECT_TRUE(event->is_complete());
}

TEST_P(DeviceContract, WorkMayEnqueueMoreWork) {
  auto const stream = device_->create_stream("recursive");
  auto const end = make_latch();
  int count = 0;
  std::function<void()> step = [&] {
    if (++count < 100) {
      stream->enqueue(step);
    } else {
      end->open();
    }
  };
  stream->enqueue(step);
  EXPECT_TRUE(end->wait());
  stream->synchronize();
  EXPECT_EQ(count, 100);
}

TEST_P(DeviceContract, SynchronizeReleasesWhatWorkHeld) {
  auto const stream = device_->create_stream("captures");
  auto held = std::make_shared<int>(0);
  std::weak_ptr<int> const watched = held;
  stream->enqueue([held = std::move(held)] { ++*held; });
  stream->synchronize();
  EXPECT_TRUE(watched.expired());
}

TEST_P(DeviceContract, DestructionCompletesPendingWork) {
  auto stream = device_->create_stream("short-lived");
  auto const latch = make_latch();
  std::atomic<int> count{0};
  hold(stream, latch);
  for (int i = 0; i < 100; ++i) {
    stream->enqueue([&count] { ++count; });
  }
  std::thread opener([&latch] { latch->open(); });
  stream.reset();
  EXPECT_EQ(count, 100);
  opener.join();
}

TEST_P(DeviceContract, StreamMayBeDestroyedByItsOwnWork) {
  auto const latch = make_latch();
  auto const end = make_latch();
  {
    auto stream = device_->create_stream("suicidal");
    auto const held = std::make_shared<StreamPtr>(stream);
    hold(stream, latch);
    stream->enqueue([held] { held->reset(); });
    stream->enqueue([end] { end->open(); });
    stream.reset();
  }
  latch->open();
  EXPECT_TRUE(end->wait()) << "work that was enqueued before the destruction did not run";
}

TEST_P(DeviceContract, ExceptionInWorkDoesNotEndTheStream) {
  auto const stream = device_->create_stream("throwing");
  int count = 0;
  stream->enqueue([] { throw Error(ErrorCode::Internal, "thrown on purpose"); });
  stream->enqueue([&count] { ++count; });
  stream->enqueue([] { throw 1; });
  stream->enqueue([&count] { ++count; });
  stream->synchronize();
  EXPECT_EQ(count, 2);
}

TEST_P(DeviceContract, SixteenThreadsMayUseOneStream) {
  auto const stream = device_->create_stream("shared");
  constexpr int kThreads = 16;
  constexpr int kPieces = 200;
  std::array<int, kThreads> last{};
  int in_order = 0;
  int count = 0;  // no atomic: one piece at a time
  std::vector<std::thread> threads;
  for (std::size_t t = 0; t < kThreads; ++t) {
    threads.emplace_back([&, t] {
      auto const event = device_->create_event();
      for (int i = 1; i <= kPieces; ++i) {
        stream->enqueue([&, t, i] {
          ++count;
          in_order += last[t] == i - 1 ? 1 : 0;
          last[t] = i;
        });
        stream->record(event);
      }
      event->wait();
      stream->synchronize();
    });
  }
  for (auto& thread : threads) {
    thread.join();
  }
  EXPECT_EQ(count, kThreads * kPieces);
  EXPECT_EQ(in_order, kThreads * kPieces);
}

TEST_P(DeviceContract, DeviceSynchronizeWaitsForAllStreams) {
  auto const a = device_->create_stream("a");
  auto const b = device_->create_stream("b");
  auto const latch = make_latch();
  std::atomic<int> count{0};
  hold(a, latch);
  hold(b, latch);
  a->enqueue([&count] { ++count; });
  b->enqueue([&count] { ++count; });
  std::thread opener([&latch] { latch->open(); });
  device_->synchronize();
  EXPECT_EQ(count, 2);
  opener.join();
}

TEST_P(DeviceContract, StreamRefusesEmptyWorkAndNullEvents) {
  auto const stream = device_->create_stream("strict");
  EXPECT_EQ(code_of([&] { stream->enqueue(nullptr); }), ErrorCode::InvalidArgument);
  EXPECT_EQ(code_of([&] { stream->record(nullptr); }), ErrorCode::InvalidArgument);
  EXPECT_EQ(code_of([&] { stream->wait(nullptr); }), ErrorCode::InvalidArgument);
  EXPECT_TRUE(stream->is_idle());
}

TEST_P(DeviceContract, StreamTellsWhatItIs) {
  auto const stream = device_->create_stream("a name longer than the kernel's fifteen letters");
  EXPECT_EQ(stream->name(), "a name longer than the kernel's fifteen letters");
  EXPECT_EQ(stream->backend(), device_->backend());
  EXPECT_EQ(stream->device_id(), device_->id());
  EXPECT_TRUE(stream->is_idle());
  stream->synchronize();
}

// --- events -------------------------------------------------------------------------------------

TEST_P(DeviceContract, EventNeverRecordedIsComplete) {
  auto const event = device_->create_event();
  auto const stream = device_->create_stream("waits for nothing");
  EXPECT_TRUE(event->is_complete());
  event->wait();
  stream->wait(event);
  stream->synchronize();
  EXPECT_TRUE(stream->is_idle());
}

TEST_P(DeviceContract, StreamWaitsForEventOfAnotherStreamBothWays) {
  auto const a = device_->create_stream("a");
  auto const b = device_->create_stream("b");
  auto const latch = make_latch();
  auto const a_ready = device_->create_event();
  auto const b_ready = device_->create_event();
  std::vector<std::string> order;  // unguarded on purpose: the events order all accesses
  hold(a, latch);
  a->enqueue([&] { order.emplace_back("a1"); });
  a->record(a_ready);
  b->wait(a_ready);
  b->enqueue([&] { order.emplace_back("b1"); });
  b->record(b_ready);
  a->wait(b_ready);
  a->enqueue([&] { order.emplace_back("a2"); });
  EXPECT_FALSE(b_ready->is_complete());
  latch->open();
  a->synchronize();
  EXPECT_THAT(order, ::testing::ElementsAre("a1", "b1", "a2"));
}

TEST_P(DeviceContract, WaitMeansThePointAtTheTimeOfTheCall) {
  if (!GetParam().host_work_overlaps) { GTEST_SKIP() << "host functions share one thread here"; }
  auto const a = device_->create_stream("a");
  auto const b = device_->create_stream("b");
  auto const first = make_latch();
  auto const second = make_latch();
  auto const event = device_->create_event();
  hold(a, first);
  a->record(event);
  b->wait(event);
  std::atomic<bool> second_was_closed{false};
  b->enqueue([&] { second_was_closed = !second->is_open(); });
  hold(a, second);
  a->record(event);  // b still waits for the former point only
  first->open();
  b->synchronize();
  EXPECT_TRUE(second_was_closed);
  EXPECT_FALSE(event->is_complete()) << "it means the later point now";
  second->open();
  event->wait();
  EXPECT_TRUE(event->is_complete());
}

TEST_P(DeviceContract, EventMayMoveToAnotherStream) {
  auto const busy = device_->create_stream("busy");
  auto const idle = device_->create_stream("idle");
  auto const latch = make_latch();
  auto const event = device_->create_event();
  hold(busy, latch);
  busy->record(event);
  EXPECT_FALSE(event->is_complete());
  idle->record(event);
  idle->synchronize();
  EXPECT_TRUE(event->is_complete());
  EXPECT_FALSE(busy->is_idle());
  latch->open();
}

TEST_P(DeviceContract, EventOutlivesItsStream) {
  auto stream = device_->create_stream("gone");
  auto const event = device_->create_event();
  stream->enqueue([] {});
  stream->record(event);
  stream.reset();
  event->wait();
  EXPECT_TRUE(event->is_complete());
}

TEST_P(DeviceContract, WaitingForAnEventOfTheSameStreamIsHarmless) {
  auto const stream = device_->create_stream("itself");
  auto const event = device_->create_event();
  int count = 0;
  stream->enqueue([&count] { ++count; });
  stream->record(event);
  stream->wait(event);
  stream->enqueue([&count] { ++count; });
  stream->synchronize();
  EXPECT_EQ(count, 2);
}

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

// --- memory -------------------------------------------------------------------------------------

TEST_P(DeviceContract, AllocationIsAccountedAndGivenBack) {
  using namespace kvbm::literals;
  std::uint64_t const before = device_->used_bytes();
  {
    auto const region = device_->allocate(2_MiB, 512);
    EXPECT_EQ(region.kind(), memory::StorageKind::Device);
    EXPECT_EQ(region.device_id(), device_->id());
    EXPECT_EQ(region.bytes(), 2_MiB);
    EXPECT_EQ(region.address() % 512, 0U);
    EXPECT_EQ(region.host_data() != nullptr, device_->is_host_accessible());
    EXPECT_GE(device_->used_bytes(), before + 2_MiB);
    EXPECT_LE(device_->used_bytes(), device_->total_bytes());
  }
  EXPECT_EQ(device_->used_bytes(), before);
}

TEST_P(DeviceContract, ClassifyKnowsOwnMemoryWhileItLives) {
  std::uintptr_t address = 0;
  {
    auto const region = device_->allocate(10000, 4096);
    address = region.address();
    auto const at = [&](std::uint64_t offset) {
      return device_->classify(reinterpret_cast<void const*>(address + offset));
    };
    for (std::uint64_t const offset : {std::uint64_t{0}, std::uint64_t{1}, std::uint64_t{9999}}) {
      auto const info = at(offset);
      ASSERT_TRUE(info.has_value()) << "offset " << offset;
      EXPECT_EQ(info->kind, memory::StorageKind::Device);
      EXPECT_EQ(info->device_id, device_->id());
      EXPECT_GE(info->bytes_left, 10000 - offset);
    }
  }
  EXPECT_FALSE(device_->classify(reinterpret_cast<void const*>(address)).has_value());
  int local = 0;
  EXPECT_FALSE(device_->classify(&local).has_value());
  EXPECT_FALSE(device_->classify(nullptr).has_value());
}

TEST_P(DeviceContract, RefusesBadRequestsForMemory) {
  EXPECT_EQ(code_of([&] { static_cast<void>(device_->allocate(0, 512)); }),
            ErrorCode::InvalidArgument);
  EXPECT_EQ(code_of([&] { static_cast<void>(device_->allocate(512, 3)); }),
            ErrorCode::InvalidArgument);
  EXPECT_EQ(code_of([&] { static_cast<void>(device_->allocate(512, 0)); }),
            ErrorCode::InvalidArgument);
}

TEST_P(DeviceContract, OutOfMemoryNamesAskedUsedAndTotal) {
  std::uint64_t const asked = device_->total_bytes() + 1;
  try {
    static_cast<void>(device_->allocate(asked, 512));
    FAIL() << "more than there is was handed out";
  } catch (Error const& error) {
    EXPECT_EQ(error.code(), ErrorCode::OutOfMemory);
    EXPECT_THAT(error.what(), ::testing::HasSubstr(std::to_string(asked)));
    EXPECT_THAT(error.what(), ::testing::HasSubstr(std::to_string(device_->total_bytes())));
  }
}

// --- memory pool --------------------------------------------------------------------------------

TEST_P(DeviceContract, PoolHoldsItsReserveAndReusesIt) {
  using namespace kvbm::literals;
  auto const pool = device_->create_memory_pool(4_MiB, 4_MiB);
  auto const stream = device_->create_stream("pool");
  // A driver may take memory in larger pieces than were asked for.
  auto const reserved = pool->stats().reserved_bytes;
  EXPECT_GE(reserved, 4_MiB);
  EXPECT_EQ(pool->stats().used_bytes, 0U);
  auto const asked_before = pool->stats().num_device_allocations;
  for (int i = 0; i < 10; ++i) {
    auto const region = pool->allocate(1_MiB, stream);
    EXPECT_EQ(region.bytes(), 1_MiB);
    EXPECT_EQ(region.kind(), memory::StorageKind::Device);
    EXPECT_EQ(region.device_id(), device_->id());
    EXPECT_EQ(region.address() % memory::kRegionAlignment, 0U);
    EXPECT_EQ(pool->stats().used_bytes, 1_MiB);
  }
  auto const stats = pool->stats();
  EXPECT_EQ(stats.used_bytes, 0U);
  EXPECT_EQ(stats.peak_used_bytes, 1_MiB);
  EXPECT_EQ(stats.num_allocations, 10U);
  EXPECT_EQ(stats.num_device_allocations, asked_before);
  EXPECT_EQ(stats.reserved_bytes, reserved);
}

TEST_P(DeviceContract, PoolRefusesBadRequests) {
  using namespace kvbm::literals;
  auto const pool = device_->create_memory_pool(0, 0);
  auto const stream = device_->create_stream("pool");
  EXPECT_EQ(code_of([&] { static_cast<void>(pool->allocate(0, stream)); }),
            ErrorCode::InvalidArgument);
  EXPECT_EQ(code_of([&] { static_cast<void>(pool->allocate(1, nullptr)); }),
            ErrorCode::InvalidArgument);
  EXPECT_EQ(code_of([&] { static_cast<void>(pool->allocate(device_->total_bytes() * 2, stream)); }),
            ErrorCode::OutOfMemory);
  EXPECT_EQ(code_of([&] {
              static_cast<void>(device_->create_memory_pool(device_->total_bytes() + 1, 0));
            }),
            ErrorCode::OutOfMemory);
  EXPECT_EQ(pool->stats().num_allocations, 0U);
}

TEST_P(DeviceContract, PoolRegionOutlivesThePool) {
  using namespace kvbm::literals;
  std::uint64_t const before = device_->used_bytes();
  auto pool = device_->create_memory_pool(0, 0);
  auto const stream = device_->create_stream("pool");
  {
    auto const region = pool->allocate(1_MiB, stream);
    pool.reset();
    EXPECT_GT(device_->used_bytes(), before);
  }
  stream->synchronize();
  EXPECT_EQ(device_->used_bytes(), before);
}

// --- stream pool --------------------------------------------------------------------------------

TEST_P(DeviceContract, StreamPoolGoesRoundRobin) {
  StreamPool h2d(*device_, "h2d", 4);
  StreamPool d2h(*device_, "d2h", 4);
  for (auto* const pool : {&h2d, &d2h}) {
    ASSERT_EQ(pool->size(), 4U);
    for (std::size_t i = 0; i < 8; ++i) {
      EXPECT_EQ(pool->acquire(), pool->streams()[i % 4]);
    }
  }
  std::vector<StreamPtr> all = h2d.streams();
  all.insert(all.end(), d2h.streams().begin(), d2h.streams().end());
  std::sort(all.begin(), all.end());
  EXPECT_EQ(std::unique(all.begin(), all.end()), all.end()) << "eight different streams";
  EXPECT_EQ(h2d.streams()[3]->name(), "h2d.3");
}

TEST_P(DeviceContract, StreamPoolNeedsAStream) {
  EXPECT_EQ(code_of([&] { StreamPool(*device_, "none", 0); }), ErrorCode::InvalidArgument);
}

}  // namespace kvbm::device::contract
