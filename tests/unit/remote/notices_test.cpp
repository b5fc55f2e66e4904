// SPDX-License-Identifier: Apache-2.0
//
// Handing out write notifications, and knowing which memory the wire reaches.
#include <gtest/gtest.h>

#include <atomic>
#include <future>
#include <latch>
#include <memory>
#include <numeric>
#include <thread>
#include <vector>

#include "kvbm/testing/failure.hpp"
#include "remote/worker/exposed_memory.hpp"
#include "remote/worker/notice_queue.hpp"
#include "unit/nixl/nixl_fixture.hpp"

namespace kvbm::remote {
namespace {

using namespace std::chrono_literals;  // NOLINT(google-build-using-namespace): literals
using kvbm::testing::failure_of_call;

// ---- NoticeBoard and WriteNotices ----

std::vector<std::uint64_t> drain(WriteNotices& notices) {
  std::vector<std::uint64_t> values;
  while (auto const one = notices.next(0ns)) {
    values.push_back(one->value);
  }
  return values;
}

TEST(Notices, EachSubscriberReceivesAllOnceInOrder) {
  NoticeBoard board;
  auto first = board.subscribe();
  auto second = board.subscribe();
  for (std::uint64_t i = 0; i < 100; ++i) {
    EXPECT_FALSE(board.push({7, i}));
  }
  auto late = board.subscribe();
  EXPECT_FALSE(board.push({7, 100}));
  std::vector<std::uint64_t> all(101);
  std::iota(all.begin(), all.end(), 0);
  EXPECT_EQ(first.next(0ns), (WriteNotification{7, 0}));
  EXPECT_EQ(drain(first), std::vector<std::uint64_t>(all.begin() + 1, all.end()));
  EXPECT_EQ(drain(second), all);
  EXPECT_EQ(drain(late), std::vector<std::uint64_t>{100});
  EXPECT_EQ(drain(first), std::vector<std::uint64_t>{});
}

TEST(Notices, WhatComesBeforeAnySubscriberIsKeptForTheFirst) {
  NoticeBoard board;
  for (std::uint64_t i = 0; i < 65536; ++i) {
    ASSERT_FALSE(board.push({7, i})) << i;
  }
  EXPECT_TRUE(board.push({7, 65536})) << "the oldest gives way";
  EXPECT_TRUE(board.push({7, 65537}));
  auto first = board.subscribe();
  auto second = board.subscribe();
  auto const values = drain(first);
  ASSERT_EQ(values.size(), 65536U);
  EXPECT_EQ(values.front(), 2U);
  EXPECT_EQ(values.back(), 65537U);
  EXPECT_TRUE(std::is_sorted(values.begin(), values.end()));
  EXPECT_TRUE(drain(second).empty());
}

TEST(Notices, OutliveTheBoardWithWhatIsLeft) {
  auto board = std::make_unique<NoticeBoard>();
  auto notices = board->subscribe();
  board->push({7, 1});
  auto const close_and_end = [&] {
    board->close();
    auto after = board->subscribe();
    EXPECT_EQ(after.next(1h), std::nullopt) << "subscribed to a closed board";
    board.reset();
  };
  close_and_end();
  EXPECT_EQ(notices.next(1h), (WriteNotification{7, 1}));
  EXPECT_EQ(notices.next(1h), std::nullopt) << "does not wait for what cannot come";
  EXPECT_EQ(notices.next(std::chrono::nanoseconds::max()), std::nullopt);
  EXPECT_EQ(notices.next(std::chrono::nanoseconds::min()), std::nullopt);
}

TEST(Notices, SeveralThreadsShareASubscription) {
  NoticeBoard board;
  auto notices = board.subscribe();
  constexpr std::uint64_t kCount = 2000;
  std::mutex mutex;
  std::vector<std::uint64_t> all;
  std::vector<std::thread> threads;
  for (int t = 0; t < 3; ++t) {
    threads.emplace_back([&] {
      while (auto const one = notices.next(1h)) {
        std::lock_guard const lock(mutex);
        all.push_back(one->value);
      }
    });
  }
  for (std::uint64_t i = 0; i < kCount; ++i) {
    board.push({7, i});
  }
  board.close();
  for (auto& thread : threads) {
    thread.join();
  }
  std::sort(all.begin(), all.end());
  ASSERT_EQ(all.size(), kCount);
  EXPECT_EQ(std::unique(all.begin(), all.end()), all.end());
}

TEST(Notices, ACallbackReceivesAllAndNextNone) {
  NoticeBoard board;
  auto notices = board.subscribe();
  board.push({7, 0});
  std::promise<void> done;
  std::vector<std::uint64_t> values;
  notices.on_each([&](WriteNotification const& one) {
    values.push_back(one.value);
    if (one.value == 99) { done.set_value(); }
  });
  for (std::uint64_t i = 1; i < 100; ++i) {
    board.push({7, i});
    EXPECT_EQ(notices.next(0ns), std::nullopt);
  }
  done.get_future().wait();
  std::vector<std::uint64_t> all(100);
  std::iota(all.begin(), all.end(), 0);
  EXPECT_EQ(values, all);
  board.close();
  EXPECT_EQ(notices.next(1h), std::nullopt);
}

TEST(Notices, ASecondOrEmptyCallbackIsRefused) {
  NoticeBoard board;
  auto notices = board.subscribe();
  auto const code = [&](std::function<void(WriteNotification const&)> const& callback) {
    return failure_of_call([&] {
             notices.on_each(callback);
             return 0;
           })
        .code;
  };
  EXPECT_EQ(code(nullptr), ErrorCode::InvalidArgument);
  EXPECT_EQ(code([](WriteNotification const&) {}), std::nullopt);
  EXPECT_EQ(code([](WriteNotification const&) {}), ErrorCode::InvalidArgument);
}

TEST(Notices, WhatACallbackThrowsEndsNothing) {
  NoticeBoard board;
  auto notices = board.subscribe();
  std::promise<void> done;
  notices.on_each([&](WriteNotification const& one) {
    if (one.value == 0) { throw std::runtime_error("thrown on purpose"); }
    if (one.value == 1) { throw 1; }  // NOLINT(misc-throw-by-value-catch-by-reference)
    done.set_value();
  });
  for (std::uint64_t i = 0; i < 3; ++i) {
    board.push({7, i});
  }
  done.get_future().wait();
}

TEST(Notices, ASubscriptionMayEndInsideItsOwnCallback) {
  NoticeBoard board;
  std::optional<WriteNotices> notices = board.subscribe();
  std::promise<void> done;
  std::atomic<int> calls = 0;
  notices->on_each([&](WriteNotification const&) {
    ++calls;
    notices.reset();
    done.set_value();
  });
  board.push({7, 1});
  done.get_future().wait();
  for (std::uint64_t i = 2; i < 10; ++i) {
    board.push({7, i});
  }
  board.close();
  EXPECT_EQ(calls, 1);
}

TEST(Notices, EndingASubscriptionWaitsForItsCallback) {
  NoticeBoard board;
  std::latch entered(1);
  std::latch leave(1);
  std::atomic<bool> left = false;
  std::optional<WriteNotices> notices = board.subscribe();
  notices->on_each([&](WriteNotification const&) {
    entered.count_down();
    leave.wait();
    left = true;
  });
  board.push({7, 1});
  entered.wait();
  std::thread ender([&] {
    notices.reset();
    EXPECT_TRUE(left);
  });
  // The board goes on meanwhile: nobody but the subscriber waits for the callback.
  for (std::uint64_t i = 2; i < 100; ++i) {
    board.push({7, i});
  }
  board.close();
  leave.count_down();
  ender.join();
}

TEST(Notices, ABoardMayEndWhileCallbacksAndWaitersRun) {
  for (int round = 0; round < 50; ++round) {
    auto board = std::make_unique<NoticeBoard>();
    auto with_callback = board->subscribe();
    auto waiting = board->subscribe();
    std::atomic<int> calls = 0;
    with_callback.on_each([&](WriteNotification const&) { ++calls; });
    std::thread waiter([&] {
      while (waiting.next(1h)) {}
    });
    for (std::uint64_t i = 0; i < 20; ++i) {
      board->push({7, i});
    }
    board.reset();
    waiter.join();
    // The callback receives what is left; ending the subscription waits for no more than one call.
  }
}

TEST(Notices, SubscribersComeAndGoWhileOthersReceive) {
  NoticeBoard board;
  auto steady = board.subscribe();
  std::atomic<bool> stop = false;
  std::vector<std::thread> threads;
  for (int t = 0; t < 2; ++t) {
    threads.emplace_back([&, t] {
      while (!stop) {
        auto passing = board.subscribe();
        if (t == 0) {
          passing.on_each([](WriteNotification const&) {});
        }
        static_cast<void>(passing.next(0ns));
      }
    });
  }
  for (std::uint64_t i = 0; i < 500; ++i) {
    board.push({7, i});
    ASSERT_EQ(steady.next(1h), (WriteNotification{7, i}));
  }
  stop = true;
  for (auto& thread : threads) {
    thread.join();
  }
}

// ---- ExposedMemory ----

memory::Region region_at(std::byte* first, std::uint64_t bytes) {
  return memory::Region::of_memory(memory::StorageKind::System, first, bytes, -1, true);
}

TEST(ExposedMemory, ReachesWhatLiesInsideOneExposedRegion) {
  KVBM_SKIP_WITHOUT_NIXL();
  auto const agent = std::make_shared<nixl::NixlAgent>(nixl::NixlLibrary::load(), "exposing");
  agent->create_backend("UCX", {});
  auto const exposed = std::make_shared<ExposedMemory>(agent, false);
  std::vector<std::byte> memory(1U << 20U);
  auto* const first = memory.data();
  auto const whole = region_at(first + 4096, 8192);
  EXPECT_FALSE(exposed->reaches(whole));

  auto registration = exposed->expose({&whole, 1});
  ASSERT_NE(registration, nullptr);
  EXPECT_TRUE(exposed->reaches(whole));
  EXPECT_TRUE(exposed->reaches(region_at(first + 4096, 1)));
  EXPECT_TRUE(exposed->reaches(region_at(first + 12287, 1)));
  EXPECT_FALSE(exposed->reaches(region_at(first + 12288, 1)));
  EXPECT_FALSE(exposed->reaches(region_at(first + 4095, 1)));
  EXPECT_FALSE(exposed->reaches(region_at(first + 4095, 8193)));
  EXPECT_FALSE(exposed->reaches(region_at(first + 4097, 8192)));
  EXPECT_FALSE(exposed->reaches(region_at(first + 8192, 1U << 19U)));

  // A larger one that begins before it, a smaller one at the same place, and the same again.
  std::vector<memory::Region> const more{region_at(first, 65536), region_at(first + 4096, 16)};
  auto others = exposed->expose(more);
  auto twice = exposed->expose({&whole, 1});
  EXPECT_TRUE(exposed->reaches(region_at(first + 20000, 100)));
  registration.reset();
  EXPECT_TRUE(exposed->reaches(whole));
  others.reset();
  EXPECT_TRUE(exposed->reaches(whole)) << "exposed twice, ended once";
  EXPECT_FALSE(exposed->reaches(region_at(first + 20000, 100)));
  twice.reset();
  EXPECT_FALSE(exposed->reaches(whole));
}

TEST(ExposedMemory, LeavesOutWhatTheWireCannotReach) {
  auto const exposed = std::make_shared<ExposedMemory>(nullptr, false);
  std::byte byte{};
  auto const gpu = memory::Region::of_memory(memory::StorageKind::Device, &byte, 1, 0, false);
  EXPECT_EQ(exposed->expose({&gpu, 1}), nullptr);
  EXPECT_EQ(exposed->expose({}), nullptr);
  EXPECT_FALSE(exposed->reaches(gpu));
}

}  // namespace
}  // namespace kvbm::remote
