// SPDX-License-Identifier: Apache-2.0
#include "kvbm/transfer/notification.hpp"

#include "kvbm/core/error.hpp"
#include "kvbm/testing/eager_task.hpp"
#include "kvbm/transfer/event_system.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <future>
#include <memory>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

namespace kvbm::transfer {
namespace {

using testing::EagerTask;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using Notification = TransferCompleteNotification;

std::exception_ptr error_of(ErrorCode code, std::string const& message) {
  return std::make_exception_ptr(Error(code, message));
}

std::string message_of(Notification const& notification) {
  try {
    notification.wait();
  } catch (std::exception const& error) { return error.what(); }
  return "";
}

std::vector<std::size_t> failed_positions(Notification const& notification) {
  std::vector<std::size_t> positions;
  for (auto const& block : notification.failed_blocks()) {
    EXPECT_NE(block.error, nullptr);
    positions.push_back(block.position);
  }
  return positions;
}

class NotificationTest : public ::testing::Test {
 protected:
  std::shared_ptr<EventSystem> const system_ = EventSystem::create();
};

TEST_F(NotificationTest, N2_CouldYieldIsFalseExactlyForTheReadyState) {
  EXPECT_FALSE(Notification::completed().could_yield());
  EXPECT_TRUE(Notification::completed().is_ready());
  EXPECT_FALSE(Notification().could_yield());

  auto completion = system_->create_event();
  auto const pending = completion.notification();
  EXPECT_TRUE(pending.could_yield());
  EXPECT_FALSE(pending.is_ready());
  completion.trigger();
  EXPECT_TRUE(pending.could_yield());
  EXPECT_TRUE(pending.is_ready());
}

TEST_F(NotificationTest, ReadyStateAnswersEveryCallAtOnce) {
  auto const ready = Notification::completed();
  ready.wait();
  EXPECT_TRUE(ready.wait_for(std::chrono::nanoseconds(-1)));
  EXPECT_EQ(ready.error(), nullptr);
  EXPECT_TRUE(ready.failed_blocks().empty());
  int calls = 0;
  ready.then([&calls](std::exception_ptr error) {
    EXPECT_EQ(error, nullptr);
    ++calls;
  });
  EXPECT_EQ(calls, 1);
}

TEST_F(NotificationTest, N3_AggregateOfNoneIsReady) {
  auto const none = Notification::aggregate({});
  EXPECT_TRUE(none.is_ready());
  EXPECT_FALSE(none.could_yield());
}

TEST_F(NotificationTest, N3_AggregateOfOneIsThatOne) {
  auto completion = system_->create_event("one");
  auto const one = Notification::aggregate({completion.notification()});
  EXPECT_FALSE(one.is_ready());
  auto const error = error_of(ErrorCode::Io, "lost");
  completion.poison(error);
  EXPECT_EQ(one.error(), error);
}

TEST_F(NotificationTest, N3_AggregateOfReadyOnesIsReadyWithoutYield) {
  auto completion = system_->create_event();
  completion.trigger();
  auto const all = Notification::aggregate(
      {Notification::completed(), completion.notification(), Notification::completed()});
  EXPECT_TRUE(all.is_ready());
  EXPECT_FALSE(all.could_yield());
}

TEST_F(NotificationTest, N3_MixedAggregateWaitsForThePendingOnes) {
  auto first = system_->create_event();
  auto second = system_->create_event();
  auto const all = Notification::aggregate(
      {first.notification(), Notification::completed(), second.notification()});
  EXPECT_TRUE(all.could_yield());
  second.trigger();
  EXPECT_FALSE(all.is_ready());
  first.trigger();
  EXPECT_TRUE(all.is_ready());
  EXPECT_NO_THROW(all.wait());
}

TEST_F(NotificationTest, N3_AggregateFailsAfterAllEndedWithEveryReason) {
  auto first = system_->create_event();
  auto second = system_->create_event();
  auto third = system_->create_event();
  auto const all =
      Notification::aggregate({first.notification(), second.notification(), third.notification()});
  third.poison(error_of(ErrorCode::Corrupt, "block 7 is torn"));
  EXPECT_FALSE(all.is_ready());
  second.trigger();
  EXPECT_FALSE(all.is_ready());
  EXPECT_EQ(all.error(), nullptr);
  first.poison(error_of(ErrorCode::Io, "disk full"));
  ASSERT_TRUE(all.is_ready());
  EXPECT_EQ(message_of(all), "disk full; block 7 is torn");
  try {
    all.wait();
  } catch (Error const& error) { EXPECT_EQ(error.code(), ErrorCode::Io); }
}

TEST_F(NotificationTest, N3_AggregateNamesForeignExceptionsToo) {
  auto first = system_->create_event();
  auto second = system_->create_event();
  auto const all = Notification::aggregate({first.notification(), second.notification()});
  first.poison(std::make_exception_ptr(std::runtime_error("plain")));
  second.poison(std::make_exception_ptr(42));
  EXPECT_EQ(message_of(all), "plain; an exception that is not a std::exception");
}

TEST_F(NotificationTest, N4_AggregateKeepsAReadyError) {
  auto failed = system_->create_event();
  auto const error = std::make_exception_ptr(CorruptError("flipped bit"));
  failed.poison(error);
  auto const ready = Notification::aggregate({Notification::completed(), failed.notification()});
  EXPECT_TRUE(ready.is_ready());
  EXPECT_TRUE(ready.could_yield());
  EXPECT_EQ(ready.error(), error);

  auto pending = system_->create_event();
  auto const mixed = Notification::aggregate({failed.notification(), pending.notification()});
  EXPECT_FALSE(mixed.is_ready());
  pending.trigger();
  EXPECT_THROW(mixed.wait(), CorruptError);
}

TEST_F(NotificationTest, AggregateShiftsFailedBlocksWhereEveryPartStatesItsSize) {
  auto first = system_->create_event("first", 10);
  auto second = system_->create_event("second", 5);
  auto const error = error_of(ErrorCode::Corrupt, "torn");
  auto const all = Notification::aggregate({first.notification(), second.notification()});
  auto third = system_->create_event("third", 3);
  auto const nested = Notification::aggregate({all, third.notification()});
  second.poison(error, {{4, nullptr}, {1, error}});
  first.poison(error, {{9, error}});
  third.poison(error, {{2, error}});
  EXPECT_THAT(failed_positions(second.notification()), ElementsAre(1, 4));
  EXPECT_THAT(failed_positions(all), ElementsAre(9, 11, 14));
  EXPECT_THAT(failed_positions(nested), ElementsAre(9, 11, 14, 17));
}

TEST_F(NotificationTest, AggregateKeepsPartPositionsWhereASizeIsMissing) {
  auto first = system_->create_event("first", 10);
  auto second = system_->create_event("second", 5);
  auto const error = error_of(ErrorCode::Corrupt, "torn");
  auto const all = Notification::aggregate(
      {first.notification(), Notification::completed(), second.notification()});
  first.poison(error, {{9, error}});
  second.poison(error, {{4, error}});
  EXPECT_THAT(failed_positions(all), ElementsAre(9, 4));
}

TEST_F(NotificationTest, AggregateSizesThatOverflowCountAsMissing) {
  auto first = system_->create_event("first", ~std::size_t{0});
  auto second = system_->create_event("second", 5);
  auto const error = error_of(ErrorCode::Corrupt, "torn");
  auto const all = Notification::aggregate({first.notification(), second.notification()});
  first.trigger();
  second.poison(error, {{4, error}});
  EXPECT_THAT(failed_positions(all), ElementsAre(4));
}

TEST_F(NotificationTest, AggregatesNestDeeplyWithoutRecursion) {
  std::vector<Completion> parts;
  parts.push_back(system_->create_event());
  auto chain = parts.front().notification();
  for (int depth = 0; depth < 20'000; ++depth) {
    parts.push_back(system_->create_event());
    chain = Notification::aggregate({chain, parts.back().notification()});
  }
  for (std::size_t i = parts.size(); i-- > 1;) {
    parts[i].trigger();
  }
  EXPECT_FALSE(chain.is_ready());
  parts.front().trigger();
  EXPECT_TRUE(chain.is_ready());
}

TEST_F(NotificationTest, AggregateOfPartsThatEndWhileItIsBuiltEndsOnce) {
  for (int round = 0; round < 200; ++round) {
    std::vector<Completion> parts(8);
    std::vector<Notification> notifications;
    for (auto& part : parts) {
      part = system_->create_event();
      notifications.push_back(part.notification());
    }
    std::thread completer([&parts] {
      for (auto& part : parts) {
        part.trigger();
      }
    });
    Notification::aggregate(notifications).wait();
    completer.join();
  }
}

TEST_F(NotificationTest, N5_WaitForGivesUpAndLeavesTheTransferAlone) {
  auto completion = system_->create_event();
  auto const pending = completion.notification();
  EXPECT_FALSE(pending.wait_for(std::chrono::nanoseconds(-5)));
  EXPECT_FALSE(pending.wait_for(std::chrono::nanoseconds::min()));
  EXPECT_FALSE(pending.wait_for(std::chrono::nanoseconds(0)));
  EXPECT_FALSE(pending.wait_for(std::chrono::microseconds(200)));
  EXPECT_TRUE(completion.is_pending());
  completion.trigger();
  EXPECT_TRUE(pending.wait_for(std::chrono::nanoseconds(0)));
}

TEST_F(NotificationTest, N5_HugeTimeoutsDoNotOverflow) {
  for (auto const timeout :
       {std::chrono::nanoseconds::max(), std::chrono::nanoseconds::max() - std::chrono::hours(1),
        std::chrono::nanoseconds(std::chrono::hours(24 * 365 * 250))}) {
    auto completion = system_->create_event();
    std::promise<void> started;
    auto waiter = std::async(std::launch::async, [&, pending = completion.notification()] {
      started.set_value();
      return pending.wait_for(timeout);
    });
    started.get_future().wait();
    completion.trigger();
    EXPECT_TRUE(waiter.get());
  }
}

TEST_F(NotificationTest, N5_DroppingANotificationNeitherBlocksNorLeaks) {
  auto const watched = std::make_shared<int>(0);
  std::weak_ptr<int> const watcher = watched;
  auto completion = system_->create_event();
  std::promise<void> called;
  completion.notification().then(
      [&called, held = watched](std::exception_ptr) { called.set_value(); });
  EXPECT_EQ(watched.use_count(), 2);
  { auto const dropped = completion.notification(); }
  EXPECT_TRUE(completion.is_pending());
  completion.trigger();
  called.get_future().wait();

  // The callback is destroyed right after it ran, before the thread takes the next one.
  auto fence = system_->create_event();
  std::promise<void> fenced;
  fence.notification().then([&fenced](std::exception_ptr) { fenced.set_value(); });
  fence.trigger();
  fenced.get_future().wait();
  EXPECT_EQ(watched.use_count(), 1);
}

TEST_F(NotificationTest, N5_ACallbackThatHoldsItsOwnNotificationDoesNotLeak) {
  std::weak_ptr<int> watcher;
  {
    auto const local = EventSystem::create();
    auto completion = local->create_event();
    auto const watched = std::make_shared<int>(0);
    watcher = watched;
    auto const own = completion.notification();
    own.then([own, watched](std::exception_ptr) {});
  }
  EXPECT_TRUE(watcher.expired());
}

TEST_F(NotificationTest, EmptyCallbackIsRefused) {
  EXPECT_THROW(Notification::completed().then(nullptr), Error);
  EXPECT_THROW(system_->create_event().notification().then({}), Error);
}

TEST_F(NotificationTest, ThrowingCallbackDoesNotStopTheNextOne) {
  auto completion = system_->create_event();
  std::promise<void> called;
  completion.notification().then([](std::exception_ptr) { throw std::runtime_error("mine"); });
  completion.notification().then([](std::exception_ptr) { throw 3; });
  completion.notification().then([&called](std::exception_ptr) { called.set_value(); });
  completion.trigger();
  called.get_future().wait();
  EXPECT_NO_THROW(
      completion.notification().then([](std::exception_ptr) { throw std::runtime_error("x"); }));
}

TEST_F(NotificationTest, CallbackMayAddCallbacksAndComplete) {
  auto first = system_->create_event();
  auto second = std::make_shared<Completion>(system_->create_event());
  std::promise<void> called;
  auto const after = second->notification();
  after.then([&called, after](std::exception_ptr) {
    after.then([&called](std::exception_ptr) { called.set_value(); });
  });
  first.notification().then([second](std::exception_ptr) { second->trigger(); });
  first.trigger();
  called.get_future().wait();
}

EagerTask await_all(std::vector<Notification> notifications, std::vector<std::size_t>& reached) {
  for (std::size_t i = 0; i < notifications.size(); ++i) {
    co_await notifications[i];
    reached.push_back(i);
  }
}

TEST_F(NotificationTest, CoroutineGoesOnInlineUntilSomethingIsPending) {
  auto completion = system_->create_event();
  std::vector<std::size_t> reached;
  auto const task = await_all(
      {Notification::completed(), completion.notification(), Notification::completed()}, reached);
  EXPECT_THAT(reached, ElementsAre(0));
  EXPECT_FALSE(task.has_ended());
  completion.trigger();
  task.join();
  EXPECT_THAT(reached, ElementsAre(0, 1, 2));
  EXPECT_NE(task.ended_on(), std::this_thread::get_id());
}

TEST_F(NotificationTest, CoroutineSeesTheException) {
  auto completion = system_->create_event();
  std::vector<std::size_t> reached;
  auto const task = await_all({completion.notification()}, reached);
  completion.poison(std::make_exception_ptr(CorruptError("block 3 of file g3.kv")));
  EXPECT_THROW(task.join(), CorruptError);
  EXPECT_TRUE(reached.empty());

  auto const late = await_all({completion.notification()}, reached);
  EXPECT_TRUE(late.has_ended());
  EXPECT_THROW(late.join(), CorruptError);
}

TEST_F(NotificationTest, CoroutinesRaceWithCompletionWithoutALostResumption) {
  for (int round = 0; round < 500; ++round) {
    auto completion = system_->create_event();
    auto const pending = completion.notification();
    std::thread completer([&completion] { completion.trigger(); });
    std::vector<std::size_t> reached;
    auto const task = await_all({pending, pending}, reached);
    task.join();
    completer.join();
    ASSERT_THAT(reached, ElementsAre(0, 1));
  }
}

TEST(NotificationLifetime, OutcomeOutlivesTheEventSystem) {
  Notification succeeded;
  Notification failed;
  Notification shut_down;
  Completion late;
  {
    auto const system = EventSystem::create();
    auto first = system->create_event();
    auto second = system->create_event();
    late = system->create_event("late one");
    succeeded = first.notification();
    failed = second.notification();
    shut_down = late.notification();
    first.trigger();
    second.poison(error_of(ErrorCode::Io, "gone"), {{3, nullptr}});
  }
  EXPECT_NO_THROW(succeeded.wait());
  EXPECT_EQ(message_of(failed), "gone");
  EXPECT_THAT(failed_positions(failed), ElementsAre(3));
  EXPECT_THAT(message_of(shut_down), HasSubstr("late one"));
  EXPECT_FALSE(late.is_pending());
  EXPECT_NO_THROW(late.trigger());  // came too late, which is not its caller's mistake
  EXPECT_THROW(late.trigger(), Error);

  std::thread::id called_on;
  failed.then([&called_on](std::exception_ptr error) {
    EXPECT_NE(error, nullptr);
    called_on = std::this_thread::get_id();
  });
  EXPECT_EQ(called_on, std::this_thread::get_id());
  EXPECT_EQ(message_of(Notification::aggregate({succeeded, failed})), "gone");
}

TEST(NotificationLifetime, AggregateOverTwoSystemsOutlivesTheFirst) {
  auto first_system = EventSystem::create();
  auto const second_system = EventSystem::create();
  auto first = first_system->create_event();
  auto second = second_system->create_event();
  auto const all = Notification::aggregate({first.notification(), second.notification()});
  std::promise<std::exception_ptr> called;
  all.then([&called](std::exception_ptr error) { called.set_value(std::move(error)); });
  first.trigger();
  first_system.reset();
  EXPECT_FALSE(all.is_ready());
  second.trigger();
  EXPECT_EQ(called.get_future().get(), nullptr);
}

}  // namespace
}  // namespace kvbm::transfer
