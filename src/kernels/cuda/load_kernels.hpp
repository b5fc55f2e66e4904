// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cuda_runtime_api.h>

#include <initializer_list>

namespace kvbm::kernels {

/// Loads kernels onto the current device now instead of with their first launches.
inline cudaError_t load_kernels(std::initializer_list<void const*> kernels) {
  for (void const* const kernel : kernels) {
    cudaFuncAttributes attributes{};
    cudaError_t const error = cudaFuncGetAttributes(&attributes, kernel);
    if (error != cudaSuccess) { return error; }
  }
  return cudaSuccess;
}

cudaError_t load_copy_kernels();
cudaError_t load_checksum_kernels();

}  // namespace kvbm::kernels
