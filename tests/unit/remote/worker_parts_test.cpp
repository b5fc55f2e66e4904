// SPDX-License-Identifier: Apache-2.0
//
// What a remote worker is made of: counting messages and waiting for replies.
#include <gtest/gtest.h>

#include <atomic>
#include <future>
#include <latch>
#include <limits>
#include <numeric>
#include <random>
#include <thread>
#include <vector>

#include "kvbm/testing/failure.hpp"
#include "remote/worker/calls.hpp"
#include "remote/worker/contact.hpp"

namespace kvbm::remote {
namespace {

using namespace std::chrono_literals;  // NOLINT(google-build-using-namespace): literals
using kvbm::testing::failure_of_call;

std::shared_ptr<Contact> make_contact(std::uint64_t worker_id) {
  return std::make_shared<Contact>(
      nullptr, 1, worker_id, WorkerAddress{"agent-" + std::to_string(worker_id), {}}, std::nullopt);
}

// ---- Contact ----

Message numbered(std::uint64_t sequence, std::uint64_t session = 5) {
  return {2, session, sequence, 0, WriteNotice{sequence}};
}
Message hello(std::uint64_t sequence, std::uint64_t session) {
  return {2, session, sequence, 0, Hello{}};
}

TEST(Contact, TakesEachMessageOnceInOrder) {
  auto const contact = make_contact(2);
  for (std::uint64_t i = 1; i <= 100; ++i) {
    EXPECT_TRUE(contact->take(numbered(i))) << i;
    EXPECT_FALSE(contact->take(numbered(i))) << i;
  }
  for (std::uint64_t i = 1; i <= 100; ++i) {
    EXPECT_FALSE(contact->take(numbered(i))) << i;
  }
}

TEST(Contact, TakesEachMessageOnceInAnyOrderBehindTheFirst) {
  std::mt19937_64 random(7);
  for (int round = 0; round < 20; ++round) {
    auto const contact = make_contact(2);
    ASSERT_TRUE(contact->take(numbered(1)));
    std::vector<std::uint64_t> numbers(300);
    std::iota(numbers.begin(), numbers.end(), 2);
    auto twice = numbers;
    twice.insert(twice.end(), numbers.begin(), numbers.end());
    std::shuffle(twice.begin(), twice.end(), random);
    std::size_t taken = 0;
    for (auto const number : twice) {
      taken += contact->take(numbered(number)) ? 1U : 0U;
    }
    EXPECT_EQ(taken, numbers.size());
  }
}

TEST(Contact, AGapThatIsFilledLateIsFilledOnce) {
  auto const contact = make_contact(2);
  EXPECT_TRUE(contact->take(numbered(1)));
  for (std::uint64_t i = 3; i < 500; ++i) {
    EXPECT_TRUE(contact->take(numbered(i)));
  }
  EXPECT_TRUE(contact->take(numbered(2)));
  EXPECT_FALSE(contact->take(numbered(2)));
  EXPECT_TRUE(contact->take(numbered(500)));
}

TEST(Contact, NumbersFarAheadAreRefusedUntilTheGapIsFilled) {
  auto const contact = make_contact(2);
  EXPECT_TRUE(contact->take(numbered(1)));
  // 2 is late. More than a sender leaves unanswered may come before it, but not without end.
  std::uint64_t number = 3;
  while (number < 1000000 && contact->take(numbered(number))) {
    ++number;
  }
  EXPECT_GT(number, 4096U);
  EXPECT_LT(number, 100000U);
  EXPECT_TRUE(contact->take(numbered(2)));
  EXPECT_FALSE(contact->take(numbered(number - 1)));
  EXPECT_TRUE(contact->take(numbered(number)));
}

TEST(Contact, ImpossibleNumbersAreRefusedAndHarmNothing) {
  auto const contact = make_contact(2);
  constexpr auto kMost = std::numeric_limits<std::uint64_t>::max();
  EXPECT_FALSE(contact->take(numbered(0)));
  EXPECT_FALSE(contact->take(numbered(kMost)));
  EXPECT_TRUE(contact->take(numbered(1)));
  EXPECT_FALSE(contact->take(numbered(kMost - 1)));
  EXPECT_FALSE(contact->take(numbered(kMost)));
  EXPECT_FALSE(contact->take(numbered(0)));
  EXPECT_FALSE(contact->take(numbered(1)));
  EXPECT_TRUE(contact->take(numbered(2)));
}

TEST(Contact, TheLastNumberBeginsAndEndsASession) {
  auto const contact = make_contact(2);
  constexpr auto kMost = std::numeric_limits<std::uint64_t>::max();
  EXPECT_TRUE(contact->take(numbered(kMost - 1)));
  EXPECT_FALSE(contact->take(numbered(kMost - 1)));
  EXPECT_FALSE(contact->take(numbered(kMost)));
  EXPECT_FALSE(contact->take(numbered(1)));
}

TEST(Contact, AnUnheardOfCountOfTakenMessagesIsHarmless) {
  auto const contact = make_contact(2);
  auto message = numbered(1);
  message.taken = std::numeric_limits<std::uint64_t>::max();
  EXPECT_TRUE(contact->take(message));
}

TEST(Contact, ANewSessionCountsAnewAndEndsTheOneBefore) {
  auto const contact = make_contact(2);
  for (std::uint64_t i = 1; i <= 9; ++i) {
    EXPECT_TRUE(contact->take(numbered(i, 5)));
  }
  EXPECT_FALSE(contact->take(numbered(10, 0))) << "no session";
  EXPECT_TRUE(contact->take(hello(1, 6)));
  EXPECT_FALSE(contact->take(hello(1, 6)));
  EXPECT_TRUE(contact->take(numbered(2, 6)));
  EXPECT_FALSE(contact->take(numbered(10, 5))) << "late, of the session before";
  EXPECT_FALSE(contact->take(hello(10, 5)));
  EXPECT_TRUE(contact->take(numbered(3, 6)));
  EXPECT_TRUE(contact->take(numbered(1, 7))) << "the worker has forgotten us, and was asked anew";
  EXPECT_FALSE(contact->take(numbered(4, 6)));
}

TEST(Contact, ASessionThatWasUnderWayIsJoined) {
  auto const contact = make_contact(2);
  EXPECT_TRUE(contact->take(numbered(4000)));
  EXPECT_FALSE(contact->owes_count());
  EXPECT_FALSE(contact->take(numbered(3999)));
  EXPECT_TRUE(contact->take(numbered(4001)));
}

TEST(Contact, OwesACountOnlyBehindManyMessages) {
  auto const contact = make_contact(2);
  std::uint64_t number = 1;
  while (number < 100000 && !contact->owes_count()) {
    ASSERT_TRUE(contact->take(numbered(number++)));
  }
  EXPECT_GT(number, 64U);
  EXPECT_LE(number, 2048U);
}

TEST(Contact, WhoIsGoneStaysGoneForTheFirstReason) {
  auto const contact = make_contact(2);
  contact->expect_alive();
  contact->mark_gone("it was shut down");
  contact->mark_gone("another reason");
  auto const failure = failure_of_call([&] {
    contact->expect_alive();
    return 0;
  });
  EXPECT_EQ(failure.code, ErrorCode::PeerLost);
  EXPECT_TRUE(failure.names("worker 2 (agent agent-2) is gone: it was shut down"))
      << failure.message;
  EXPECT_EQ(failure_of_call([&] {
              contact->send(WriteNotice{1});
              return 0;
            }).code,
            ErrorCode::PeerLost);
}

TEST(Contact, EndsWithTheProcessOfItsWorker) {
  memory::ProcessName process;
  try {
    process = memory::ProcessName::current();
  } catch (Error const& error) { GTEST_SKIP() << error.what(); }
  Contact(nullptr, 1, 2, {"alive", {}}, process).expect_alive();
  process.start_time += 1;  // whoever had this pid then has ended
  Contact const dead(nullptr, 1, 2, {"dead", {}}, process);
  EXPECT_TRUE(failure_of_call([&] {
                dead.expect_alive();
                return 0;
              }).names("its process has ended"));
}

TEST(Contact, MayBeAskedByManyThreads) {
  auto const contact = make_contact(2);
  ASSERT_TRUE(contact->take(numbered(1)));
  std::atomic<std::uint64_t> taken = 1;
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&] {
      for (std::uint64_t i = 2; i <= 500; ++i) {
        if (contact->take(numbered(i))) { ++taken; }
        contact->expect_alive();
        static_cast<void>(contact->owes_count());
        static_cast<void>(contact->generation());
      }
    });
  }
  for (auto& thread : threads) {
    thread.join();
  }
  EXPECT_EQ(taken, 500U);
}

// ---- Calls ----

Reply reply_to(std::uint64_t id) { return {id, {}, {}, id, 1}; }
bool never() { return false; }
auto at_once() { return std::chrono::steady_clock::now(); }

TEST(Calls, AReplyReachesWhoAsked) {
  Calls calls;
  Calls::Call first(calls, make_contact(2));
  Calls::Call second(calls, make_contact(2));
  EXPECT_NE(first.id(), second.id());
  EXPECT_TRUE(calls.any_waiting());
  EXPECT_TRUE(calls.answer(2, reply_to(second.id())));
  EXPECT_EQ(first.wait_until(at_once()), std::nullopt);
  EXPECT_EQ(second.wait(never), reply_to(second.id()));
}

TEST(Calls, OnlyTheWorkerThatWasAskedMayAnswerAndOnce) {
  Calls calls;
  Calls::Call call(calls, make_contact(2));
  EXPECT_FALSE(calls.answer(3, reply_to(call.id())));
  EXPECT_EQ(call.wait_until(at_once()), std::nullopt);
  EXPECT_TRUE(calls.answer(2, reply_to(call.id())));
  EXPECT_FALSE(calls.answer(2, {call.id(), ErrorCode::Busy, "second thoughts", 0, 0}));
  EXPECT_EQ(call.wait(never), reply_to(call.id()));
}

TEST(Calls, ALateReplyFindsNobody) {
  Calls calls;
  std::uint64_t id = 0;
  {
    Calls::Call const call(calls, make_contact(2));
    id = call.id();
  }
  EXPECT_FALSE(calls.any_waiting());
  EXPECT_FALSE(calls.answer(2, reply_to(id)));
  EXPECT_FALSE(calls.answer(2, reply_to(~std::uint64_t{0})));
}

TEST(Calls, WhoForgetsTakesWhatIsThereAndNothingLater) {
  Calls calls;
  Calls::Call answered(calls, make_contact(2));
  Calls::Call open(calls, make_contact(2));
  EXPECT_TRUE(calls.answer(2, reply_to(answered.id())));
  EXPECT_EQ(answered.forget(), reply_to(answered.id()));
  EXPECT_EQ(answered.forget(), std::nullopt);
  EXPECT_EQ(open.forget(), std::nullopt);
  EXPECT_FALSE(calls.answer(2, reply_to(open.id())));
}

TEST(Calls, AFarewellEndsOnlyWhatWaitsForIt) {
  Calls calls;
  Calls::Call revoke(calls, make_contact(2), Calls::Until::Farewell);
  Calls::Call borrow(calls, make_contact(2), Calls::Until::End);
  Calls::Call other(calls, make_contact(3), Calls::Until::Farewell);
  calls.give_up(2);
  auto const failure = failure_of_call([&] { return revoke.wait(never); });
  EXPECT_EQ(failure.code, ErrorCode::PeerLost);
  EXPECT_TRUE(failure.names("worker 2")) << failure.message;
  EXPECT_EQ(borrow.wait_until(at_once()), std::nullopt);
  EXPECT_EQ(other.wait_until(at_once()), std::nullopt);
  EXPECT_TRUE(calls.answer(2, reply_to(borrow.id()))) << "it still serves";
}

TEST(Calls, AReplyThatCameBeforeTheFarewellCounts) {
  Calls calls;
  Calls::Call call(calls, make_contact(2), Calls::Until::Farewell);
  EXPECT_TRUE(calls.answer(2, reply_to(call.id())));
  calls.give_up(2);
  calls.close();
  EXPECT_EQ(call.wait(never), reply_to(call.id()));
}

TEST(Calls, ClosingEndsAllAndWhatComesLater) {
  Calls calls;
  Calls::Call before(calls, make_contact(2));
  calls.close();
  EXPECT_EQ(failure_of_call([&] { return before.wait(never); }).code, ErrorCode::PeerLost);
  Calls::Call after(calls, make_contact(2));
  EXPECT_EQ(failure_of_call([&] { return after.wait(never); }).code, ErrorCode::PeerLost);
}

TEST(Calls, WaitingStopsWhenAsked) {
  Calls calls;
  Calls::Call call(calls, make_contact(2));
  int asked = 0;
  EXPECT_EQ(failure_of_call([&] { return call.wait([&] { return ++asked == 3; }); }).code,
            ErrorCode::Cancelled);
  EXPECT_EQ(asked, 3);
}

TEST(Calls, WaitingEndsWithTheWorker) {
  Calls calls;
  auto const contact = make_contact(2);
  Calls::Call call(calls, contact);
  int asked = 0;
  auto const failure = failure_of_call([&] {
    return call.wait([&] {
      if (++asked == 2) { contact->mark_gone("it was shut down"); }
      return false;
    });
  });
  EXPECT_EQ(failure.code, ErrorCode::PeerLost);
  EXPECT_TRUE(failure.names("it was shut down"));
}

TEST(Calls, ManyThreadsAskAndAreAnsweredEachItsOwn) {
  Calls calls;
  constexpr int kThreads = 4;
  constexpr int kCalls = 100;
  std::mutex mutex;
  std::vector<std::uint64_t> open;
  std::atomic<int> running = kThreads;
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([&] {
      auto const contact = make_contact(2);
      for (int i = 0; i < kCalls; ++i) {
        Calls::Call call(calls, contact);
        {
          std::lock_guard const lock(mutex);
          open.push_back(call.id());
        }
        EXPECT_EQ(call.wait(never), reply_to(call.id()));
      }
      --running;
    });
  }
  while (running > 0) {
    std::vector<std::uint64_t> ids;
    {
      std::lock_guard const lock(mutex);
      std::swap(ids, open);
    }
    for (auto const id : ids) {
      EXPECT_TRUE(calls.answer(2, reply_to(id)));
    }
    std::this_thread::yield();
  }
  for (auto& thread : threads) {
    thread.join();
  }
  EXPECT_FALSE(calls.any_waiting());
}

}  // namespace
}  // namespace kvbm::remote
