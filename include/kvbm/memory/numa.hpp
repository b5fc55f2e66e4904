// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

namespace kvbm::memory {

/// Nodes with memory that this process may use; 1 where the kernel has no NUMA.
int num_numa_nodes() noexcept;

/// A graphics processor as the PCI bus shows it, driver or not.
struct PciGpu {
  std::string address;          ///< "0000:17:00.0"
  std::uint32_t pci_class = 0;  ///< 24 bits: 0x0300xx display (VGA), 0x0302xx 3D controller
  int numa_node = -1;           ///< -1: the firmware does not say
};

/// All PCI devices of class 0x0300 or 0x0302, ordered by address.
/// @param sysfs  where sysfs is mounted
std::vector<PciGpu> find_pci_gpus(std::filesystem::path const& sysfs = "/sys");

/// NUMA node of one PCI device; -1 if there is no such device or the firmware does not say.
int numa_node_of_pci_device(std::string_view address, std::filesystem::path const& sysfs = "/sys");

/// Asks for pages of [address, address + bytes) on `node` when they are first touched, elsewhere
/// only if the node is full. `address` must be page-aligned.
/// @return whether the kernel took the advice
bool prefer_numa_node(void* address, std::uint64_t bytes, int node) noexcept;

/// Where the pages of a range are.
struct NumaPlacement {
  std::uint64_t pages = 0;    ///< in the range
  std::uint64_t on_node = 0;  ///< of them, on the asked node
  std::uint64_t absent = 0;   ///< of them, not backed by memory yet
};

/// Asks the kernel (move_pages, moving nothing) where each page of [address, address + bytes) is.
/// @throws Error(Io) with errno where the kernel refuses
NumaPlacement check_numa_placement(void const* address, std::uint64_t bytes, int node);

}  // namespace kvbm::memory
