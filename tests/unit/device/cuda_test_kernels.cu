// SPDX-License-Identifier: Apache-2.0
#include "unit/device/cuda_test_kernels.hpp"

namespace kvbm::device::testing {
namespace {

__global__ void fault() {
  // 16 is no address of anything, and no compiler knows.
  *reinterpret_cast<int volatile*>(16) = 1;
}

__global__ void store_later(int* target, int value, unsigned microseconds) {
  for (unsigned i = 0; i < microseconds; ++i) {
    __nanosleep(1000);
  }
  *target = value;
}

}  // namespace

cudaError_t load_kernels() {
  cudaFuncAttributes attributes{};
  cudaError_t const status = cudaFuncGetAttributes(&attributes, fault);
  return status != cudaSuccess ? status : cudaFuncGetAttributes(&attributes, store_later);
}

cudaError_t launch_fault(cudaStream_t stream) {
  fault<<<1, 1, 0, stream>>>();
  return cudaGetLastError();
}

cudaError_t launch_store(cudaStream_t stream, int* target, int value, unsigned microseconds) {
  store_later<<<1, 1, 0, stream>>>(target, value, microseconds);
  return cudaGetLastError();
}

}  // namespace kvbm::device::testing
