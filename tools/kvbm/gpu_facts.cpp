// SPDX-License-Identifier: Apache-2.0
#include "gpu_facts.hpp"

#include <fmt/format.h>

#include <cstdlib>

#include "kvbm/core/error.hpp"
#include "machine.hpp"

namespace kvbm::cli {
namespace {

std::optional<double> read_number(std::string const& path) {
  auto const text = read_text(path);
  if (!text) { return std::nullopt; }
  char* end = nullptr;
  double const value = std::strtod(text->c_str(), &end);
  // Sleeping or virtual links say "Unknown" or 0.
  return end == text->c_str() || value <= 0 ? std::nullopt : std::optional(value);
}

std::optional<unsigned> to_lanes(std::optional<double> value) {
  return value ? std::optional(static_cast<unsigned>(*value)) : std::nullopt;
}

}  // namespace

PciLink read_pci_link(std::string const& address, std::string const& root) {
  auto const folder = root + "/" + address + "/";
  return {read_number(folder + "current_link_speed"), read_number(folder + "max_link_speed"),
          to_lanes(read_number(folder + "current_link_width")),
          to_lanes(read_number(folder + "max_link_width"))};
}

std::string to_string(std::optional<double> speed, std::optional<unsigned> width) {
  if (!speed && !width) { return "unknown"; }
  std::string text = "PCIe";
  if (speed) {
    constexpr double kGenerations[] = {2.5, 5, 8, 16, 32, 64};
    int generation = 0;
    for (double const least : kGenerations) {
      if (*speed >= least) { ++generation; }
    }
    text += fmt::format(" {}.0", generation);
  }
  return width ? fmt::format("{} x{}", text, *width) : text;
}

std::vector<device::DevicePtr> cuda_devices() {
  std::vector<device::DevicePtr> devices;
  if (!device::cuda_unavailable_reason().empty()) { return devices; }
  for (DeviceId id = 0;; ++id) {
    try {
      devices.push_back(device::make_cuda_device(id));
    } catch (Error const& error) {
      if (error.code() == ErrorCode::NotFound || !devices.empty()) { return devices; }
      throw;
    }
  }
}

std::string cuda_version_text(int version) {
  return fmt::format("{}.{}", version / 1000, version % 1000 / 10);
}

}  // namespace kvbm::cli
