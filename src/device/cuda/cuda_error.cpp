// SPDX-License-Identifier: Apache-2.0
#include "device/cuda/cuda_error.hpp"

#include <fmt/format.h>

#include "kvbm/core/error.hpp"

namespace kvbm::device {
bool is_context_lost(cudaError_t status) noexcept {
  switch (status) {
    case cudaErrorAssert:
    case cudaErrorContextIsDestroyed:
    case cudaErrorECCUncorrectable:
    case cudaErrorHardwareStackError:
    case cudaErrorIllegalAddress:
    case cudaErrorIllegalInstruction:
    case cudaErrorInvalidAddressSpace:
    case cudaErrorInvalidPc:
    case cudaErrorLaunchFailure:
    case cudaErrorLaunchTimeout:
    case cudaErrorMisalignedAddress:
    case cudaErrorNvlinkUncorrectable: return true;
    default: return false;
  }
}

std::string describe_cuda_error(cudaError_t status) {
  return fmt::format("{}: {}{}", cudaGetErrorName(status), cudaGetErrorString(status),
                     is_context_lost(status)
                         ? "; work of this process on the GPU did that, and CUDA works again only "
                           "after a restart of the process"
                         : "");
}

void forget_last_cuda_error() noexcept { static_cast<void>(cudaGetLastError()); }

void throw_cuda_error(DeviceId device_id, std::string_view call, cudaError_t status) {
  forget_last_cuda_error();
  ErrorCode const code =
      status == cudaErrorMemoryAllocation ? ErrorCode::OutOfMemory : ErrorCode::Device;
  throw_error(code,
              fmt::format("CUDA device {}: {}: {}", device_id, call, describe_cuda_error(status)),
              static_cast<int>(status));
}

}  // namespace kvbm::device
