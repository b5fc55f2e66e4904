// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <optional>

#include "kvbm/device/device.hpp"
#include "kvbm/transfer/strategy.hpp"

namespace kvbm::transfer {

/// Where the measured costs of a device are kept: XDG_CACHE_HOME/kvbm (else ~/.cache/kvbm), one
/// file for each GPU and driver version; one for machines without a GPU, whose properties have no
/// uuid. Empty where neither variable names an absolute folder.
std::filesystem::path cost_model_path(device::DeviceProperties const& device);

/// The costs that `kvbm tune` measured for this device with this driver. A file that cannot be
/// trusted (other version or device, a rate that is no finite positive number, run lengths out of
/// order) is ignored with one logged warning that names it.
/// @return nullopt where there is none
std::optional<CostModel> load_cost_model(device::DeviceProperties const& device);

/// Stores them; readers see the former file or the whole new one, never a part.
/// @return where  @throws Error(Io) naming the path; Error(InvalidArgument) costs that load would
///         not take
std::filesystem::path save_cost_model(device::DeviceProperties const& device,
                                      CostModel const& costs);

}  // namespace kvbm::transfer
