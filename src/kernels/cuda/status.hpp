// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cuda_runtime_api.h>

#include "kvbm/kernels/kernels.h"

namespace kvbm::kernels {

/// The status that `error` becomes. A failure is kept for kvbm_cuda_last_error, and taken out of
/// the runtime's own slot, where it would be found by somebody else's next check.
kvbm_status checked(cudaError_t error) noexcept;

/// What a launch has to know of the calling thread's current device.
struct DeviceTraits {
  unsigned num_multiprocessors = 0;
  int compute_capability = 0;  ///< 90 is 9.0
};
cudaError_t current_device_traits(DeviceTraits& traits) noexcept;

}  // namespace kvbm::kernels
