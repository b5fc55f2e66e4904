// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>

#include "device/cuda/cuda_context.hpp"
#include "kvbm/memory/region.hpp"

namespace kvbm::device {

/// A registration covers at most this much and never crosses a multiple of it: one of hundreds of
/// GiB fails. A copy may not span two registrations, so everybody has to know where they are cut:
/// at these addresses.
inline constexpr std::uint64_t kPinChunkBytes = std::uint64_t{64} << 30U;

/// See Device::pin(). What is registered already, by whomever, is left as it is.
[[nodiscard]] memory::Region pin_memory(std::shared_ptr<CudaContext> const& context,
                                        memory::Region host);

}  // namespace kvbm::device
