// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <map>
#include <utility>

#include "device/device_uuid.hpp"
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
  DeviceMemorySource(DevicesById devices, std::shared_ptr<memory::DiskIo> disk_io, bool shareable)
      : devices_(std::move(devices)),
        host_(memory::make_host_memory_source(memory::HostMemoryOptions{
            [devices = devices_](DeviceId id) { return find_device(devices, id).numa_node(); },
            shareable})),
        disk_io_(std::move(disk_io)) {}

  memory::Region allocate(memory::AllocationRequest const& request) override {
    if (request.kind == memory::StorageKind::Device) {
      return find_device(devices_, request.device_id).allocate(request.bytes, request.alignment);
    }
    auto region = host_->allocate(request);
    return request.kind == memory::StorageKind::Pinned ? pin(std::move(region), request.device_id)
                                                       : region;
  }

  [[nodiscard]] std::optional<memory::PointerInfo> classify(void const* address) const override {
    std::optional<memory::PointerInfo> pinned;
    for (auto const& [id, device] : devices_) {
      auto const info = device->classify(address);
      if (info && info->kind == memory::StorageKind::Device) { return info; }
      if (info) { pinned = info; }
    }
    auto const host = host_->classify(address);
    // Of its own Pinned memory the host knows more; of other memory the driver, as the caller may
    // have registered it.
    if (host && host->kind == memory::StorageKind::Pinned) { return host; }
    if (pinned) { return pinned; }
    // What a driver does not know is pageable: to take it for pinned would let a kernel fault.
    if (!host && address != nullptr && find_gpu(-1) != nullptr) {
      return memory::PointerInfo{memory::StorageKind::System, -1, 0};
    }
    return host;
  }

  [[nodiscard]] bool is_host_accessible(DeviceId device_id) const override {
    return find_device(devices_, device_id).is_host_accessible();
  }

  [[nodiscard]] std::shared_ptr<memory::DiskIo> disk_io() override {
    return disk_io_ != nullptr ? disk_io_ : host_->disk_io();
  }

  [[nodiscard]] memory::PinnedStats pinned_stats() const override {
    auto stats = host_->pinned_stats();
    // The driver locks what it registers, whatever RLIMIT_MEMLOCK says.
    if (find_gpu(-1) != nullptr) { stats.locked_bytes = stats.bytes; }
    return stats;
  }

  [[nodiscard]] std::optional<memory::SharedMemoryName> share(
      memory::Region const& region) const override {
    if (region.kind() != memory::StorageKind::Device) { return host_->share(region); }
    auto const at = devices_.find(region.device_id());
    return at == devices_.end() ? region.shared_name() : at->second->share(region);
  }

  [[nodiscard]] memory::Region open_shared(memory::ProcessName const& owner,
                                           memory::SharedMemoryName const& name,
                                           std::uint64_t bytes, memory::StorageKind kind) override {
    if (kind == memory::StorageKind::Device) {
      return find_device_of(name).open_shared(owner, name, bytes);
    }
    auto region = host_->open_shared(owner, name, bytes, kind);
    return kind == memory::StorageKind::Pinned ? pin(std::move(region), -1) : region;
  }

 private:
  // Makes GPUs reach Pinned memory; one registration serves all of them.
  [[nodiscard]] memory::Region pin(memory::Region region, DeviceId near) const {
    Device* const gpu = find_gpu(near);
    return gpu == nullptr ? std::move(region) : gpu->pin(std::move(region));
  }

  // The device that can map shared memory of a device.
  [[nodiscard]] Device& find_device_of(memory::SharedMemoryName const& name) const {
    bool const on_gpu = name.kind == memory::SharedMemoryName::Kind::CudaIpc;
    std::string const uuid = on_gpu ? format_device_uuid(name.device_uuid) : std::string();
    std::vector<std::string> known;
    for (auto const& [id, device] : devices_) {
      bool const is_gpu = device->backend() == Backend::Cuda;
      if (!on_gpu && !is_gpu) { return *device; }
      if (!on_gpu || !is_gpu) { continue; }
      known.push_back(device->properties().uuid);
      if (known.back() == uuid) { return *device; }
    }
    throw_error(ErrorCode::NotFound,
                on_gpu ? fmt::format("memory of GPU {} can be opened on that GPU only; there are "
                                     "[{}]: let the other process use one of these, or this one "
                                     "have that one",
                                     uuid, fmt::join(known, ", "))
                       : "memory of an emulated device can be opened by an emulated device only, "
                         "and there is none");
  }

  // The GPU `wanted`, else any, else null.
  [[nodiscard]] Device* find_gpu(DeviceId wanted) const {
    Device* found = nullptr;
    for (auto const& [id, device] : devices_) {
      if (device->backend() != Backend::Cuda) { continue; }
      if (id == wanted) { return device.get(); }
      if (found == nullptr) { found = device.get(); }
    }
    return found;
  }

  DevicesById devices_;
  std::shared_ptr<memory::MemorySource> host_;
  std::shared_ptr<memory::DiskIo> disk_io_;
};

}  // namespace

std::shared_ptr<memory::MemorySource> make_memory_source(std::vector<DevicePtr> devices,
                                                         std::shared_ptr<memory::DiskIo> disk_io,
                                                         bool shareable) {
  return std::make_shared<DeviceMemorySource>(index_by_id(std::move(devices)), std::move(disk_io),
                                              shareable);
}

}  // namespace kvbm::device
