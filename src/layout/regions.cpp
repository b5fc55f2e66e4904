// SPDX-License-Identifier: Apache-2.0
#include "kvbm/core/checked.hpp"
#include "kvbm/core/error.hpp"
#include "layout/state.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <limits>
#include <span>
#include <tuple>

namespace kvbm::layout::detail {
namespace {

using memory::MemorySource;
using memory::Region;
using memory::StorageKind;

/// "Device 1", "Pinned".
std::string place(StorageKind kind, DeviceId device_id) {
  return kind == StorageKind::Device ? fmt::format("Device {}", device_id)
                                     : std::string(memory::to_string(kind));
}

void expect_count(LayoutSpec const& spec, std::size_t given) {
  KVBM_EXPECTS(
      given == spec.num_regions(), InvalidArgument,
      fmt::format("a {} layout of {} layers needs {} regions, got {}", to_string(spec.kind),
                  spec.config.num_layers(), spec.num_regions(), given));
}

/// Null, size, wrap-around and alignment of caller-owned memory.
void expect_usable(LayoutSpec const& spec, std::size_t index, std::uintptr_t address,
                   std::uint64_t bytes) {
  KVBM_EXPECTS(address != 0, InvalidArgument, fmt::format("region {} has a null address", index));
  auto const needed = spec.geometry.region_bytes;
  KVBM_EXPECTS(bytes >= needed, InvalidArgument,
               fmt::format("region {} at {:#x} has {} bytes, the layout needs {}", index, address,
                           bytes, needed));
  KVBM_EXPECTS(bytes <= std::numeric_limits<std::uintptr_t>::max() - address, Overflow,
               fmt::format("region {} at {:#x} of {} bytes wraps around the address space", index,
                           address, bytes));
  auto const alignment = std::max(spec.config.alignment(), spec.config.dtype_width_bytes());
  KVBM_EXPECTS(
      address % alignment == 0, InvalidArgument,
      fmt::format("region {} at {:#x} is not aligned to {} bytes", index, address, alignment));
}

/// Two regions that share bytes would let one layer overwrite another.
void expect_apart(std::span<Region const> regions) {
  struct Range {
    void const* file;
    std::uint64_t begin;
    std::uint64_t end;
    std::size_t index;
  };
  std::vector<Range> ranges;
  ranges.reserve(regions.size());
  for (std::size_t i = 0; i < regions.size(); ++i) {
    auto const& region = regions[i];
    auto const begin = is_memory(region.kind()) ? region.address() : region.store_offset();
    ranges.push_back({region.store().get(), begin, checked_add(begin, region.bytes()), i});
  }
  std::sort(ranges.begin(), ranges.end(), [](Range const& a, Range const& b) {
    return std::tie(a.file, a.begin) < std::tie(b.file, b.begin);
  });
  for (std::size_t i = 1; i < ranges.size(); ++i) {
    auto const& a = ranges[i - 1];
    auto const& b = ranges[i];
    KVBM_EXPECTS(a.file != b.file || a.end <= b.begin, InvalidArgument,
                 fmt::format("regions {} [{:#x}, {:#x}) and {} [{:#x}, {:#x}) overlap", a.index,
                             a.begin, a.end, b.index, b.begin, b.end));
  }
}

[[noreturn]] void refuse_kind(std::size_t index, void const* address, std::string const& given,
                              std::string const& found) {
  throw_error(ErrorCode::InvalidArgument,
              fmt::format("region {} at {} was given as {} memory, but it is {}", index, address,
                          given, found));
}

void expect_inside_allocation(std::size_t index, void const* address, std::uint64_t bytes,
                              memory::PointerInfo const& info) {
  KVBM_EXPECTS(info.bytes_left == 0 || bytes <= info.bytes_left, InvalidArgument,
               fmt::format("region {} at {} was given {} bytes, its allocation ends after {}",
                           index, address, bytes, info.bytes_left));
}

}  // namespace

std::vector<Region> allocate_regions(LayoutSpec const& spec, MemorySource& source, StorageKind kind,
                                     DeviceId device_id) {
  if (kind == StorageKind::Device) {
    // Throws NotFound: whatever the allocator would say about a device that is not there.
    static_cast<void>(source.is_host_accessible(device_id));
  }
  memory::AllocationRequest request;
  request.kind = kind;
  request.bytes = spec.geometry.region_bytes;
  request.alignment = std::max(memory::kRegionAlignment, spec.config.alignment());
  request.device_id = device_id;
  std::vector<Region> regions;
  regions.reserve(spec.num_regions());
  for (std::uint64_t i = 0; i < spec.num_regions(); ++i) {
    regions.push_back(source.allocate(request));
  }
  return regions;
}

std::vector<Region> external_regions(LayoutSpec const& spec, MemorySource& source,
                                     std::vector<ExternalRegion> const& given) {
  expect_count(spec, given.size());
  std::vector<Region> regions;
  for (std::size_t i = 0; i < given.size(); ++i) {
    auto const& region = given[i];
    KVBM_EXPECTS(memory::is_host(region.kind), InvalidArgument,
                 fmt::format("region {}: external regions are System or Pinned, got {}; tensors of "
                             "a device go into with_external_device_regions",
                             i, memory::to_string(region.kind)));
    KVBM_EXPECTS(
        region.kind == given.front().kind, InvalidArgument,
        fmt::format("region {} is {}, region 0 is {}: one layout has one kind", i,
                    memory::to_string(region.kind), memory::to_string(given.front().kind)));
    expect_usable(spec, i, reinterpret_cast<std::uintptr_t>(region.address), region.bytes);
    DeviceId near_device = -1;
    if (auto const info = source.classify(region.address)) {
      // Pinned memory can serve as System, nothing else can serve as something else.
      if (info->kind != region.kind && info->kind != StorageKind::Pinned) {
        refuse_kind(i, region.address, place(region.kind, -1), place(info->kind, info->device_id));
      }
      expect_inside_allocation(i, region.address, region.bytes, *info);
      near_device = region.kind == StorageKind::Pinned ? info->device_id : -1;
    }
    regions.push_back(Region::of_memory(region.kind, region.address, region.bytes, near_device,
                                        true, region.keep_alive));
  }
  expect_apart(regions);
  return regions;
}

std::vector<Region> external_device_regions(LayoutSpec const& spec, MemorySource& source,
                                            std::vector<ExternalDeviceRegion> const& given) {
  expect_count(spec, given.size());
  std::vector<Region> regions;
  for (std::size_t i = 0; i < given.size(); ++i) {
    auto const& region = given[i];
    auto const host_accessible = source.is_host_accessible(region.device_id);
    KVBM_EXPECTS(region.device_id == given.front().device_id, InvalidArgument,
                 fmt::format("region {} is on device {}, region 0 on device {}: one layout has one "
                             "device",
                             i, region.device_id, given.front().device_id));
    expect_usable(spec, i, reinterpret_cast<std::uintptr_t>(region.address), region.bytes);
    auto const info = source.classify(region.address);
    auto const claim = place(StorageKind::Device, region.device_id);
    if (!info) { refuse_kind(i, region.address, claim, "unknown to that device"); }
    if (info->kind != StorageKind::Device || info->device_id != region.device_id) {
      refuse_kind(i, region.address, claim, place(info->kind, info->device_id));
    }
    expect_inside_allocation(i, region.address, region.bytes, *info);
    regions.push_back(Region::of_memory(StorageKind::Device, region.address, region.bytes,
                                        region.device_id, host_accessible, region.keep_alive));
  }
  expect_apart(regions);
  return regions;
}

std::vector<Region> existing_regions(LayoutSpec const& spec, std::vector<Region> const& given) {
  expect_count(spec, given.size());
  for (std::size_t i = 0; i < given.size(); ++i) {
    auto const& region = given[i];
    auto const& first = given.front();
    KVBM_EXPECTS(region.kind() == first.kind() && (region.kind() != StorageKind::Device ||
                                                   region.device_id() == first.device_id()),
                 InvalidArgument,
                 fmt::format("region {} is {}, region 0 is {}: one layout has one kind and device",
                             i, place(region.kind(), region.device_id()),
                             place(first.kind(), first.device_id())));
    if (region.store() != nullptr) {
      check_store_region(spec, region);
    } else {
      expect_usable(spec, i, region.address(), region.bytes());
    }
  }
  expect_apart(given);
  return given;
}

}  // namespace kvbm::layout::detail
