// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstddef>
#include <string>

namespace kvbm::device {

using DeviceUuid = std::array<std::byte, 16>;

/// "GPU-8c1a2b3c-...", as nvidia-smi writes it.
std::string format_device_uuid(DeviceUuid const& uuid);

}  // namespace kvbm::device
