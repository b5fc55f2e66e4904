// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cuda_runtime_api.h>

#include <string>
#include <string_view>

#include "kvbm/core/types.hpp"

namespace kvbm::device {

/// "cudaErrorIllegalAddress: an illegal memory access was encountered", and for errors that a
/// context does not survive, that it did not.
[[nodiscard]] std::string describe_cuda_error(cudaError_t status);

/// Whether nothing in the process's context works after `status`, and nothing in it runs any more.
[[nodiscard]] bool is_context_lost(cudaError_t status) noexcept;

/// Forgets the calling thread's last error, so that the next user of CUDA on it does not take our
/// failed call for its own.
void forget_last_cuda_error() noexcept;

/// Throws Error(OutOfMemory) or Error(Device) with `status` as native code.
[[noreturn]] void throw_cuda_error(DeviceId device_id, std::string_view call, cudaError_t status);

/// Throws unless `status` is success.
inline void check_cuda(DeviceId device_id, std::string_view call, cudaError_t status) {
  if (status != cudaSuccess) [[unlikely]] { throw_cuda_error(device_id, call, status); }
}

}  // namespace kvbm::device
