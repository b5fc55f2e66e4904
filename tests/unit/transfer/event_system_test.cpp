// SPDX-License-Identifier: Apache-2.0
#include "kvbm/transfer/event_system.hpp"

#include "kvbm/core/error.hpp"
#include "transfer/event_core.hpp"
#include "unit/transfer/error_code_of.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <pthread.h>

#include <array>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <csignal>
#include <deque>
#include <future>
#include <memory>
#include <mutex>
#include <set>
#include <stdexcept>
#include <string>
#include <thread>
#include <type_traits>
#include <utility>
#include <vector>

namespace kvbm::transfer {
namespace {

using ::testing::HasSubstr;
using Notification = TransferCompleteNotification;

static_assert(!std::is_copy_constructible_v<Completion>);
static_assert(std::is_nothrow_move_constructible_v<Completion>);
static_assert(!std::is_copy_constructible_v<EventSystem::Timer>);

std::exception_ptr io_error(std::string const& message) {
  return std::make_exception_ptr(Error(ErrorCode::Io, message));
}

// Returns when the event system's thread has done everything that was given to it before.
void drain(EventSystem& system) {
  auto fence = system.create_event("fence");
  std::promise<void> reached;
  fence.notification().then([&reached](std::exception_ptr) { reached.set_value(); });
  fence.trigger();
  reached.get_future().wait();
}

TEST(EventSystem, WorkerIdsAreDistinctAndNeverZero) {
  std::set<std::uint64_t> ids;
  for (int i = 0; i < 1000; ++i) {
    ids.insert(EventSystem::create()->worker_id());
  }
  EXPECT_EQ(ids.size(), 1000U);
  EXPECT_FALSE(ids.contains(0));
}

TEST(EventSystem, N6_TriggerSucceedsAndPoisonFails) {
  auto const system = EventSystem::create();
  auto first = system->create_event();
  auto second = system->create_event();
  EXPECT_EQ(system->num_pending(), 2U);
  EXPECT_TRUE(first.is_pending());
  first.trigger();
  EXPECT_FALSE(first.is_pending());
  EXPECT_EQ(system->num_pending(), 1U);
  second.poison(io_error("no space"));
  EXPECT_EQ(system->num_pending(), 0U);
  EXPECT_NO_THROW(first.notification().wait());
  EXPECT_EQ(code_of([&] { second.notification().wait(); }), ErrorCode::Io);
}

TEST(EventSystem, N6_DroppingACompletionPoisonsIt) {
  auto const system = EventSystem::create();
  Notification notification;
  {
    auto const completion = system->create_event("Device->Disk, 64 blocks");
    notification = completion.notification();
  }
  std::string message;
  EXPECT_EQ(code_of([&] { notification.wait(); }, &message), ErrorCode::Internal);
  EXPECT_THAT(message, HasSubstr("abandoned"));
  EXPECT_THAT(message, HasSubstr("Device->Disk, 64 blocks"));
  EXPECT_EQ(system->num_pending(), 0U);
}

TEST(EventSystem, N6_AssigningOverACompletionPoisonsTheFormerOne) {
  auto const system = EventSystem::create();
  auto completion = system->create_event("former");
  auto const former = completion.notification();
  completion = system->create_event("newer");
  EXPECT_EQ(code_of([&] { former.wait(); }), ErrorCode::Internal);
  EXPECT_TRUE(completion.is_pending());

  auto& alias = completion;
  completion = std::move(alias);
  EXPECT_TRUE(completion.is_pending());
  completion.trigger();
}

TEST(EventSystem, N6_CompletingTwiceOrNothingIsRefused) {
  auto const system = EventSystem::create();
  auto completion = system->create_event("only once");
  EXPECT_EQ(code_of([&] { completion.poison(nullptr); }), ErrorCode::InvalidArgument);
  EXPECT_TRUE(completion.is_pending());
  completion.trigger();
  std::string message;
  EXPECT_EQ(code_of([&] { completion.trigger(); }, &message), ErrorCode::InvalidArgument);
  EXPECT_THAT(message, HasSubstr("only once"));
  EXPECT_EQ(code_of([&] { completion.poison(io_error("x")); }), ErrorCode::InvalidArgument);
  EXPECT_NO_THROW(completion.notification().wait());

  Completion empty;
  EXPECT_FALSE(empty.is_pending());
  EXPECT_EQ(code_of([&] { empty.trigger(); }), ErrorCode::InvalidArgument);
  EXPECT_EQ(code_of([&] { empty.poison(io_error("x")); }), ErrorCode::InvalidArgument);
  EXPECT_EQ(code_of([&] { (void)empty.notification(); }), ErrorCode::InvalidArgument);
  EXPECT_EQ(code_of([&] { (void)empty.handle(); }), ErrorCode::InvalidArgument);
}

TEST(EventSystem, N6_HandlesResolveToTheirEvent) {
  auto const system = EventSystem::create();
  auto completion = system->create_event();
  auto const handle = completion.handle();
  EXPECT_EQ(handle.worker_id, system->worker_id());
  auto const notification = system->awaiter(handle);
  EXPECT_FALSE(notification.is_ready());
  completion.trigger();
  EXPECT_TRUE(notification.is_ready());
  EXPECT_TRUE(system->awaiter(handle).is_ready());
}

TEST(EventSystem, N6_ForeignHandlesAreRefused) {
  auto const system = EventSystem::create();
  auto const other = EventSystem::create();
  auto completion = other->create_event();
  std::string message;
  EXPECT_EQ(code_of([&] { (void)system->awaiter(completion.handle()); }, &message),
            ErrorCode::InvalidArgument);
  EXPECT_THAT(message, HasSubstr(std::to_string(other->worker_id())));
  std::array const handles{completion.handle()};
  EXPECT_EQ(code_of([&] { (void)system->merge(handles); }), ErrorCode::InvalidArgument);
  completion.trigger();
}

TEST(EventSystem, N6_SlotsAreReusedWithANewGeneration) {
  auto const system = EventSystem::create();
  EventHandle former;
  {
    auto completion = system->create_event();
    former = completion.handle();
    completion.trigger();
  }
  EXPECT_EQ(code_of([&] { (void)system->awaiter(former); }), ErrorCode::NotFound);
  auto completion = system->create_event();
  EXPECT_EQ(completion.handle().slot, former.slot);
  EXPECT_EQ(completion.handle().generation, former.generation + 1);
  EXPECT_NE(completion.handle(), former);
  EXPECT_EQ(code_of([&] { (void)system->awaiter(former); }), ErrorCode::NotFound);
  auto beyond = completion.handle();
  beyond.slot = 1000;
  EXPECT_EQ(code_of([&] { (void)system->awaiter(beyond); }), ErrorCode::NotFound);
  auto future = completion.handle();
  ++future.generation;
  EXPECT_EQ(code_of([&] { (void)system->awaiter(future); }), ErrorCode::NotFound);
  completion.trigger();
}

TEST(EventSystem, N6_ANotificationKeepsItsSlot) {
  auto const system = EventSystem::create();
  auto completion = system->create_event();
  auto const kept = completion.notification();
  auto const handle = completion.handle();
  completion.trigger();
  completion = system->create_event();
  EXPECT_NE(completion.handle().slot, handle.slot);
  EXPECT_TRUE(system->awaiter(handle).is_ready());
  completion.trigger();
}

TEST(EventSystem, N6_MergeWaitsForAllAndJoinsReasons) {
  auto const system = EventSystem::create();
  std::vector<Completion> parts;
  std::vector<EventHandle> handles;
  for (int i = 0; i < 3; ++i) {
    parts.push_back(system->create_event());
    handles.push_back(parts.back().handle());
  }
  auto const merged = system->merge(handles);
  parts[2].poison(io_error("second reason"));
  parts[1].trigger();
  EXPECT_FALSE(merged.is_ready());
  parts[0].poison(io_error("first reason"));
  std::string message;
  EXPECT_EQ(code_of([&] { merged.wait(); }, &message), ErrorCode::Io);
  EXPECT_EQ(message, "first reason; second reason");
  EXPECT_FALSE(system->merge({}).could_yield());
}

TEST(EventSystem, N6_TenThousandCompletionsFromSixteenThreadsAreSeenExactlyOnce) {
  constexpr std::size_t kNumEvents = 10'000;
  constexpr std::size_t kNumThreads = 16;
  auto const system = EventSystem::create();
  std::vector<Completion> events;
  std::vector<std::atomic<int>> calls(kNumEvents);
  std::vector<Notification> notifications;
  for (std::size_t i = 0; i < kNumEvents; ++i) {
    events.push_back(system->create_event());
    notifications.push_back(events.back().notification());
    notifications.back().then([&calls, i](std::exception_ptr error) {
      EXPECT_EQ(error == nullptr, i % 3 != 0);
      ++calls[i];
    });
  }
  EXPECT_EQ(system->num_pending(), kNumEvents);

  // Every event is claimed twice, by different threads: one of them has to be refused.
  std::atomic<std::size_t> next = 0;
  std::atomic<std::size_t> completed = 0;
  std::atomic<std::size_t> refused = 0;
  std::vector<std::thread> threads;
  for (std::size_t t = 0; t < kNumThreads; ++t) {
    threads.emplace_back([&] {
      for (std::size_t n = next++; n < 2 * kNumEvents; n = next++) {
        auto const i = n / 2;
        try {
          if (i % 3 == 0) {
            events[i].poison(io_error("every third"));
          } else {
            events[i].trigger();
          }
          ++completed;
        } catch (Error const& error) {
          EXPECT_EQ(error.code(), ErrorCode::InvalidArgument);
          ++refused;
        }
      }
    });
  }
  for (auto& thread : threads) {
    thread.join();
  }
  EXPECT_EQ(completed, kNumEvents);
  EXPECT_EQ(refused, kNumEvents);
  EXPECT_EQ(system->num_pending(), 0U);
  drain(*system);
  for (std::size_t i = 0; i < kNumEvents; ++i) {
    ASSERT_EQ(calls[i], 1) << "event " << i;
    ASSERT_TRUE(notifications[i].is_ready());
    ASSERT_EQ(notifications[i].error() != nullptr, i % 3 == 0);
  }
}

// Waiters and completers over slots that are used again and again. Who wakes up for a former use of
// its slot finds the work of the present one undone.
TEST(EventSystem, N6_StressHasNoStaleWakeUps) {
  struct Job {
    Completion completion;
    std::atomic<bool>* done = nullptr;
    bool fails = false;
  };
  constexpr int kNumWaiters = 6;
  constexpr int kNumCompleters = 3;
  constexpr int kNumRounds = 1500;
  auto const system = EventSystem::create();
  std::mutex mutex;
  std::condition_variable added;
  std::deque<Job> jobs;
  bool closed = false;

  std::vector<std::thread> completers;
  for (int t = 0; t < kNumCompleters; ++t) {
    completers.emplace_back([&] {
      for (;;) {
        Job job;
        {
          std::unique_lock lock(mutex);
          added.wait(lock, [&] { return closed || !jobs.empty(); });
          if (jobs.empty()) { return; }
          job = std::move(jobs.front());
          jobs.pop_front();
        }
        job.done->store(true, std::memory_order_relaxed);
        if (job.fails) {
          job.completion.poison(io_error("asked for"));
        } else {
          job.completion.trigger();
        }
      }
    });
  }
  std::vector<std::thread> waiters;
  for (int t = 0; t < kNumWaiters; ++t) {
    waiters.emplace_back([&, t] {
      EventHandle former;
      for (int round = 0; round < kNumRounds; ++round) {
        std::atomic<bool> done = false;
        bool const fails = (round + t) % 4 == 0;
        auto completion = system->create_event();
        auto const handle = completion.handle();
        auto const notification = completion.notification();
        try {
          // The completer may still hold the former event; a newer one it is never taken for.
          auto const stale = system->awaiter(former);
          EXPECT_TRUE(stale.is_ready());
        } catch (Error const& error) {
          EXPECT_EQ(error.code(), round == 0 ? ErrorCode::InvalidArgument : ErrorCode::NotFound);
        }
        {
          std::lock_guard const lock(mutex);
          jobs.push_back({std::move(completion), &done, fails});
        }
        added.notify_one();
        auto outcome = ErrorCode::Internal;
        try {
          // Half of them by deadlines that pass, half without.
          while (round % 2 == 0 && !notification.wait_for(std::chrono::microseconds(20))) {}
          notification.wait();
        } catch (Error const& error) { outcome = error.code(); }
        ASSERT_TRUE(done.load(std::memory_order_relaxed)) << "stale wake-up in round " << round;
        ASSERT_EQ(outcome == ErrorCode::Io, fails);
        former = handle;
      }
    });
  }
  for (auto& waiter : waiters) {
    waiter.join();
  }
  {
    std::lock_guard const lock(mutex);
    closed = true;
  }
  added.notify_all();
  for (auto& completer : completers) {
    completer.join();
  }
  EXPECT_EQ(system->num_pending(), 0U);
}

TEST(EventSystem, ItsThreadHasANameAndTakesNoSignals) {
  auto const system = EventSystem::create();
  auto completion = system->create_event();
  std::promise<std::string> name;
  completion.notification().then([&name](std::exception_ptr) {
    sigset_t blocked;
    pthread_sigmask(SIG_BLOCK, nullptr, &blocked);
    EXPECT_EQ(sigismember(&blocked, SIGINT), 1);
    std::array<char, 16> text{};
    pthread_getname_np(pthread_self(), text.data(), text.size());
    name.set_value(text.data());
  });
  completion.trigger();
  EXPECT_EQ(name.get_future().get(), "kvbm-events");
  sigset_t blocked;
  pthread_sigmask(SIG_BLOCK, nullptr, &blocked);
  EXPECT_EQ(sigismember(&blocked, SIGINT), 0);
}

}  // namespace
}  // namespace kvbm::transfer
