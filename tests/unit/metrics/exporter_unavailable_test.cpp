// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include "kvbm/metrics/exporter.hpp"
#include "kvbm/testing/failure.hpp"

namespace kvbm::testing {
namespace {

TEST(Exporter, SaysWhatToInstallWhereThereIsNoPrometheus) {
  auto const failure = failure_of_call([] {
    metrics::Exporter const exporter;
    return 0;
  });
  EXPECT_EQ(failure.code, ErrorCode::Unsupported);
  EXPECT_TRUE(failure.names("prometheus-cpp-dev")) << failure.message;
}

}  // namespace
}  // namespace kvbm::testing
