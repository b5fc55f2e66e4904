// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <memory>
#include <optional>

#include "device/cuda/cuda_context.hpp"
#include "device/device_uuid.hpp"
#include "kvbm/memory/region.hpp"
#include "kvbm/memory/shared_memory.hpp"

namespace kvbm::device {

/// See Device::share().
[[nodiscard]] std::optional<memory::SharedMemoryName> share_cuda_memory(
    CudaContext const& context, DeviceUuid const& uuid, memory::Region const& region);

/// See Device::open_shared(). An allocation is opened once a process, however many regions of it
/// are: the driver refuses a second time.
[[nodiscard]] memory::Region open_cuda_memory(std::shared_ptr<CudaContext> const& context,
                                              DeviceUuid const& uuid,
                                              memory::ProcessName const& owner,
                                              memory::SharedMemoryName const& name,
                                              std::uint64_t bytes);

}  // namespace kvbm::device
