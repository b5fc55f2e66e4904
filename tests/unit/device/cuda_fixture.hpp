// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cuda_runtime_api.h>
#include <gtest/gtest.h>

#include <string>

#include "contract/device_support.hpp"
#include "kvbm/device/device.hpp"
#include "unit/device/cuda_test_kernels.hpp"

/// What the tests that need a GPU share.
namespace kvbm::device::testing {

class CudaTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string const reason = cuda_unavailable_reason();
    if (!reason.empty()) { GTEST_SKIP() << "no CUDA device: " << reason; }
    device_ = make_cuda_device(0);
    ASSERT_EQ(load_kernels(), cudaSuccess);
  }
  void TearDown() override {
    if (device_ == nullptr) { return; }
    device_->synchronize();
    EXPECT_EQ(cudaGetLastError(), cudaSuccess) << "a call left its error behind";
  }
  [[nodiscard]] static cudaStream_t native(StreamPtr const& stream) {
    return static_cast<cudaStream_t>(stream->native_handle());
  }

  DevicePtr device_;
};

}  // namespace kvbm::device::testing
