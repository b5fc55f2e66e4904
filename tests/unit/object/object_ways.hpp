// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <gtest/gtest.h>

#include <cstdlib>
#include <string>

#include "kvbm/object/object_store.hpp"
#include "object/nixl_objects.hpp"

namespace kvbm::object::test {

/// Why NIXL cannot move objects in this process; empty: it can.
inline std::string nixl_objects_refusal() {
#if defined(__SANITIZE_THREAD__)
  return "ThreadSanitizer cannot see what NIXL's threads synchronise with";
#else
  return nixl_objects_problem({});
#endif
}

/// Skips where NIXL cannot move objects; fails there instead where KVBM_REQUIRE_NIXL is set.
#define KVBM_SKIP_WITHOUT_NIXL_OBJECTS()                                                     \
  if (auto const refusal = ::kvbm::object::test::nixl_objects_refusal(); !refusal.empty()) { \
    if (std::getenv("KVBM_REQUIRE_NIXL") != nullptr) { FAIL() << refusal; }                  \
    GTEST_SKIP() << refusal;                                                                 \
  }

#define KVBM_SKIP_WITHOUT_WAY(transport) \
  if ((transport) == ::kvbm::object::ObjectTransport::Nixl) { KVBM_SKIP_WITHOUT_NIXL_OBJECTS(); }

inline std::string name_of_way(::testing::TestParamInfo<ObjectTransport> const& info) {
  return std::string(to_string(info.param));
}

/// Instantiates a suite of tests that hold for every way.
#define KVBM_OBJECT_WAYS(suite) \
  INSTANTIATE_TEST_SUITE_P(     \
      Ways, suite, ::testing::Values(ObjectTransport::Curl, ObjectTransport::Nixl), name_of_way)

}  // namespace kvbm::object::test
