// SPDX-License-Identifier: Apache-2.0
//
// The threads of the engine: who runs what, in which order, and what happens when bodies throw,
// nest, or block.

#include <gtest/gtest.h>
#include <sched.h>

#include <atomic>
#include <latch>
#include <mutex>
#include <set>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "kernels/worker_pool.hpp"
#include "kvbm/core/error.hpp"
#include "kvbm/kernels/copy_engine.hpp"

namespace kvbm::kernels {
namespace {

CopyEngineOptions threads(unsigned count) {
  CopyEngineOptions options;
  options.num_threads = count;
  return options;
}

TEST(ParallelFor, CallsEveryIndexOnce) {
  for (unsigned const count : {1U, 2U, 4U}) {
    CopyEngine engine(threads(count));
    for (std::size_t const items : {0U, 1U, 2U, 7U, 100U, 1000U}) {
      for (std::size_t const grain : {0U, 1U, 3U, 64U, 5000U}) {
        std::vector<std::atomic<int>> seen(items);
        engine.parallel_for(items, grain, [&](std::size_t i) { ++seen[i]; });
        for (auto const& calls : seen)
          ASSERT_EQ(calls.load(), 1);
      }
    }
  }
}

TEST(ParallelFor, SpreadsOverAllThreads) {
  constexpr unsigned kThreads = 4;
  CopyEngine engine(threads(kThreads));
  std::mutex mutex;
  std::set<std::thread::id> ids;
  std::latch all_here(kThreads);
  engine.parallel_for(kThreads, 1, [&](std::size_t) {
    {
      std::lock_guard const lock(mutex);
      ids.insert(std::this_thread::get_id());
    }
    all_here.arrive_and_wait();
  });
  EXPECT_EQ(ids.size(), kThreads);
  EXPECT_TRUE(ids.contains(std::this_thread::get_id())) << "the caller takes part";
}

TEST(ParallelFor, ReturnsOnlyAfterTheBodiesOfWorkersEnded) {
  CopyEngine engine(threads(2));
  std::latch worker_inside(1);
  std::atomic<bool> worker_done = false;
  engine.parallel_for(2, 1, [&, caller = std::this_thread::get_id()](std::size_t) {
    if (std::this_thread::get_id() == caller) {
      worker_inside.wait();
      return;
    }
    worker_inside.count_down();
    // The caller is at its end long before this thread has offered it the CPU so often.
    for (int i = 0; i < 20000; ++i)
      std::this_thread::yield();
    worker_done = true;
  });
  EXPECT_TRUE(worker_done.load());
}

TEST(ParallelFor, RethrowsTheExceptionAfterEveryOtherBodyRan) {
  for (unsigned const count : {1U, 3U}) {
    CopyEngine engine(threads(count));
    std::atomic<int> ran = 0;
    try {
      engine.parallel_for(100, 7, [&](std::size_t i) {
        ++ran;
        if (i == 40) throw std::runtime_error("body 40");
      });
      ADD_FAILURE() << "no exception";
    } catch (std::runtime_error const& error) { EXPECT_EQ(std::string(error.what()), "body 40"); }
    EXPECT_EQ(ran.load(), 100);
    engine.parallel_for(10, 1, [&](std::size_t) { ++ran; });
    EXPECT_EQ(ran.load(), 110) << "the engine works on";
  }
}

TEST(ParallelFor, RethrowsOneOfSeveralExceptions) {
  CopyEngine engine(threads(4));
  EXPECT_THROW(
      engine.parallel_for(50, 1, [](std::size_t i) { throw std::out_of_range(std::to_string(i)); }),
      std::out_of_range);
}

TEST(ParallelFor, RefusesAnEmptyBody) {
  CopyEngine engine(threads(1));
  EXPECT_THROW(engine.parallel_for(1, 1, {}), Error);
  engine.parallel_for(0, 1, {});
}

TEST(ParallelFor, NestsWithoutDeadlock) {
  CopyEngine engine(threads(3));
  std::atomic<int> leaves = 0;
  engine.parallel_for(8, 1, [&](std::size_t) {
    engine.parallel_for(
        8, 1, [&](std::size_t) { engine.parallel_for(8, 1, [&](std::size_t) { ++leaves; }); });
  });
  EXPECT_EQ(leaves.load(), 512);
}

TEST(ParallelFor, NestedCallsEndWhileEveryWorkerIsBlocked) {
  CopyEngine engine(threads(2));
  std::latch blocked(2);
  std::latch release(1);
  // The worker and this caller sit in bodies that wait; a call from a third thread still ends.
  std::jthread holder([&] {
    engine.parallel_for(2, 1, [&](std::size_t) {
      blocked.count_down();
      release.wait();
    });
  });
  blocked.wait();
  std::atomic<int> ran = 0;
  engine.parallel_for(20, 1, [&](std::size_t) { ++ran; });
  EXPECT_EQ(ran.load(), 20);
  release.count_down();
}

TEST(ParallelFor, CopiesFromInsideBodies) {
  CopyEngine engine(threads(3));
  constexpr std::size_t kBytes = 400000;
  std::vector<std::vector<std::byte>> targets(6, std::vector<std::byte>(kBytes));
  std::vector<std::byte> const source(kBytes, std::byte{7});
  engine.parallel_for(targets.size(), 1, [&](std::size_t i) {
    auto const src = reinterpret_cast<std::uintptr_t>(source.data());
    auto const dst = reinterpret_cast<std::uintptr_t>(targets[i].data());
    std::uint32_t const block = 0;
    kvbm_copy_template shape{};
    shape.run_bytes = kBytes;
    engine.copy(shape, {1, &src, &dst, 0, 0, 1, &block, &block});
  });
  for (auto const& target : targets)
    EXPECT_EQ(target, source);
}

/// One worker, and calls whose owners are held inside their first body, so that only the worker
/// can run the rest: its order is the order of service.
class OrderOfService : public ::testing::Test {
 protected:
  /// Starts a call of `count` bodies; returns when its owner is held, hence after it was queued.
  void start_call(char name, int priority, std::size_t count) {
    auto held = std::make_shared<std::latch>(1);
    owners_.emplace_back([this, name, priority, count, held] {
      auto const owner = std::this_thread::get_id();
      engine_.parallel_for(
          count, 1,
          [&](std::size_t) {
            if (std::this_thread::get_id() == owner) {
              held->count_down();
              release_owners_.wait();
              return;
            }
            std::function<void()> hook;
            {
              std::lock_guard const lock(mutex_);
              order_ += name;
              hook = std::exchange(on_next_body_, nullptr);
              if (--expected_ == 0) all_served_.count_down();
            }
            if (hook) hook();
          },
          priority);
    });
    held->wait();
  }

  /// Occupies the worker; returns when it is inside.
  void occupy_worker() {
    auto inside = std::make_shared<std::latch>(2);
    owners_.emplace_back([this, inside] {
      auto const owner = std::this_thread::get_id();
      engine_.parallel_for(
          2, 1,
          [&](std::size_t) {
            inside->count_down();
            if (std::this_thread::get_id() == owner) {
              release_owners_.wait();
            } else {
              release_worker_.wait();
            }
          },
          1000);
    });
    inside->wait();
  }

  std::string finish() {
    all_served_.wait();
    release_owners_.count_down();
    owners_.clear();
    return order_;
  }

  std::mutex mutex_;
  std::string order_;
  int expected_ = 0;
  std::function<void()> on_next_body_;
  std::latch all_served_{1};
  std::latch release_worker_{1};
  std::latch release_owners_{1};
  CopyEngine engine_{threads(2)};
  std::vector<std::jthread> owners_;
};

TEST_F(OrderOfService, HigherPriorityFirstThenFirstCome) {
  expected_ = 6;
  occupy_worker();
  start_call('a', 0, 3);
  start_call('b', 5, 3);
  start_call('c', 0, 2);
  start_call('d', -1, 2);
  release_worker_.count_down();
  EXPECT_EQ(finish(), "bbaacd");
}

TEST_F(OrderOfService, AWorkerLeavesACallWhenAHigherOneArrives) {
  expected_ = 6;
  occupy_worker();
  on_next_body_ = [this] { start_call('z', 9, 4); };
  start_call('a', 0, 4);
  release_worker_.count_down();
  EXPECT_EQ(finish(), "azzzaa");
}

TEST(CopyEngineThreads, OneThreadMeansTheCallerAlone) {
  CopyEngine engine(threads(1));
  EXPECT_EQ(engine.num_threads(), 1U);
  engine.parallel_for(9, 1, [caller = std::this_thread::get_id()](std::size_t) {
    EXPECT_EQ(std::this_thread::get_id(), caller);
  });
}

TEST(CopyEngineThreads, ZeroMeansOnePerUsableCpu) {
  cpu_set_t set;
  CPU_ZERO(&set);
  ASSERT_EQ(sched_getaffinity(0, sizeof set, &set), 0);
  CopyEngine const engine;
  EXPECT_EQ(engine.num_threads(), static_cast<unsigned>(CPU_COUNT(&set)));
}

TEST(CopyEngineThreads, BindsOnlyWhereThereAreSeveralNodes) {
  CpuNodes const nodes = usable_cpus();
  std::size_t cpus = 0;
  for (auto const& node : nodes.cpus_of_node)
    cpus += node.size();
  if (!nodes.cpus_of_node.empty()) { EXPECT_EQ(cpus, nodes.num_cpus); }
  CopyEngineOptions unbound;
  unbound.num_threads = 3;
  unbound.bind_to_numa_nodes = false;
  EXPECT_EQ(CopyEngine(unbound).num_numa_nodes(), 1U);
  if (nodes.cpus_of_node.size() < 2) {
    EXPECT_EQ(CopyEngine(threads(3)).num_numa_nodes(), 1U);
  } else {
    EXPECT_GE(CopyEngine(threads(3)).num_numa_nodes(), 2U);
  }
}

TEST(CopyEngineThreads, EnginesComeAndGo) {
  for (int i = 0; i < 50; ++i) {
    CopyEngine engine(threads(3));
    std::atomic<int> ran = 0;
    engine.parallel_for(5, 1, [&](std::size_t) { ++ran; });
    ASSERT_EQ(ran.load(), 5);
  }
}

TEST(CopyEngineThreads, StressOfShortCallsFromManyThreads) {
  CopyEngine engine(threads(4));
  std::vector<std::jthread> callers;
  std::atomic<std::uint64_t> ran = 0;
  for (int caller = 0; caller < 16; ++caller) {
    callers.emplace_back([&, caller] {
      for (int round = 0; round < 200; ++round) {
        engine.parallel_for(4, 1, [&](std::size_t) { ++ran; }, (caller + round) % 3);
      }
    });
  }
  callers.clear();
  EXPECT_EQ(ran.load(), 16U * 200U * 4U);
}

}  // namespace
}  // namespace kvbm::kernels
