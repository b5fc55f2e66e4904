// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdlib>
#include <string>

namespace kvbm::testing {

/// Where a program or library is that a test starts or loads: where the build put it, or in the
/// folder that KVBM_TEST_PROGRAMS names when the tests were carried to another machine.
inline std::string test_program(std::string const& built_at) {
  char const* const folder = std::getenv("KVBM_TEST_PROGRAMS");
  return folder == nullptr ? built_at : folder + built_at.substr(built_at.rfind('/'));
}

}  // namespace kvbm::testing
