// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <utility>

#include "kvbm/core/error.hpp"
#include "kvbm/transfer/cost_store.hpp"
#include "manager/manager_impl.hpp"

namespace kvbm::manager {

struct TransferManager::Builder::Draft {
  transfer::ContextOptions options;
  bool costs_given = false;
  remote::RemoteOptions remote;
  std::vector<DeviceId> cuda_device_ids;
  std::size_t plan_cache_capacity = 64;
  unsigned num_host_devices = 1;
  device::HostDeviceOptions host_device;
  std::shared_ptr<memory::DiskIo> disk_io;
};

TransferManager::Builder TransferManager::builder() { return {}; }

TransferManager::Builder::Builder() : draft_(std::make_unique<Draft>()) {}
TransferManager::Builder::~Builder() = default;
TransferManager::Builder::Builder(Builder&&) noexcept = default;
TransferManager::Builder& TransferManager::Builder::operator=(Builder&&) noexcept = default;

using Builder = TransferManager::Builder;

Builder& Builder::nixl_backend(std::string name, std::map<std::string, std::string> parameters) {
  draft_->remote.backends.insert_or_assign(std::move(name), std::move(parameters));
  return *this;
}

Builder& Builder::nixl_library(std::filesystem::path path) {
  draft_->remote.nixl_library = std::move(path);
  return *this;
}

Builder& Builder::agent_name(std::string name) {
  draft_->remote.agent_name = std::move(name);
  return *this;
}

Builder& Builder::landing_bytes(std::uint64_t bytes) {
  draft_->remote.landing_bytes = bytes;
  return *this;
}

Builder& Builder::remote_timeout(std::chrono::nanoseconds timeout) {
  draft_->remote.timeout = timeout;
  draft_->options.remote_timeout = timeout;
  return *this;
}

Builder& Builder::map_peer_memory(bool map) {
  draft_->remote.map_memory = map;
  return *this;
}

Builder& Builder::cuda_device_id(DeviceId id) {
  draft_->cuda_device_ids.push_back(id);
  return *this;
}

Builder& Builder::host_device(unsigned count, std::uint64_t memory_bytes) {
  draft_->num_host_devices = count;
  draft_->host_device.memory_bytes = memory_bytes;
  return *this;
}

Builder& Builder::devices(std::vector<device::DevicePtr> devices) {
  draft_->options.devices = std::move(devices);
  return *this;
}

Builder& Builder::cuda_pool_reserve_size(std::uint64_t bytes) {
  draft_->options.pool_reserve_bytes = bytes;
  return *this;
}

Builder& Builder::cuda_pool_release_threshold(std::optional<std::uint64_t> bytes) {
  draft_->options.pool_release_threshold_bytes = bytes.value_or(~std::uint64_t{0});
  return *this;
}

Builder& Builder::capabilities(transfer::TransferCapabilities const& capabilities) {
  draft_->options.capabilities = capabilities;
  return *this;
}

Builder& Builder::direct_storage(std::shared_ptr<device::DirectStorage> storage) {
  draft_->options.direct_storage = std::move(storage);
  return *this;
}

Builder& Builder::preferences(transfer::TransferPreferences const& preferences) {
  draft_->options.preferences = preferences;
  return *this;
}

Builder& Builder::event_system(std::shared_ptr<transfer::EventSystem> system) {
  draft_->options.event_system = std::move(system);
  return *this;
}

Builder& Builder::num_streams(std::size_t h2d, std::size_t d2h) {
  draft_->options.num_h2d_streams = h2d;
  draft_->options.num_d2h_streams = d2h;
  return *this;
}

Builder& Builder::copy_threads(unsigned count) {
  draft_->options.copy_engine.num_threads = count;
  return *this;
}

Builder& Builder::file_workers(unsigned count) {
  draft_->options.num_file_workers = count;
  return *this;
}

Builder& Builder::staging_bytes(std::uint64_t bytes_per_worker) {
  draft_->options.staging_bytes_per_worker = bytes_per_worker;
  return *this;
}

Builder& Builder::cost_model(transfer::CostModel const& costs) {
  draft_->options.costs = costs;
  draft_->costs_given = true;
  return *this;
}

Builder& Builder::plan_cache_capacity(std::size_t count) {
  draft_->plan_cache_capacity = count;
  return *this;
}

Builder& Builder::disk_io(std::shared_ptr<memory::DiskIo> disk_io) {
  draft_->disk_io = std::move(disk_io);
  return *this;
}

TransferManager Builder::build() {
  bool const is_remote = !draft_->remote.backends.empty();
  KVBM_EXPECTS(draft_->remote.timeout > std::chrono::nanoseconds(0), InvalidArgument,
               "remote_timeout must be longer than 0");
  transfer::ContextOptions options = draft_->options;
  for (DeviceId const id : draft_->cuda_device_ids) {
    options.devices.push_back(device::make_cuda_device(id));
  }
  if (options.devices.empty()) {
    KVBM_EXPECTS(draft_->num_host_devices >= 1, InvalidArgument,
                 "host_device(0): a manager needs at least one device");
    draft_->host_device.shareable = is_remote;
    for (unsigned id = 0; id < draft_->num_host_devices; ++id) {
      options.devices.push_back(
          device::make_host_device(static_cast<DeviceId>(id), draft_->host_device));
    }
  }
  options.memory_source = device::make_memory_source(options.devices, draft_->disk_io, is_remote);
  auto const& first = *options.devices.front();  // not null: the line above looks
  if (!draft_->costs_given && first.backend() == device::Backend::Cuda) {
    if (auto costs = transfer::load_cost_model(first.properties())) {
      options.costs = std::move(*costs);
    }
  }
  auto impl = std::make_shared<Impl>(std::move(options), draft_->plan_cache_capacity);
  if (is_remote) { impl->join(draft_->remote); }
  return TransferManager(std::move(impl));
}

}  // namespace kvbm::manager
