// SPDX-License-Identifier: Apache-2.0
#include "transfer/wire_queue.hpp"

#include <gtest/gtest.h>

#include <atomic>
#include <future>
#include <memory>
#include <stdexcept>
#include <thread>

namespace kvbm::transfer {
namespace {

TEST(WireQueue, FinishWithoutAStartIsNothing) {
  WireQueue queue;
  queue.finish();
  queue.finish();
}

TEST(WireQueue, RunsBesideItsUserAndFinishWaits) {
  WireQueue queue;
  std::promise<void> go;
  std::thread::id other;
  queue.start([&, opened = go.get_future().share()] {
    opened.wait();  // a queue that ran this within start() would hang
    other = std::this_thread::get_id();
  });
  go.set_value();
  queue.finish();
  EXPECT_NE(other, std::thread::id{});
  EXPECT_NE(other, std::this_thread::get_id());
}

TEST(WireQueue, FinishThrowsWhatTheWorkThrewOnce) {
  WireQueue queue;
  queue.start([] { throw std::runtime_error("broken"); });
  EXPECT_THROW(queue.finish(), std::runtime_error);
  queue.finish();
  int runs = 0;
  queue.start([&runs] { ++runs; });
  queue.finish();
  EXPECT_EQ(runs, 1);
}

TEST(WireQueue, LetsGoOfTheWorkBeforeFinishReturns) {
  WireQueue queue;
  auto const held = std::make_shared<int>(1);
  for (int i = 0; i < 100; ++i) {
    queue.start([held] {});
    queue.finish();
    ASSERT_EQ(held.use_count(), 1);
  }
}

TEST(WireQueue, TheDestructorWaitsForTheWork) {
  std::atomic<bool> ended = false;
  std::promise<void> go;
  {
    WireQueue queue;
    queue.start([&, opened = go.get_future().share()] {
      opened.wait();
      ended = true;
    });
    go.set_value();
  }
  EXPECT_TRUE(ended);
}

}  // namespace
}  // namespace kvbm::transfer
