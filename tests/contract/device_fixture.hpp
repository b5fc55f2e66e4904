// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <numeric>
#include <ostream>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "contract/device_support.hpp"
#include "kvbm/core/error.hpp"
#include "kvbm/core/types.hpp"
#include "kvbm/device/device.hpp"

/// The backends under test, and what their tests share.
namespace kvbm::device::contract {

/// One backend under test.
struct DeviceFactory {
  std::string name;
  std::function<DevicePtr()> make;
  /// Whether host functions of two streams really run side by side (a CUDA driver may run all of
  /// them on one thread).
  bool host_work_overlaps = true;
};

inline void PrintTo(DeviceFactory const& factory, std::ostream* out) { *out << factory.name; }

class DeviceContract : public ::testing::TestWithParam<DeviceFactory> {
 protected:
  [[nodiscard]] LatchPtr make_latch() {
    latches_.push_back(std::make_shared<Latch>());
    return latches_.back();
  }
  /// Holds `stream` until the latch opens.
  void hold(StreamPtr const& stream, LatchPtr const& latch) {
    stream->enqueue([latch, in_time = in_time_] {
      if (!latch->wait()) { in_time->store(false); }
    });
  }
  void SetUp() override {
    try {
      device_ = GetParam().make();
    } catch (UnsupportedError const& error) { GTEST_SKIP() << error.what(); }
  }
  void TearDown() override {
    if (device_ == nullptr) { return; }
    for (auto const& latch : latches_) {
      latch->open();
    }
    device_->synchronize();
    EXPECT_TRUE(in_time_->load()) << "a latch was not opened in time";
  }

  DevicePtr device_;

 private:
  std::vector<LatchPtr> latches_;
  std::shared_ptr<std::atomic<bool>> in_time_ = std::make_shared<std::atomic<bool>>(true);
};

}  // namespace kvbm::device::contract
