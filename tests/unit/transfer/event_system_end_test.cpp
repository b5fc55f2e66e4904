// SPDX-License-Identifier: Apache-2.0
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <future>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "kvbm/transfer/event_system.hpp"
#include "unit/transfer/error_code_of.hpp"

/// What becomes of events, callbacks and timers when their event system ends.
namespace kvbm::transfer {
namespace {

using ::testing::HasSubstr;
using Notification = TransferCompleteNotification;

TEST(EventSystem, N5_DestructionFailsWhatIsPendingAndRunsItsCallbacks) {
  std::vector<Completion> completions;
  std::vector<Notification> notifications;
  std::atomic<int> calls = 0;
  {
    auto const system = EventSystem::create();
    for (int i = 0; i < 50; ++i) {
      completions.push_back(system->create_event("store " + std::to_string(i)));
      notifications.push_back(completions.back().notification());
      notifications.back().then([&calls](std::exception_ptr error) {
        EXPECT_NE(error, nullptr);
        ++calls;
      });
    }
    notifications.push_back(Notification::aggregate(notifications));
    notifications.back().then([&calls](std::exception_ptr) { ++calls; });
  }
  EXPECT_EQ(calls, 51);
  for (auto const& notification : notifications) {
    std::string message;
    EXPECT_EQ(code_of([&] { notification.wait(); }, &message), ErrorCode::ShuttingDown);
    EXPECT_THAT(message, HasSubstr("store "));
  }
}

TEST(EventSystem, N5_DestructionWakesWaiters) {
  auto system = EventSystem::create();
  auto const completion = system->create_event();
  std::vector<std::future<ErrorCode>> waiters;
  for (int i = 0; i < 4; ++i) {
    waiters.push_back(std::async(std::launch::async, [pending = completion.notification()] {
      return code_of([&] { pending.wait(); });
    }));
  }
  system.reset();
  for (auto& waiter : waiters) {
    EXPECT_EQ(waiter.get(), ErrorCode::ShuttingDown);
  }
}

TEST(EventSystem, N5_CallbacksThatAreDueRunBeforePendingOnesFail) {
  auto rescued = std::make_shared<Completion>();
  Notification notification;
  {
    auto const system = EventSystem::create();
    *rescued = system->create_event();
    notification = rescued->notification();
    auto first = system->create_event();
    first.notification().then([rescued](std::exception_ptr) { rescued->trigger(); });
    first.trigger();
  }
  EXPECT_NO_THROW(notification.wait());
}

TEST(EventSystem, N5_CompletionsRaceWithDestruction) {
  for (int round = 0; round < 300; ++round) {
    auto system = EventSystem::create();
    std::vector<Completion> completions;
    std::atomic<int> calls = 0;
    std::vector<Notification> notifications;
    for (int i = 0; i < 8; ++i) {
      completions.push_back(system->create_event());
      notifications.push_back(completions.back().notification());
      notifications.back().then([&calls](std::exception_ptr) { ++calls; });
    }
    std::thread completer([&completions] {
      for (auto& completion : completions) {
        completion.trigger();
      }
    });
    system.reset();
    completer.join();
    ASSERT_EQ(calls, 8);
    for (auto const& notification : notifications) {
      ASSERT_TRUE(notification.is_ready());
    }
  }
}

TEST(EventSystem, N5_DestructionWithoutAnyEventOrTimerIsQuiet) {
  auto const system = EventSystem::create();
  EXPECT_EQ(system->num_pending(), 0U);
}

TEST(EventSystem, CallbackMayDropTheLastReference) {
  auto system = EventSystem::create();
  auto completion = system->create_event("drops the system");
  auto pending = system->create_event("left behind");
  auto const left_behind = pending.notification();
  std::promise<void> after;
  left_behind.then([&after](std::exception_ptr) { after.set_value(); });
  completion.notification().then([held = system](std::exception_ptr) mutable { held.reset(); });
  std::weak_ptr<EventSystem> const watcher = system;
  system.reset();
  EXPECT_FALSE(watcher.expired());
  completion.trigger();
  EXPECT_EQ(code_of([&] { left_behind.wait(); }), ErrorCode::ShuttingDown);
  after.get_future().wait();
  EXPECT_TRUE(watcher.expired());
}

TEST(EventSystem, DestroyedCapturesMayDropTheLastReference) {
  auto system = EventSystem::create();
  auto completion = system->create_event();
  auto pending = system->create_event();
  auto const left_behind = pending.notification();
  completion.notification().then([held = system](std::exception_ptr) {});
  system.reset();
  completion.trigger();
  EXPECT_EQ(code_of([&] { left_behind.wait(); }), ErrorCode::ShuttingDown);
}

TEST(EventSystem, TimerMayDropTheLastReference) {
  auto system = EventSystem::create();
  auto pending = system->create_event();
  auto const left_behind = pending.notification();
  auto const timer = system->call_at(std::chrono::steady_clock::now(),
                                     [held = system]() mutable { held.reset(); });
  system.reset();
  EXPECT_EQ(code_of([&] { left_behind.wait(); }), ErrorCode::ShuttingDown);
}

TEST(EventSystem, NothingMoreIsTakenDuringDestruction) {
  std::promise<ErrorCode> event;
  std::promise<ErrorCode> timer;
  auto system = EventSystem::create();
  auto completion = system->create_event();
  // By reference on purpose: what a callback sees that is called by the destructor.
  completion.notification().then([&event, &timer, raw = system.get()](std::exception_ptr) {
    event.set_value(code_of([raw] { (void)raw->create_event(); }));
    timer.set_value(
        code_of([raw] { (void)raw->call_at(std::chrono::steady_clock::now(), [] {}); }));
  });
  system.reset();
  EXPECT_EQ(event.get_future().get(), ErrorCode::ShuttingDown);
  EXPECT_EQ(timer.get_future().get(), ErrorCode::ShuttingDown);
}

}  // namespace
}  // namespace kvbm::transfer
