// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <memory>

#include "device/cuda/cuda_memory.hpp"
#include "kvbm/device/memory_pool.hpp"

namespace kvbm::device {

/// A pool of the driver's (cudaMallocFromPoolAsync) in the memory of `space`.
///
/// The driver takes memory in pieces of its own size, so reserved_bytes may be more than asked for.
/// It gives memory back when somebody synchronises with the GPU and more than the release threshold
/// is reserved. num_device_allocations counts how often a request made the reserve grow.
/// @throws Error(OutOfMemory), Error(Device)
std::unique_ptr<MemoryPool> make_cuda_memory_pool(std::shared_ptr<CudaMemorySpace> const& space,
                                                  std::uint64_t reserve_bytes,
                                                  std::uint64_t release_threshold_bytes);

}  // namespace kvbm::device
