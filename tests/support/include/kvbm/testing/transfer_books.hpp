// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <numeric>

#include "kvbm/transfer/statistics.hpp"

namespace kvbm::testing {

/// The equalities that TransferCounts promises.
inline void expect_balanced(transfer::TransferCounts const& counts) {
  EXPECT_EQ(counts.submitted,
            counts.completed + counts.failed + counts.cancelled + counts.in_flight);
  EXPECT_EQ(counts.bytes_submitted,
            counts.bytes_completed + counts.bytes_failed + counts.bytes_in_flight);
  EXPECT_EQ(counts.latency.count(), counts.completed + counts.failed + counts.cancelled);
  EXPECT_EQ(std::accumulate(counts.errors.begin(), counts.errors.end(), std::uint64_t{0}),
            counts.failed + counts.cancelled);
  EXPECT_EQ(counts.errors_of(ErrorCode::Cancelled), counts.cancelled);
}

/// The same for every route, and so for their sum.
inline void expect_balanced(transfer::TransferStats const& stats) {
  for (auto const& [route, counts] : stats.routes) {
    SCOPED_TRACE(to_string(route));
    expect_balanced(counts);
  }
}

}  // namespace kvbm::testing
