// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "kvbm/device/device.hpp"

namespace kvbm::cli {

/// A PCI Express link, now and at most; what the kernel does not say is empty.
struct PciLink {
  std::optional<double> speed;  ///< GT/s
  std::optional<double> max_speed;
  std::optional<unsigned> width;  ///< lanes
  std::optional<unsigned> max_width;
};
/// @param root  of the PCI devices, for tests
PciLink read_pci_link(std::string const& address, std::string const& root = "/sys/bus/pci/devices");
/// "PCIe 5.0 x16"; "unknown" where the kernel does not say.
std::string to_string(std::optional<double> speed, std::optional<unsigned> width);

/// All CUDA devices; empty where there are none.
std::vector<device::DevicePtr> cuda_devices();
/// 13000 is "13.0".
std::string cuda_version_text(int version);

}  // namespace kvbm::cli
