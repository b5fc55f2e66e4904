// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <map>
#include <utility>

#include "kvbm/core/error.hpp"
#include "kvbm/device/device.hpp"

namespace kvbm::device {
namespace {

using DevicesById = std::map<DeviceId, DevicePtr>;

DevicesById index_by_id(std::vector<DevicePtr> devices) {
  DevicesById by_id;
  for (auto& device : devices) {
    KVBM_EXPECTS(device != nullptr, InvalidArgument, "memory source: null device");
    DeviceId const id = device->id();
    std::string const name = device->name();
    auto const [at, added] = by_id.emplace(id, std::move(device));
    KVBM_EXPECTS(
        added, InvalidArgument,
        fmt::format("memory source: {} and {} have the same id {}", at->second->name(), name, id));
  }
  return by_id;
}

Device& find_device(DevicesById const& devices, DeviceId id) {
  auto const at = devices.find(id);
  if (at == devices.end()) {
    std::vector<DeviceId> known;
    for (auto const& entry : devices) {
      known.push_back(entry.first);
    }
    throw_error(ErrorCode::NotFound,
                fmt::format("device {} is unknown; there are [{}]", id, fmt::join(known, ", ")));
  }
  return *at->second;
}

class DeviceMemorySource final : public memory::MemorySource {
 public:
  DeviceMemorySource(DevicesById devices, std::shared_ptr<memory::DiskIo> disk_io)
      : devices_(std::move(devices)),
        host_(memory::make_host_memory_source(
            [devices = devices_](DeviceId id) { return find_device(devices, id).numa_node(); })),
        disk_io_(std::move(disk_io)) {}

  memory::Region allocate(memory::AllocationRequest const& request) override {
    if (request.kind != memory::StorageKind::Device) { return host_->allocate(request); }
    return find_device(devices_, request.device_id).allocate(request.bytes, request.alignment);
  }

  [[nodiscard]] std::optional<memory::PointerInfo> classify(void const* address) const override {
    for (auto const& [id, device] : devices_) {
      if (auto info = device->classify(address)) { return info; }
    }
    return host_->classify(address);
  }

  [[nodiscard]] bool is_host_accessible(DeviceId device_id) const override {
    return find_device(devices_, device_id).is_host_accessible();
  }

  [[nodiscard]] std::shared_ptr<memory::DiskIo> disk_io() override {
    return disk_io_ != nullptr ? disk_io_ : host_->disk_io();
  }

  [[nodiscard]] memory::PinnedStats pinned_stats() const override { return host_->pinned_stats(); }

 private:
  DevicesById devices_;
  std::shared_ptr<memory::MemorySource> host_;
  std::shared_ptr<memory::DiskIo> disk_io_;
};

}  // namespace

std::shared_ptr<memory::MemorySource> make_memory_source(std::vector<DevicePtr> devices,
                                                         std::shared_ptr<memory::DiskIo> disk_io) {
  return std::make_shared<DeviceMemorySource>(index_by_id(std::move(devices)), std::move(disk_io));
}

}  // namespace kvbm::device
