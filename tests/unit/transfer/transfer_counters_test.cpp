// SPDX-License-Identifier: Apache-2.0
#include "transfer/transfer_counters.hpp"

#include <gtest/gtest.h>

#include <chrono>
#include <exception>
#include <memory>
#include <new>
#include <stdexcept>
#include <thread>
#include <vector>

#include "kvbm/testing/transfer_books.hpp"

namespace kvbm::transfer {
namespace {

using namespace std::chrono_literals;
using memory::StorageKind;
using testing::expect_balanced;

constexpr Route kRoute{StorageKind::Device, StorageKind::Pinned, Reach::Local};

template <typename Failure>
std::exception_ptr thrown(Failure const& failure) {
  return std::make_exception_ptr(failure);
}

TEST(Route, IsNamedByItsStorageKinds) {
  EXPECT_EQ(to_string(kRoute), "device_to_pinned");
  EXPECT_EQ(to_string(Route{StorageKind::System, StorageKind::Disk, Reach::ToPeer}),
            "system_to_disk");
  EXPECT_EQ(to_string(Route{StorageKind::Object, StorageKind::Object, Reach::Local}),
            "object_to_object");
  EXPECT_EQ(to_string(Reach::FromPeer), "from_peer");
}

TEST(LatencyHistogram, CountsEachTimeInTheFirstBucketThatReachesIt) {
  struct Case {
    std::chrono::nanoseconds time;
    std::size_t bucket;
  };
  for (auto const& [time, bucket] : std::vector<Case>{{0ns, 0},
                                                      {1ns, 0},
                                                      {1us, 0},
                                                      {1us + 1ns, 1},
                                                      {2us, 1},
                                                      {2us + 1ns, 2},
                                                      {4us, 2},
                                                      {1024us, 10},
                                                      {1025us, 11},
                                                      {67'108'864us, 26},
                                                      {134'217'728us, 27},
                                                      {134'217'728us + 1ns, 28},
                                                      {24h * 365, 28}}) {
    LatencyHistogram histogram;
    histogram.add(time);
    EXPECT_EQ(histogram.buckets[bucket], 1U) << time.count() << " ns";
    EXPECT_EQ(histogram.count(), 1U);
    EXPECT_EQ(histogram.sum, time);
    if (bucket < LatencyHistogram::kNumBounds) {
      EXPECT_LE(time, LatencyHistogram::upper_bound(bucket));
    }
    if (bucket > 0) { EXPECT_GT(time, LatencyHistogram::upper_bound(bucket - 1)); }
  }
}

TEST(TransferCounters, RoutesThatWereNeverUsedAreNotListed) {
  TransferCounters counters;
  EXPECT_TRUE(counters.snapshot().routes.empty());
  EXPECT_EQ(counters.snapshot().total().submitted, 0U);
}

TEST(TransferCounters, EveryRouteHasItsOwnCounts) {
  TransferCounters counters;
  std::size_t expected = 0;
  for (auto const src : {StorageKind::System, StorageKind::Pinned, StorageKind::Device,
                         StorageKind::Disk, StorageKind::Object}) {
    for (auto const dst : {StorageKind::System, StorageKind::Pinned, StorageKind::Device,
                           StorageKind::Disk, StorageKind::Object}) {
      for (auto const reach : {Reach::Local, Reach::FromPeer, Reach::ToPeer}) {
        TransferRecord record(counters, {src, dst, reach}, ++expected, 1);
        record.complete();
      }
    }
  }
  auto const stats = counters.snapshot();
  ASSERT_EQ(stats.routes.size(), expected);
  for (std::size_t i = 0; i < expected; ++i) {
    EXPECT_EQ(stats.routes[i].counts.bytes_completed, i + 1);
    EXPECT_EQ(stats.of(stats.routes[i].route).bytes_completed, i + 1);
  }
  EXPECT_EQ(stats.total().bytes_completed, expected * (expected + 1) / 2);
}

TEST(TransferRecord, IsInFlightUntilItEnds) {
  TransferCounters counters;
  TransferRecord record(counters, kRoute, 100, 7);
  auto counts = counters.snapshot().of(kRoute);
  EXPECT_EQ(counts.in_flight, 1U);
  EXPECT_EQ(counts.bytes_in_flight, 700U);
  expect_balanced(counts);
  record.complete();
  counts = counters.snapshot().of(kRoute);
  EXPECT_EQ(counts.in_flight, 0U);
  EXPECT_EQ(counts.completed, 1U);
  EXPECT_EQ(counts.bytes_completed, 700U);
  expect_balanced(counts);
}

TEST(TransferRecord, OnlyTheFirstEndCounts) {
  TransferCounters counters;
  {
    TransferRecord record(counters, kRoute, 100, 7);
    record.end(3, thrown(Error(ErrorCode::Io, "broken")));
    record.complete();
    record.fail(thrown(TimeoutError("late")));
  }
  auto const counts = counters.snapshot().of(kRoute);
  EXPECT_EQ(counts.failed, 1U);
  EXPECT_EQ(counts.errors_of(ErrorCode::Io), 1U);
  EXPECT_EQ(counts.bytes_failed, 300U);
  EXPECT_EQ(counts.bytes_completed, 400U);
  expect_balanced(counts);
}

TEST(TransferRecord, WhatNobodyEndedFailed) {
  TransferCounters counters;
  { TransferRecord const record(counters, kRoute, 100, 7); }
  auto const counts = counters.snapshot().of(kRoute);
  EXPECT_EQ(counts.errors_of(ErrorCode::Internal), 1U);
  EXPECT_EQ(counts.bytes_failed, 700U);
  expect_balanced(counts);
}

TEST(TransferRecord, ErrorsAreCountedByTheirCodes) {
  TransferCounters counters;
  auto const fail = [&](std::exception_ptr const& error) {
    TransferRecord(counters, kRoute, 1, 1).fail(error);
  };
  fail(thrown(TimeoutError("late")));
  fail(thrown(CancelledError("stop")));
  fail(thrown(std::bad_alloc()));
  fail(thrown(std::runtime_error("somebody else's")));
  fail(thrown(17));
  auto const counts = counters.snapshot().of(kRoute);
  EXPECT_EQ(counts.errors_of(ErrorCode::Timeout), 1U);
  EXPECT_EQ(counts.errors_of(ErrorCode::Cancelled), 1U);
  EXPECT_EQ(counts.errors_of(ErrorCode::OutOfMemory), 1U);
  EXPECT_EQ(counts.errors_of(ErrorCode::Internal), 2U);
  EXPECT_EQ(counts.cancelled, 1U);
  EXPECT_EQ(counts.failed, 4U);
  expect_balanced(counts);
}

TEST(TransferRecord, EverythingMayHaveArrivedThoughTheTransferFailed) {
  TransferCounters counters;
  TransferRecord(counters, kRoute, 10, 2).end(0, thrown(PeerError("cannot be told")));
  auto const counts = counters.snapshot().of(kRoute);
  EXPECT_EQ(counts.failed, 1U);
  EXPECT_EQ(counts.bytes_completed, 20U);
  EXPECT_EQ(counts.bytes_failed, 0U);
  expect_balanced(counts);
}

TEST(TransferCounters, EverySnapshotIsBalancedWhileThreadsCount) {
  TransferCounters counters;
  constexpr std::uint64_t kThreads = 3;
  constexpr std::uint64_t kRounds = 20'000;
  std::vector<std::jthread> threads;
  for (std::uint64_t thread = 0; thread < kThreads; ++thread) {
    threads.emplace_back([&counters, thread] {
      auto const error = thrown(Error(ErrorCode::Io, "broken"));
      for (std::uint64_t i = 0; i < kRounds; ++i) {
        TransferRecord record(counters, kRoute, 1 + i % 3, 5);
        if (i % 4 == thread) { record.end(i % 6, error); }
        record.complete();
      }
    });
  }
  transfer::TransferCounts before;
  while (counters.snapshot().of(kRoute).latency.count() < kThreads * kRounds) {
    auto const counts = counters.snapshot().of(kRoute);
    expect_balanced(counts);
    EXPECT_GE(counts.bytes_submitted, before.bytes_submitted);
    EXPECT_GE(counts.bytes_completed, before.bytes_completed);
    EXPECT_LE(counts.in_flight, kThreads);
    before = counts;
    if (::testing::Test::HasFailure()) { break; }
  }
}

}  // namespace
}  // namespace kvbm::transfer
