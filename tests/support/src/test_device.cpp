// SPDX-License-Identifier: Apache-2.0
#include "kvbm/testing/test_device.hpp"

#include <cstdlib>
#include <stdexcept>
#include <string_view>

#include "kvbm/device/device.hpp"

namespace kvbm::testing {

bool wants_cuda() {
  char const* const value = std::getenv("KVBM_TEST_DEVICE");
  if (value == nullptr || std::string_view(value) == "host") { return false; }
  if (std::string_view(value) == "cuda") { return true; }
  throw std::runtime_error("KVBM_TEST_DEVICE is '" + std::string(value) + "': host or cuda");
}

std::string missing_device() {
  if (!wants_cuda()) { return {}; }
  // Tests hold streams. What else goes on meanwhile must not share a hardware queue with them, nor
  // be a kernel's first launch, whose loading may wait for all streams. Read when CUDA starts.
  static std::string const reason = [] {
    setenv("CUDA_DEVICE_MAX_CONNECTIONS", "32", 0);
    setenv("CUDA_MODULE_LOADING", "EAGER", 0);
    return device::cuda_unavailable_reason();
  }();
  return reason.empty() ? std::string{} : "no CUDA device: " + reason;
}

}  // namespace kvbm::testing
