// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <gtest/gtest.h>

#include <memory>
#include <string>

/// Which device the tests of transfers run on: an emulated one, or with KVBM_TEST_DEVICE=cuda the
/// CUDA device 0.
namespace kvbm::testing {

/// Whether KVBM_TEST_DEVICE asks for CUDA. @throws std::runtime_error an unknown value
bool wants_cuda();
/// "no CUDA device: <reason>" where one is asked for and there is none, else empty.
std::string missing_device();
/// Whether the device of the tests is a GPU: asked for, and there.
inline bool on_cuda() { return wants_cuda() && missing_device().empty(); }

/// Skips every test of the program where the device that is asked for is missing. It looks before
/// each test, not before: a program that only lists its tests touches no driver.
class SkipWithoutDevice : public ::testing::EmptyTestEventListener {
 public:
  void OnTestStart(::testing::TestInfo const& /*info*/) override {
    if (auto const missing = missing_device(); !missing.empty()) { GTEST_SKIP() << missing; }
  }
};

/// Once in a program, however many of its sources include this.
inline bool const kSkipsWithoutDevice = [] {
  ::testing::UnitTest::GetInstance()->listeners().Append(
      std::make_unique<SkipWithoutDevice>().release());
  return true;
}();

}  // namespace kvbm::testing
