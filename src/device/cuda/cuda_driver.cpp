// SPDX-License-Identifier: Apache-2.0
#include "device/cuda/cuda_driver.hpp"

#include <fmt/format.h>

#include "device/cuda/cuda_error.hpp"
#include "kvbm/core/error.hpp"

namespace kvbm::device {
namespace {

template <typename Function>
void look_up(char const* name, unsigned version, Function& function) {
  void* found = nullptr;
  auto result = cudaDriverEntryPointSymbolNotFound;
  cudaError_t const status =
      cudaGetDriverEntryPointByVersion(name, &found, version, cudaEnableDefault, &result);
  if (status != cudaSuccess || result != cudaDriverEntryPointSuccess || found == nullptr) {
    forget_last_cuda_error();
    throw UnsupportedError(
        fmt::format("the CUDA driver has no {} of version {}: {}", name, version,
                    status == cudaSuccess ? "update it" : describe_cuda_error(status)));
  }
  function = reinterpret_cast<Function>(found);
}

CudaDriver load() {
  CudaDriver driver;
  look_up("cuDeviceGet", 2000, driver.device_get);
  look_up("cuDevicePrimaryCtxRetain", 7000, driver.primary_context_retain);
  look_up("cuCtxGetCurrent", 4000, driver.context_get_current);
  look_up("cuCtxPushCurrent", 4000, driver.context_push);
  look_up("cuCtxPopCurrent", 4000, driver.context_pop);
  look_up("cuPointerGetAttribute", 4000, driver.pointer_get_attribute);
  look_up("cuStreamWaitValue64", 11070, driver.stream_wait_value64);
  return driver;
}

}  // namespace

CudaDriver const& cuda_driver() {
  static CudaDriver const driver = load();
  return driver;
}

}  // namespace kvbm::device
