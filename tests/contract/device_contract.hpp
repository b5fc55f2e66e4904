// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "contract/device_completion_contract.hpp"
#include "contract/device_fixture.hpp"
#include "contract/device_memory_contract.hpp"

/// What every Device promises, whichever backend is behind it. A backend instantiates it:
///
///   INSTANTIATE_TEST_SUITE_P(Host, DeviceContract, ::testing::Values(DeviceFactory{"host",
///   make}));
namespace kvbm::device::contract {

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
