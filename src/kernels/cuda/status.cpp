// SPDX-License-Identifier: Apache-2.0
#include "kernels/cuda/status.hpp"

#include "kernels/cuda/dma_api.hpp"

namespace kvbm::kernels {
namespace {

int& last_error() noexcept {
  thread_local int error = cudaSuccess;
  return error;
}

}  // namespace

kvbm_status checked(cudaError_t error) noexcept {
  if (error == cudaSuccess) return KVBM_STATUS_OK;
  last_error() = error;
  static_cast<void>(cudaGetLastError());
  return KVBM_STATUS_CUDA_ERROR;
}

cudaError_t current_device_traits(DeviceTraits& traits) noexcept {
  int device = 0;
  cudaError_t error = cudaGetDevice(&device);
  int values[3] = {};
  cudaDeviceAttr const attributes[3] = {cudaDevAttrMultiProcessorCount,
                                        cudaDevAttrComputeCapabilityMajor,
                                        cudaDevAttrComputeCapabilityMinor};
  for (int i = 0; i < 3 && error == cudaSuccess; ++i) {
    error = cudaDeviceGetAttribute(&values[i], attributes[i], device);
  }
  traits.num_multiprocessors = static_cast<unsigned>(values[0]);
  traits.compute_capability = values[1] * 10 + values[2];
  return error;
}

}  // namespace kvbm::kernels

using namespace kvbm::kernels;

extern "C" {

int kvbm_cuda_is_built(void) { return 1; }

int kvbm_cuda_has_memcpy_batch(void) { return cuda_dma_api().has_batch() ? 1 : 0; }

int kvbm_cuda_last_error(void) { return last_error(); }

char const* kvbm_cuda_error_string(int cuda_error) {
  return cudaGetErrorString(static_cast<cudaError_t>(cuda_error));
}

kvbm_status kvbm_cuda_make_current(int device, int* previous) {
  int before = 0;
  kvbm_status status = checked(cudaGetDevice(&before));
  if (status == KVBM_STATUS_OK && device != before) status = checked(cudaSetDevice(device));
  if (status == KVBM_STATUS_OK && previous != nullptr) *previous = before;
  return status;
}

}  // extern "C"
