// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cuda.h>
#include <cudaTypedefs.h>
#include <cuda_runtime_api.h>

namespace kvbm::device {

/// What the runtime has no call for, asked from the driver by name: linking libcuda would keep the
/// program from starting where there is none.
struct CudaDriver {
  PFN_cuDeviceGet_v2000 device_get = nullptr;
  PFN_cuDevicePrimaryCtxRetain_v7000 primary_context_retain = nullptr;
  PFN_cuCtxGetCurrent_v4000 context_get_current = nullptr;
  PFN_cuCtxPushCurrent_v4000 context_push = nullptr;
  PFN_cuCtxPopCurrent_v4000 context_pop = nullptr;
  PFN_cuPointerGetAttribute_v4000 pointer_get_attribute = nullptr;
  PFN_cuStreamWaitValue64_v11070 stream_wait_value64 = nullptr;
};

/// The driver's functions, looked up by the first call.
/// @throws UnsupportedError naming the function that the driver lacks
CudaDriver const& cuda_driver();

/// The runtime's name for what the driver answered: both count alike.
[[nodiscard]] constexpr cudaError_t as_runtime_error(CUresult result) noexcept {
  return static_cast<cudaError_t>(result);
}

}  // namespace kvbm::device
