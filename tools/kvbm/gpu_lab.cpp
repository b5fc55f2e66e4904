// SPDX-License-Identifier: Apache-2.0
#include "gpu_lab.hpp"

#include <fmt/format.h>
#include <time.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "gpu_facts.hpp"
#include "kvbm/core/checked.hpp"
#include "kvbm/core/error.hpp"

namespace kvbm::cli {
namespace {

using transfer::LinkDirection;

manager::TransferManager make_manager(DeviceId id, std::uint64_t device_bytes, bool emulate) {
  auto builder = manager::TransferManager::builder();
  if (emulate) {
    builder.host_device(1, 2 * device_bytes + (std::uint64_t{1} << 30U));
  } else {
    builder.cuda_device_id(id);
  }
  return builder.build();
}

std::uint64_t region_stride(std::uint64_t bytes) {
  return checked_align_up(bytes, memory::kRegionAlignment);
}

}  // namespace

GpuLab::GpuLab(DeviceId id, std::uint64_t area_bytes, std::uint64_t device_area_bytes, bool emulate)
    : emulated_(emulate),
      manager_(make_manager(id, device_area_bytes, emulate)),
      plain_(emulate ? make_plain_host() : make_plain_cuda(id)) {
  device_ = manager_.context().devices().front();
  for (auto const kind : {memory::StorageKind::Device, memory::StorageKind::Device,
                          memory::StorageKind::Pinned, memory::StorageKind::Pinned}) {
    memory::AllocationRequest request;
    request.kind = kind;
    request.bytes = kind == memory::StorageKind::Device ? device_area_bytes : area_bytes;
    request.device_id = device_->id();
    areas_.push_back(manager_.memory_source()->allocate(request));
  }
  // Bytes that do not repeat, so that a piece in a wrong place is seen.
  auto* const host = areas_[2].host_data();
  constexpr std::uint64_t kSlice = std::uint64_t{1} << 20U;
  manager_.context().copy_engine().parallel_for(
      (area_bytes + kSlice - 1) / kSlice, 1, [&](std::size_t slice) {
        std::uint64_t state = slice * 0x9E3779B97F4A7C15ULL + 1;
        auto const end = std::min<std::uint64_t>(area_bytes, (slice + 1) * kSlice);
        for (std::uint64_t at = slice * kSlice; at + 8 <= end; at += 8) {
          state ^= state << 13U;
          state ^= state >> 7U;
          state ^= state << 17U;
          std::memcpy(host + at, &state, 8);
        }
      });
  for (auto const target : {Area::Device0, Area::Device1}) {
    for (std::uint64_t at = 0; at < device_area_bytes; at += area_bytes) {
      plain_->copy(address(target) + at, host, std::min(area_bytes, device_area_bytes - at),
                   LinkDirection::HostToDevice, 0);
    }
  }
  plain_->synchronize(0);
}

std::string GpuLab::describe() const {
  if (emulated_) { return device_->name() + ", emulated: figures mean nothing"; }
  auto const properties = device_->properties();
  return fmt::format("{}, CUDA driver {}, runtime {}, {}", device_->name(),
                     cuda_version_text(properties.driver_version),
                     cuda_version_text(properties.runtime_version), properties.pci_address);
}

std::byte* GpuLab::address(Area which) const {
  return reinterpret_cast<std::byte*>(area(which).address());
}

bool GpuLab::fits(layout::LayoutConfig const& config, Side const& side, Area where) const {
  auto const geometry = layout::make_geometry(config, side.kind, side.dimension, side.format);
  std::uint64_t const regions = geometry.layers_are_regions ? config.num_layers() : 1;
  return checked_mul(region_stride(geometry.region_bytes), regions) <= area(where).bytes();
}

layout::LayoutHandle GpuLab::add(Area where, layout::LayoutConfig const& config, Side const& side) {
  KVBM_EXPECTS(fits(config, side, where), InvalidArgument,
               fmt::format("{} blocks of {} bytes do not fit into {} bytes: raise --area-mib",
                           config.num_blocks(), config.block_bytes(), area(where).bytes()));
  auto const geometry = layout::make_geometry(config, side.kind, side.dimension, side.format);
  std::uint64_t const count = geometry.layers_are_regions ? config.num_layers() : 1;
  std::vector<memory::Region> regions;
  regions.reserve(count);
  for (std::uint64_t i = 0; i < count; ++i) {
    regions.push_back(
        area(where).subregion(i * region_stride(geometry.region_bytes), geometry.region_bytes));
  }
  auto const shaped = manager_.layout_builder().config(config);
  return manager_.register_layout(
      side.kind == layout::LayoutKind::FullyContiguous
          ? shaped.fully_contiguous(side.format).with_regions(std::move(regions)).build()
          : shaped.layer_separate(side.dimension, side.format)
                .with_regions(std::move(regions))
                .build());
}

double GpuLab::contiguous(LinkDirection direction, std::uint64_t bytes) {
  // The areas that cases write to, so that what they read stays as it was.
  auto const [to, from] = [&]() -> std::pair<Area, Area> {
    switch (direction) {
      case LinkDirection::HostToDevice: return {Area::Device0, Area::Host0};
      case LinkDirection::DeviceToHost: return {Area::Host1, Area::Device1};
      case LinkDirection::DeviceToDevice: break;
    }
    return {Area::Device1, Area::Device0};
  }();
  bytes = std::min({bytes, area(to).bytes(), area(from).bytes()});
  auto* const dst = address(to);
  auto const* const src = address(from);
  return seconds([&] {
    plain_->copy(dst, src, bytes, direction, 0);
    plain_->synchronize(0);
  });
}

double GpuLab::contiguous_both(std::uint64_t bytes) {
  bytes = std::min(bytes, area_bytes());
  return seconds([&] {
    plain_->copy(address(Area::Device0), address(Area::Host0), bytes, LinkDirection::HostToDevice,
                 0);
    plain_->copy(address(Area::Host1), address(Area::Device1), bytes, LinkDirection::DeviceToHost,
                 1);
    plain_->synchronize(0);
    plain_->synchronize(1);
  });
}

double cpu_seconds() {
  timespec time{};
  ::clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time);
  return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_nsec) * 1e-9;
}

CopyList list_pieces(transfer::CopyPlan const& plan, layout::PhysicalLayout const& src,
                     layout::PhysicalLayout const& dst, std::vector<BlockId> const& src_ids,
                     std::vector<BlockId> const& dst_ids, std::size_t limit) {
  auto const& shape = plan.shape;
  CopyList list;
  list.bytes = shape.run_bytes;
  std::uint64_t inner = 1;
  for (std::uint32_t d = 0; d < shape.num_dims; ++d) {
    inner *= shape.dims[d].extent;
  }
  for (std::size_t block = 0; block < src_ids.size(); ++block) {
    for (std::size_t s = 0; s < plan.src.segments.size(); ++s) {
      auto const& from = plan.src.segments[s];
      auto const& to = plan.dst.segments[s];
      std::uintptr_t const a = src.regions()[from.region].address() + from.offset +
                               src_ids[block] * plan.src.block_stride;
      std::uintptr_t const b =
          dst.regions()[to.region].address() + to.offset + dst_ids[block] * plan.dst.block_stride;
      for (std::uint64_t run = 0; run < inner; ++run) {
        std::int64_t src_offset = 0;
        std::int64_t dst_offset = 0;
        std::uint64_t rest = run;
        for (std::uint32_t d = shape.num_dims; d-- > 0;) {
          auto const index = static_cast<std::int64_t>(rest % shape.dims[d].extent);
          rest /= shape.dims[d].extent;
          src_offset += index * shape.dims[d].src_stride;
          dst_offset += index * shape.dims[d].dst_stride;
        }
        if (list.src.size() == limit) { return list; }
        list.src.push_back(
            reinterpret_cast<void const*>(a + static_cast<std::uintptr_t>(src_offset)));
        list.dst.push_back(reinterpret_cast<void*>(b + static_cast<std::uintptr_t>(dst_offset)));
      }
    }
  }
  return list;
}

}  // namespace kvbm::cli
