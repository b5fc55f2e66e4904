// SPDX-License-Identifier: Apache-2.0
#include "kvbm/memory/numa.hpp"

#include <fmt/format.h>
#include <numa.h>
#include <numaif.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <fstream>
#include <system_error>

#include "kvbm/core/error.hpp"

namespace kvbm::memory {
namespace {

std::string read_word(std::filesystem::path const& path) {
  std::ifstream file(path);
  std::string word;
  file >> word;
  return word;
}

int read_node(std::filesystem::path const& device) {
  std::string const word = read_word(device / "numa_node");
  int node = -1;
  try {
    node = std::stoi(word);
  } catch (std::exception const&) {  // no such file or not a number: unknown
    return -1;
  }
  return node < 0 ? -1 : node;
}

std::uint32_t read_class(std::filesystem::path const& device) {
  try {
    return static_cast<std::uint32_t>(std::stoul(read_word(device / "class"), nullptr, 16));
  } catch (std::exception const&) { return 0; }
}

}  // namespace

int num_numa_nodes() noexcept {
  return numa_available() < 0 ? 1 : std::max(1, numa_num_configured_nodes());
}

std::vector<PciGpu> find_pci_gpus(std::filesystem::path const& sysfs) {
  constexpr std::uint32_t kDisplay = 0x0300;
  constexpr std::uint32_t kDisplayController = 0x0302;
  std::vector<PciGpu> gpus;
  std::error_code error;
  for (std::filesystem::directory_iterator it(sysfs / "bus" / "pci" / "devices", error), end;
       !error && it != end; it.increment(error)) {
    std::uint32_t const pci_class = read_class(it->path());
    if (pci_class >> 8U == kDisplay || pci_class >> 8U == kDisplayController) {
      gpus.push_back({it->path().filename().string(), pci_class, read_node(it->path())});
    }
  }
  std::sort(gpus.begin(), gpus.end(),
            [](PciGpu const& a, PciGpu const& b) { return a.address < b.address; });
  return gpus;
}

int numa_node_of_pci_device(std::string_view address, std::filesystem::path const& sysfs) {
  return read_node(sysfs / "bus" / "pci" / "devices" / address);
}

bool prefer_numa_node(void* address, std::uint64_t bytes, int node) noexcept {
  if (node < 0 || node >= num_numa_nodes() || numa_available() < 0) { return false; }
  constexpr unsigned kBits = 8 * sizeof(unsigned long);
  std::array<unsigned long, 16> mask{};
  auto const bit = static_cast<unsigned>(node);
  if (bit >= kBits * mask.size()) { return false; }
  mask.at(bit / kBits) |= 1UL << (bit % kBits);
  return mbind(address, bytes, MPOL_PREFERRED, mask.data(), kBits * mask.size(), 0) == 0;
}

NumaPlacement check_numa_placement(void const* address, std::uint64_t bytes, int node) {
  auto const page = static_cast<std::uintptr_t>(sysconf(_SC_PAGESIZE));
  std::uintptr_t const begin = reinterpret_cast<std::uintptr_t>(address) / page * page;
  std::uintptr_t const end = reinterpret_cast<std::uintptr_t>(address) + bytes;
  NumaPlacement placement;
  constexpr std::size_t kBatch = 1024;
  std::array<void*, kBatch> pages{};
  std::array<int, kBatch> status{};
  for (std::uintptr_t at = begin; at < end;) {
    unsigned long count = 0;
    for (; count < kBatch && at < end; at += page) {
      pages.at(count++) = reinterpret_cast<void*>(at);  // NOLINT(performance-no-int-to-ptr)
    }
    if (move_pages(0, count, pages.data(), nullptr, status.data(), 0) != 0) {
      int const error = errno;
      throw_error(ErrorCode::Io, fmt::format("move_pages: {}", describe_errno(error)), error);
    }
    placement.pages += count;
    for (unsigned long i = 0; i < count; ++i) {
      if (status.at(i) == node) { ++placement.on_node; }
      if (status.at(i) < 0) { ++placement.absent; }
    }
  }
  return placement;
}

}  // namespace kvbm::memory
