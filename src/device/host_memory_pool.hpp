// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <memory>

#include "device/host_memory_space.hpp"
#include "kvbm/device/memory_pool.hpp"

namespace kvbm::device {

/// A pool over `space`. @throws Error(OutOfMemory) less than `reserve_bytes` left
std::unique_ptr<MemoryPool> make_host_memory_pool(std::shared_ptr<HostMemorySpace> space,
                                                  std::uint64_t reserve_bytes,
                                                  std::uint64_t release_threshold_bytes);

}  // namespace kvbm::device
