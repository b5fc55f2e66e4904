// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "kvbm/core/error.hpp"
#include "kvbm/testing/eager_task.hpp"
#include "kvbm/transfer/notification.hpp"

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <cstddef>
#include <future>
#include <string>
#include <thread>
#include <vector>

namespace kvbm::testing {

/// What every pending notification owes its holders, wherever it comes from.
///
/// `Source` is default constructible and has
///   transfer::TransferCompleteNotification pending();  // a new one that is not ready
///   void succeed();                                    // completes the newest from this thread
///   void fail();                                       // likewise
/// and, where fail() does not say "contract failure", a kFailureText that its error contains.
/// An instantiation is INSTANTIATE_TYPED_TEST_SUITE_P(Name, CompletionContract, Sources).
template <typename Source>
class CompletionContract : public ::testing::Test {
 protected:
  static std::string failure_text() {
    if constexpr (requires { Source::kFailureText; }) {
      return Source::kFailureText;
    } else {
      return "contract failure";
    }
  }
  static EagerTask await(transfer::TransferCompleteNotification notification) {
    co_await notification;
  }
  Source source_;
};

TYPED_TEST_SUITE_P(CompletionContract);

TYPED_TEST_P(CompletionContract, PendingThenReady) {
  auto const notification = this->source_.pending();
  EXPECT_TRUE(notification.could_yield());
  EXPECT_FALSE(notification.is_ready());
  EXPECT_FALSE(notification.wait_for(std::chrono::nanoseconds(1)));
  EXPECT_EQ(notification.error(), nullptr);
  this->source_.succeed();
  notification.wait();
  EXPECT_TRUE(notification.is_ready());
  EXPECT_TRUE(notification.could_yield());
  EXPECT_TRUE(notification.wait_for(std::chrono::nanoseconds::max()));
  EXPECT_EQ(notification.error(), nullptr);
  EXPECT_TRUE(notification.failed_blocks().empty());
}

TYPED_TEST_P(CompletionContract, FailureReachesEveryWayOfLooking) {
  auto const notification = this->source_.pending();
  std::promise<std::exception_ptr> called;
  notification.then([&called](std::exception_ptr error) { called.set_value(std::move(error)); });
  auto const task = TestFixture::await(notification);
  this->source_.fail();
  EXPECT_THROW(notification.wait(), Error);
  EXPECT_THROW((void)notification.wait_for(std::chrono::seconds(0)), Error);
  EXPECT_THROW(task.join(), Error);
  EXPECT_NE(called.get_future().get(), nullptr);
  ASSERT_NE(notification.error(), nullptr);
  try {
    std::rethrow_exception(notification.error());
  } catch (std::exception const& error) {
    EXPECT_NE(std::string(error.what()).find(TestFixture::failure_text()), std::string::npos)
        << error.what();
  }
}

TYPED_TEST_P(CompletionContract, WakesEveryWaiterOnce) {
  auto const notification = this->source_.pending();
  std::atomic<int> awake = 0;
  std::vector<std::thread> waiters;
  for (int i = 0; i < 8; ++i) {
    waiters.emplace_back([copy = notification, &awake] {
      copy.wait();
      ++awake;
    });
  }
  this->source_.succeed();
  for (auto& waiter : waiters) {
    waiter.join();
  }
  EXPECT_EQ(awake, 8);
}

TYPED_TEST_P(CompletionContract, CallbacksRunOnceInOrderOnAnotherThread) {
  auto const notification = this->source_.pending();
  std::vector<int> order;
  std::vector<std::thread::id> threads;
  std::promise<void> last;
  for (int i = 0; i < 100; ++i) {
    notification.then([&, i](std::exception_ptr error) {
      EXPECT_EQ(error, nullptr);
      order.push_back(i);
      threads.push_back(std::this_thread::get_id());
      if (i == 99) { last.set_value(); }
    });
  }
  EXPECT_TRUE(order.empty());
  this->source_.succeed();
  last.get_future().wait();
  ASSERT_EQ(order.size(), 100U);
  for (int i = 0; i < 100; ++i) {
    EXPECT_EQ(order[static_cast<std::size_t>(i)], i);
    EXPECT_NE(threads[static_cast<std::size_t>(i)], std::this_thread::get_id());
    EXPECT_EQ(threads[static_cast<std::size_t>(i)], threads.front());
  }
}

TYPED_TEST_P(CompletionContract, DroppingItNeitherBlocksNorCancels) {
  auto kept = this->source_.pending();
  {
    auto const dropped = kept;
    EXPECT_FALSE(dropped.is_ready());
  }
  this->source_.succeed();
  EXPECT_NO_THROW(kept.wait());
  { auto const never_waited_for = this->source_.pending(); }
  this->source_.succeed();
}

TYPED_TEST_P(CompletionContract, ResumesCoroutineOnTheThreadOfCallbacks) {
  auto const notification = this->source_.pending();
  std::promise<std::thread::id> callback_thread;
  notification.then([&callback_thread](std::exception_ptr) {
    callback_thread.set_value(std::this_thread::get_id());
  });
  auto const task = TestFixture::await(notification);
  EXPECT_FALSE(task.has_ended());
  this->source_.succeed();
  task.join();
  EXPECT_EQ(task.ended_on(), callback_thread.get_future().get());
}

TYPED_TEST_P(CompletionContract, ReadyOnesCallBackAndGoOnInline) {
  auto const notification = this->source_.pending();
  this->source_.succeed();
  notification.wait();
  std::thread::id called_on;
  notification.then([&called_on](std::exception_ptr) { called_on = std::this_thread::get_id(); });
  EXPECT_EQ(called_on, std::this_thread::get_id());
  auto const task = TestFixture::await(notification);
  EXPECT_TRUE(task.has_ended());
  EXPECT_EQ(task.ended_on(), std::this_thread::get_id());
}

REGISTER_TYPED_TEST_SUITE_P(CompletionContract, PendingThenReady, FailureReachesEveryWayOfLooking,
                            WakesEveryWaiterOnce, CallbacksRunOnceInOrderOnAnotherThread,
                            DroppingItNeitherBlocksNorCancels,
                            ResumesCoroutineOnTheThreadOfCallbacks, ReadyOnesCallBackAndGoOnInline);

}  // namespace kvbm::testing
