// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cuda_runtime_api.h>

namespace kvbm::device::testing {

/// Loads the kernels below now: done by the first launch, it would wait for streams that stand
/// still.
cudaError_t load_kernels();

/// Enqueues a kernel that writes where nothing is: the context is lost afterwards.
cudaError_t launch_fault(cudaStream_t stream);

/// Enqueues a kernel that waits for so long and then stores `value` in `target`.
cudaError_t launch_store(cudaStream_t stream, int* target, int value, unsigned microseconds);

}  // namespace kvbm::device::testing
