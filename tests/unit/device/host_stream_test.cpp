// SPDX-License-Identifier: Apache-2.0
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <pthread.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include "contract/device_support.hpp"
#include "device/stream_state.hpp"
#include "kvbm/core/log.hpp"
#include "kvbm/device/device.hpp"

namespace kvbm::device {
namespace {

using contract::code_of;
using contract::Latch;

// Collects log lines while it lives.
class LogLines {
 public:
  LogLines() {
    log::set_level(log::Level::Warning);  // whatever the environment says
    log::set_sink([lines = lines_](log::Level, std::string_view message) {
      std::lock_guard const lock(lines->mutex);
      lines->text += std::string(message) + "\n";
    });
  }
  ~LogLines() { log::set_sink({}); }
  LogLines(LogLines const&) = delete;
  LogLines& operator=(LogLines const&) = delete;
  [[nodiscard]] std::string text() const {
    std::lock_guard const lock(lines_->mutex);
    return lines_->text;
  }

 private:
  struct Lines {
    std::mutex mutex;
    std::string text;
  };
  std::shared_ptr<Lines> lines_ = std::make_shared<Lines>();
};

// An event of no backend we have.
class ForeignEvent final : public Event {
 public:
  [[nodiscard]] bool is_complete() const override { return true; }
  void wait() const override {}
};

TEST(HostStream, WorkRunsOnANamedThreadOfTheStream) {
  auto const device = make_host_device(0);
  auto const stream = device->create_stream("a-stream-with-a-long-name");
  std::thread::id first;
  std::thread::id second;
  std::array<char, 32> name{};
  stream->enqueue([&] {
    first = std::this_thread::get_id();
    pthread_getname_np(pthread_self(), name.data(), name.size());
  });
  stream->enqueue([&] { second = std::this_thread::get_id(); });
  stream->synchronize();
  EXPECT_EQ(first, second);
  EXPECT_NE(first, std::this_thread::get_id());
  EXPECT_STREQ(name.data(), "a-stream-with-a");
}

TEST(HostStream, ExceptionInWorkIsLoggedWithTheStreamsName) {
  LogLines const log;
  auto const device = make_host_device(0);
  auto const stream = device->create_stream("fragile");
  stream->enqueue([] { throw Error(ErrorCode::Internal, "the reason"); });
  stream->enqueue([] { throw 7; });
  stream->synchronize();
  EXPECT_THAT(log.text(), ::testing::HasSubstr("'fragile': a piece of work threw: the reason"));
  EXPECT_THAT(log.text(), ::testing::HasSubstr("no std::exception"));
}

TEST(HostStream, WaitingForItselfIsRefused) {
  LogLines const log;
  auto const device = make_host_device(0);
  auto const stream = device->create_stream("narcissus");
  auto const event = device->create_event();
  std::vector<ErrorCode> codes;
  Latch recorded;
  stream->enqueue([&] {
    ASSERT_TRUE(recorded.wait());
    codes.push_back(code_of([&] { stream->synchronize(); }));
    codes.push_back(code_of([&] { event->wait(); }));
    codes.push_back(code_of([&] { device->synchronize(); }));
  });
  stream->record(event);
  recorded.open();
  stream->synchronize();
  EXPECT_THAT(codes, ::testing::ElementsAre(ErrorCode::InvalidArgument, ErrorCode::InvalidArgument,
                                            ErrorCode::InvalidArgument));
}

TEST(HostStream, WorkMayWaitForWhatIsPast) {
  auto const device = make_host_device(0);
  auto const stream = device->create_stream("past");
  auto const event = device->create_event();
  stream->enqueue([] {});
  stream->record(event);
  bool complete = false;
  stream->enqueue([&] {
    event->wait();
    complete = event->is_complete();
  });
  stream->synchronize();
  EXPECT_TRUE(complete);
}

TEST(HostStream, RefusesEventsOfAnotherBackend) {
  auto const device = make_host_device(0);
  auto const stream = device->create_stream("strict");
  auto const event = std::make_shared<ForeignEvent>();
  EXPECT_EQ(code_of([&] { stream->record(event); }), ErrorCode::InvalidArgument);
  EXPECT_EQ(code_of([&] { stream->wait(event); }), ErrorCode::InvalidArgument);
}

TEST(HostStream, EventsOrderStreamsOfTwoDevices) {
  auto const a = make_host_device(0);
  auto const b = make_host_device(1);
  auto const on_a = a->create_stream("a");
  auto const on_b = b->create_stream("b");
  auto const event = a->create_event();
  Latch latch;
  int value = 0;  // unguarded on purpose
  on_a->enqueue([&] {
    ASSERT_TRUE(latch.wait());
    value = 1;
  });
  on_a->record(event);
  on_b->wait(event);
  on_b->enqueue([&] { value *= 10; });
  latch.open();
  on_b->synchronize();
  EXPECT_EQ(value, 10);
}

TEST(HostStream, EventKeepsWorkingAfterStreamAndDeviceAreGone) {
  auto device = make_host_device(0);
  auto stream = device->create_stream("gone");
  auto const event = device->create_event();
  stream->enqueue([] {});
  stream->record(event);
  stream.reset();
  device.reset();
  event->wait();
  EXPECT_TRUE(event->is_complete());
}

TEST(HostStream, OutlivesItsDevice) {
  auto device = make_host_device(0);
  auto const stream = device->create_stream("orphan");
  device.reset();
  int count = 0;
  stream->enqueue([&count] { ++count; });
  stream->synchronize();
  EXPECT_EQ(count, 1);
}

TEST(HostStream, StreamAndDeviceMayBothBeDestroyedByWork) {
  auto const latch = std::make_shared<Latch>();
  auto const end = std::make_shared<Latch>();
  {
    struct Owned {
      DevicePtr device;
      StreamPtr stream;
    };
    auto const owned = std::make_shared<Owned>();
    owned->device = make_host_device(0);
    owned->stream = owned->device->create_stream("suicidal");
    auto const stream = owned->stream;
    stream->enqueue([latch] { EXPECT_TRUE(latch->wait()); });
    stream->enqueue([owned] {
      owned->stream.reset();
      owned->device.reset();
    });
    stream->enqueue([end] { end->open(); });
  }
  latch->open();
  EXPECT_TRUE(end->wait());
}

TEST(HostStream, DeviceWaitsForStreamsThatTheirOwnWorkDestroyed) {
  auto const latch = std::make_shared<Latch>();
  auto const destroyed = std::make_shared<Latch>();
  std::atomic<bool> ended{false};
  auto device = make_host_device(0);
  {
    auto held = std::make_shared<StreamPtr>(device->create_stream("left over"));
    StreamPtr const stream = *held;
    stream->enqueue([held = std::move(held), destroyed, gate = latch] {
      EXPECT_TRUE(gate->wait());
      held->reset();
      destroyed->open();
    });
    stream->enqueue([&ended] { ended = true; });
  }
  latch->open();
  ASSERT_TRUE(destroyed->wait());
  device.reset();
  EXPECT_TRUE(ended);
}

TEST(HostStream, ManyStreamsCreatedAndDestroyedAtOnce) {
  auto const device = make_host_device(0);
  std::atomic<int> count{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < 8; ++t) {
    threads.emplace_back([&] {
      for (int i = 0; i < 20; ++i) {
        auto const stream = device->create_stream("brief");
        auto const event = device->create_event();
        stream->enqueue([&count] { ++count; });
        stream->record(event);
        if (i % 3 == 0) { device->synchronize(); }
      }
    });
  }
  for (auto& thread : threads) {
    thread.join();
  }
  EXPECT_EQ(count, 160);
}

// The chain crosses all streams many times; unguarded data shows that events order memory.
TEST(HostStream, LongChainOverEightStreamsKeepsItsOrder) {
  auto const device = make_host_device(0);
  StreamPool pool(*device, "chain", 8);
  auto const event = device->create_event();
  std::vector<int> order;
  for (int i = 0; i < 400; ++i) {
    auto const stream = pool.acquire();
    stream->wait(event);
    stream->enqueue([&order, i] { order.push_back(i); });
    stream->record(event);
  }
  event->wait();
  ASSERT_EQ(order.size(), 400U);
  for (int i = 0; i < 400; ++i) {
    EXPECT_EQ(order[static_cast<std::size_t>(i)], i);
  }
}

TEST(StreamPool, SixteenThreadsGetEqualShares) {
  auto const device = make_host_device(0);
  StreamPool pool(*device, "fair", 4);
  std::array<std::atomic<int>, 4> taken{};
  std::vector<std::thread> threads;
  for (int t = 0; t < 16; ++t) {
    threads.emplace_back([&] {
      for (int i = 0; i < 25; ++i) {
        auto const stream = pool.acquire();
        auto const at = std::find(pool.streams().begin(), pool.streams().end(), stream);
        ++taken[static_cast<std::size_t>(at - pool.streams().begin())];
      }
    });
  }
  for (auto& thread : threads) {
    thread.join();
  }
  for (auto const& count : taken) {
    EXPECT_EQ(count, 100);
  }
}

TEST(StreamPool, MayBeMoved) {
  auto const device = make_host_device(0);
  StreamPool first(*device, "moved", 2);
  auto const stream = first.acquire();
  StreamPool second = std::move(first);
  EXPECT_EQ(second.acquire(), second.streams()[1]);
  EXPECT_EQ(second.streams()[0], stream);
}

// Both ways of waiting must work on any machine, whichever it would choose itself.
class StreamStateWaiting : public ::testing::TestWithParam<bool> {};

TEST_P(StreamStateWaiting, HandsOverAndWaits) {
  auto const state = std::make_shared<StreamState>("state", GetParam());
  int count = 0;
  for (std::uint64_t i = 1; i <= 300; ++i) {
    state->enqueue([&count] { ++count; });
    EXPECT_EQ(state->num_enqueued(), i);
    if (i % 3 == 0) {
      state->wait_for(i);
      EXPECT_EQ(count, static_cast<int>(i));
    }
  }
  state->close().join();
  EXPECT_TRUE(state->is_finished());
  EXPECT_TRUE(state->is_idle());
}

TEST_P(StreamStateWaiting, SeveralWaitersForDifferentPoints) {
  auto const state = std::make_shared<StreamState>("state", GetParam());
  Latch latch;
  state->enqueue([&latch] { EXPECT_TRUE(latch.wait()); });
  for (int i = 0; i < 7; ++i) {
    state->enqueue([] {});
  }
  std::vector<std::thread> threads;
  for (std::uint64_t ticket = 1; ticket <= 8; ++ticket) {
    threads.emplace_back([&, ticket] {
      state->wait_for(ticket);
      EXPECT_GE(state->num_ended(), ticket);
      EXPECT_TRUE(latch.is_open());
    });
  }
  latch.open();
  for (auto& thread : threads) {
    thread.join();
  }
  state->close().join();
}

TEST_P(StreamStateWaiting, NoThreadBeforeTheFirstPiece) {
  auto const state = std::make_shared<StreamState>("state", GetParam());
  EXPECT_FALSE(state->try_enqueue([] {})) << "there is nothing to come after";
  EXPECT_FALSE(state->close().joinable());
}

INSTANTIATE_TEST_SUITE_P(Modes, StreamStateWaiting, ::testing::Bool(), [](auto const& instance) {
  return instance.param ? "polling" : "sleeping";
});

}  // namespace
}  // namespace kvbm::device
