// SPDX-License-Identifier: Apache-2.0
#include "device/device_uuid.hpp"

#include <fmt/format.h>

namespace kvbm::device {

std::string format_device_uuid(DeviceUuid const& uuid) {
  std::string text = "GPU-";
  for (std::size_t i = 0; i < uuid.size(); ++i) {
    if (i == 4 || i == 6 || i == 8 || i == 10) { text += '-'; }
    text += fmt::format("{:02x}", std::to_integer<unsigned>(uuid.at(i)));
  }
  return text;
}

}  // namespace kvbm::device
