// SPDX-License-Identifier: Apache-2.0
#include "kvbm/core/error.hpp"
#include "kvbm/core/log.hpp"
#include "kvbm/transfer/event_system.hpp"
#include "transfer/event_core.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <future>
#include <memory>
#include <mutex>
#include <optional>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

namespace kvbm::transfer {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;
using namespace std::chrono_literals;

// An event system whose time stands still until the test moves it.
class ManualClock {
 public:
  using TimePoint = std::chrono::steady_clock::time_point;

  explicit ManualClock(EventCoreOptions options = {}) {
    options.now = [ticks = ticks_] { return TimePoint(std::chrono::nanoseconds(*ticks)); };
    system_ = EventSystemAccess::create(std::move(options));
  }
  [[nodiscard]] TimePoint in(std::chrono::nanoseconds delay) const {
    return TimePoint(std::chrono::nanoseconds(*ticks_)) + delay;
  }
  // Moves the clock and returns when the thread has done what is due then.
  void advance(std::chrono::nanoseconds delay) {
    *ticks_ += delay.count();
    drain();
  }
  void drain() {
    auto fence = system_->create_event("fence");
    std::promise<void> reached;
    fence.notification().then([&reached](std::exception_ptr) { reached.set_value(); });
    fence.trigger();
    reached.get_future().wait();
  }
  [[nodiscard]] EventSystem& operator*() const { return *system_; }
  [[nodiscard]] EventSystem* operator->() const { return system_.get(); }
  void destroy() { system_.reset(); }

 private:
  std::shared_ptr<std::atomic<std::int64_t>> ticks_ =
      std::make_shared<std::atomic<std::int64_t>>(1'000'000'000'000);
  std::shared_ptr<EventSystem> system_;
};

// The log's lines for as long as it lives.
class CapturedLog {
 public:
  CapturedLog() {
    log::set_level(log::Level::Warning);
    log::set_sink([lines = lines_](log::Level, std::string_view line) {
      std::lock_guard const lock(lines->mutex);
      lines->lines.emplace_back(line);
    });
  }
  ~CapturedLog() { log::set_sink({}); }
  CapturedLog(CapturedLog const&) = delete;
  CapturedLog& operator=(CapturedLog const&) = delete;

  std::vector<std::string> take() {
    std::lock_guard const lock(lines_->mutex);
    return std::exchange(lines_->lines, {});
  }

 private:
  struct Lines {
    std::mutex mutex;
    std::vector<std::string> lines;
  };
  std::shared_ptr<Lines> lines_ = std::make_shared<Lines>();
};

TEST(EventTimer, RunsOnceWhenItIsDueAndInOrderOfTime) {
  ManualClock clock;
  std::vector<int> order;
  auto const late = clock->call_at(clock.in(20s), [&order] { order.push_back(2); });
  auto const soon = clock->call_at(clock.in(10s), [&order] { order.push_back(1); });
  auto const same = clock->call_at(clock.in(20s), [&order] { order.push_back(3); });
  auto const never = clock->call_at(EventCore::TimePoint::max(), [&order] { order.push_back(4); });
  clock.advance(9s);
  EXPECT_THAT(order, IsEmpty());
  clock.advance(1s);
  EXPECT_THAT(order, ElementsAre(1));
  clock.advance(100s);
  EXPECT_THAT(order, ElementsAre(1, 2, 3));
  clock.advance(100s);
  EXPECT_THAT(order, ElementsAre(1, 2, 3));
}

TEST(EventTimer, RunsByTheRealClock) {
  auto const system = EventSystem::create();
  std::promise<std::chrono::steady_clock::time_point> called;
  auto const when = std::chrono::steady_clock::now() + 5ms;
  auto const later = system->call_at(when + 24h, [] { ADD_FAILURE(); });
  auto const timer =
      system->call_at(when, [&called] { called.set_value(std::chrono::steady_clock::now()); });
  EXPECT_GE(called.get_future().get(), when);
}

TEST(EventTimer, N5_ADeadlineFailsATransfer) {
  ManualClock clock;
  auto const completion =
      std::make_shared<Completion>(clock->create_event("Device->Disk, 64 blocks"));
  auto const notification = completion->notification();
  auto const deadline = clock->call_at(clock.in(2s), [completion] {
    completion->poison(std::make_exception_ptr(TimeoutError("2 s passed")));
  });
  clock.advance(1s);
  EXPECT_FALSE(notification.is_ready());
  clock.advance(1s);
  EXPECT_THROW(notification.wait(), TimeoutError);
}

TEST(EventTimer, CancelledOneNeverRunsAndDropsItsCaptures) {
  ManualClock clock;
  auto const watched = std::make_shared<int>(0);
  auto timer = clock->call_at(clock.in(1s), [watched] { ADD_FAILURE(); });
  EXPECT_EQ(watched.use_count(), 2);
  timer.reset();
  EXPECT_EQ(watched.use_count(), 1);
  timer.reset();
  {
    auto const scoped = clock->call_at(clock.in(1s), [] { ADD_FAILURE(); });
  }
  auto assigned = clock->call_at(clock.in(1s), [] { ADD_FAILURE(); });
  assigned = clock->call_at(clock.in(1s), [held = watched] { ++*held; });
  auto& alias = assigned;
  assigned = std::move(alias);
  clock.advance(1s);
  EXPECT_EQ(*watched, 1);
  EXPECT_EQ(watched.use_count(), 1);
}

TEST(EventTimer, ResetWaitsForTheCallThatIsRunning) {
  auto const system = EventSystem::create();
  std::promise<void> started;
  std::promise<void> go_on;
  auto released = go_on.get_future().share();
  std::atomic<bool> finished = false;
  auto timer = system->call_at(std::chrono::steady_clock::now(), [&, released] {
    started.set_value();
    released.wait();
    finished = true;
  });
  started.get_future().wait();
  std::thread canceller([&] {
    timer.reset();
    EXPECT_TRUE(finished);
  });
  go_on.set_value();
  canceller.join();
}

TEST(EventTimer, ResetWithinItsOwnCallbackDoesNotDeadlock) {
  ManualClock clock;
  auto const timer = std::make_shared<EventSystem::Timer>();
  std::atomic<int> calls = 0;
  *timer = clock->call_at(clock.in(1s), [timer, &calls] {
    timer->reset();
    ++calls;
  });
  clock.advance(1s);
  EXPECT_EQ(calls, 1);

  // Its captures hold the Timer itself: destroyed on the event system's thread.
  auto own = std::make_shared<EventSystem::Timer>();
  auto& slot = *own;
  slot = clock->call_at(clock.in(1s), [own, &calls] { ++calls; });
  own.reset();
  clock.advance(1s);
  EXPECT_EQ(calls, 2);
}

TEST(EventTimer, CallbackMayStartAnother) {
  ManualClock clock;
  std::vector<int> order;
  std::optional<EventSystem::Timer> next;
  auto const timer = clock->call_at(clock.in(1s), [&] {
    order.push_back(1);
    next = clock->call_at(clock.in(0s), [&order] { order.push_back(2); });
  });
  clock.advance(1s);
  clock.drain();
  EXPECT_THAT(order, ElementsAre(1, 2));
}

TEST(EventTimer, ThrowingCallbackIsLoggedAndTheNextOneRuns) {
  CapturedLog captured;
  ManualClock clock;
  std::atomic<int> calls = 0;
  auto const bad = clock->call_at(clock.in(1s), [] { throw std::runtime_error("mine"); });
  auto const good = clock->call_at(clock.in(1s), [&calls] { ++calls; });
  clock.advance(1s);
  EXPECT_EQ(calls, 1);
  EXPECT_THAT(captured.take(), ElementsAre(HasSubstr("mine")));
}

TEST(EventTimer, OutlivesTheEventSystemWithoutRunning) {
  ManualClock clock;
  auto const watched = std::make_shared<int>(0);
  auto timer = clock->call_at(clock.in(1s), [watched] { ADD_FAILURE(); });
  clock.destroy();
  EXPECT_EQ(watched.use_count(), 1);
  timer.reset();
}

TEST(EventTimer, EmptyCallbackIsRefused) {
  ManualClock clock;
  EXPECT_THROW((void)clock->call_at(clock.in(1s), nullptr), Error);
}

TEST(EventTimer, CancellationRacesWithTheCall) {
  auto const system = EventSystem::create();
  for (int round = 0; round < 1000; ++round) {
    auto alive = std::make_unique<int>(round);
    auto timer =
        system->call_at(std::chrono::steady_clock::now() + std::chrono::microseconds(round % 20),
                        [raw = alive.get()] { ++*raw; });
    timer.reset();
    alive.reset();  // a call that still ran would write to freed memory
  }
}

TEST(PendingLog, N6_LogsAfterAMinuteAndEveryHalfMinute) {
  CapturedLog captured;
  ManualClock clock;
  auto stuck = clock->create_event("Device->Disk, 64 blocks");
  auto quick = clock->create_event("quick");
  clock.advance(59s);
  EXPECT_THAT(captured.take(), IsEmpty());
  quick.trigger();
  clock.advance(1s);
  EXPECT_THAT(captured.take(), ElementsAre(HasSubstr("Device->Disk, 64 blocks: pending for 60 s")));
  clock.advance(29s);
  EXPECT_THAT(captured.take(), IsEmpty());
  clock.advance(1s);
  EXPECT_THAT(captured.take(), ElementsAre(HasSubstr("pending for 90 s")));
  clock.advance(30s);
  EXPECT_THAT(captured.take(), ElementsAre(HasSubstr("pending for 120 s")));
  stuck.trigger();
  clock.advance(300s);
  EXPECT_THAT(captured.take(), IsEmpty());

  // The thread had nothing to look at any more; a later event is looked at again.
  auto later = clock->create_event();
  clock.advance(61s);
  EXPECT_THAT(captured.take(),
              ElementsAre(HasSubstr("an event without a description: pending for 61 s")));
  later.trigger();
}

TEST(PendingLog, CountsWhatWouldFloodTheLog) {
  CapturedLog captured;
  EventCoreOptions options;
  options.log_lines = 3;
  ManualClock clock(options);
  std::vector<Completion> stuck;
  for (int i = 0; i < 10; ++i) {
    stuck.push_back(clock->create_event("stuck"));
  }
  clock.advance(60s);
  auto const lines = captured.take();
  ASSERT_THAT(lines, SizeIs(4));
  EXPECT_THAT(lines.back(), HasSubstr("7 more events are pending for over 60 s"));
}

TEST(PendingLog, LooksAtMostOnceASecond) {
  CapturedLog captured;
  ManualClock clock;
  std::vector<Completion> stuck;
  for (int i = 0; i < 5; ++i) {
    stuck.push_back(clock->create_event("stuck"));
    clock.advance(100ms);
  }
  clock.advance(60s - 500ms);
  EXPECT_THAT(captured.take(), SizeIs(1));
  clock.advance(400ms);
  EXPECT_THAT(captured.take(), IsEmpty());
  clock.advance(600ms);
  EXPECT_THAT(captured.take(), SizeIs(4));
}

}  // namespace
}  // namespace kvbm::transfer
