// SPDX-License-Identifier: Apache-2.0
#include "manager.hpp"

#include <nanobind/stl/map.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <map>
#include <utility>

namespace kvbm::python {

namespace {

using manager::TransferManager;

// What TransferManager(...) was given, None where nothing was.
struct ManagerArguments {
  nb::object host_devices, host_device_bytes, devices, cuda_device_id;
  nb::object nixl_backends, nixl_library, agent_name, landing_bytes, remote_timeout;
  nb::object map_peer_memory;
  nb::object num_h2d_streams, num_d2h_streams, copy_threads, file_workers, staging_bytes;
  nb::object pool_reserve, pool_threshold, plan_cache_capacity;
  nb::object disk_engine, allow_direct, disk_queue_depth, disk_threads;
};

void add_devices(TransferManager::Builder& builder, ManagerArguments const& given) {
  if (!given.devices.is_none()) {
    KVBM_EXPECTS(given.host_devices.is_none() && given.host_device_bytes.is_none(), InvalidArgument,
                 "devices says which ones there are: give either it or host_devices and "
                 "host_device_bytes");
    std::vector<device::DevicePtr> devices;
    for (nb::handle const device : nb::iter(given.devices)) {
      devices.push_back(*nb::cast<PyDevice const&>(device));
    }
    builder.devices(std::move(devices));
  } else if (!given.host_devices.is_none() || !given.host_device_bytes.is_none()) {
    unsigned const count =
        given.host_devices.is_none() ? 1 : to_unsigned(given.host_devices, "host_devices");
    std::uint64_t const bytes = given.host_device_bytes.is_none()
                                    ? device::HostDeviceOptions{}.memory_bytes
                                    : to_u64(given.host_device_bytes, "host_device_bytes");
    builder.host_device(count, bytes);
  }
  if (!given.cuda_device_id.is_none()) {
    if (nb::hasattr(given.cuda_device_id, "__iter__")) {
      for (nb::handle const id : nb::iter(given.cuda_device_id)) {
        builder.cuda_device_id(nb::cast<DeviceId>(id));
      }
    } else {
      builder.cuda_device_id(nb::cast<DeviceId>(given.cuda_device_id));
    }
  }
}

void add_nixl_backends(TransferManager::Builder& builder, nb::handle backends) {
  if (nb::isinstance<nb::str>(backends)) {
    builder.nixl_backend(nb::cast<std::string>(backends));
    return;
  }
  bool const has_parameters = nb::hasattr(backends, "items");
  for (nb::handle const name : nb::iter(backends)) {
    std::map<std::string, std::string> parameters;
    if (has_parameters) {
      nb::dict const given(backends[name]);
      for (auto const [key, value] : given) {
        parameters.emplace(nb::cast<std::string>(key), nb::str(value).c_str());
      }
    }
    builder.nixl_backend(nb::cast<std::string>(name), std::move(parameters));
  }
}

void add_workers(TransferManager::Builder& builder, ManagerArguments const& given) {
  if (!given.nixl_backends.is_none()) { add_nixl_backends(builder, given.nixl_backends); }
  if (!given.nixl_library.is_none()) { builder.nixl_library(to_path(given.nixl_library)); }
  if (!given.agent_name.is_none()) { builder.agent_name(nb::cast<std::string>(given.agent_name)); }
  if (!given.landing_bytes.is_none()) {
    builder.landing_bytes(to_u64(given.landing_bytes, "landing_bytes"));
  }
  if (!given.remote_timeout.is_none()) {
    builder.remote_timeout(to_duration(nb::cast<double>(given.remote_timeout), "remote_timeout"));
  }
  if (!given.map_peer_memory.is_none()) {
    builder.map_peer_memory(nb::cast<bool>(given.map_peer_memory));
  }
}

void add_resources(TransferManager::Builder& builder, ManagerArguments const& given) {
  if (!given.num_h2d_streams.is_none() || !given.num_d2h_streams.is_none()) {
    transfer::ContextOptions const defaults;
    builder.num_streams(
        given.num_h2d_streams.is_none() ? defaults.num_h2d_streams
                                        : to_u64(given.num_h2d_streams, "num_h2d_streams"),
        given.num_d2h_streams.is_none() ? defaults.num_d2h_streams
                                        : to_u64(given.num_d2h_streams, "num_d2h_streams"));
  }
  if (!given.copy_threads.is_none()) {
    builder.copy_threads(to_unsigned(given.copy_threads, "copy_threads"));
  }
  if (!given.file_workers.is_none()) {
    builder.file_workers(to_unsigned(given.file_workers, "file_workers"));
  }
  if (!given.staging_bytes.is_none()) {
    builder.staging_bytes(to_u64(given.staging_bytes, "staging_bytes"));
  }
  if (!given.pool_reserve.is_none()) {
    builder.cuda_pool_reserve_size(to_u64(given.pool_reserve, "cuda_pool_reserve_size"));
  }
  if (!given.pool_threshold.is_none()) {
    builder.cuda_pool_release_threshold(
        to_u64(given.pool_threshold, "cuda_pool_release_threshold"));
  }
  if (!given.plan_cache_capacity.is_none()) {
    builder.plan_cache_capacity(to_u64(given.plan_cache_capacity, "plan_cache_capacity"));
  }
}

void add_disk(TransferManager::Builder& builder, ManagerArguments const& given) {
  if (given.disk_engine.is_none() && given.allow_direct.is_none() &&
      given.disk_queue_depth.is_none() && given.disk_threads.is_none()) {
    return;
  }
  memory::DiskIoOptions disk;
  if (!given.disk_engine.is_none()) {
    disk.engine = nb::cast<memory::DiskEngine>(given.disk_engine);
  }
  if (!given.allow_direct.is_none()) { disk.allow_direct = nb::cast<bool>(given.allow_direct); }
  if (!given.disk_queue_depth.is_none()) {
    disk.queue_depth = to_unsigned(given.disk_queue_depth, "disk_queue_depth");
  }
  if (!given.disk_threads.is_none()) {
    disk.num_threads = to_unsigned(given.disk_threads, "disk_threads");
  }
  builder.disk_io(memory::make_disk_io(disk));
}

void init_manager(PyManager* self, nb::object host_devices, nb::object host_device_bytes,
                  nb::object devices, nb::object cuda_device_id, nb::object nixl_backends,
                  nb::object nixl_library, nb::object agent_name, nb::object landing_bytes,
                  nb::object remote_timeout, nb::object map_peer_memory,
                  transfer::TransferCapabilities const* capabilities,
                  transfer::TransferPreferences const* preferences,
                  PyEventSystem const* event_system, transfer::CostModel const* cost_model,
                  nb::object num_h2d_streams, nb::object num_d2h_streams, nb::object copy_threads,
                  nb::object file_workers, nb::object staging_bytes,
                  nb::object cuda_pool_reserve_size, nb::object cuda_pool_release_threshold,
                  nb::object plan_cache_capacity, nb::object disk_engine, nb::object allow_direct,
                  nb::object disk_queue_depth, nb::object disk_threads) {
  ManagerArguments const given{std::move(host_devices),
                               std::move(host_device_bytes),
                               std::move(devices),
                               std::move(cuda_device_id),
                               std::move(nixl_backends),
                               std::move(nixl_library),
                               std::move(agent_name),
                               std::move(landing_bytes),
                               std::move(remote_timeout),
                               std::move(map_peer_memory),
                               std::move(num_h2d_streams),
                               std::move(num_d2h_streams),
                               std::move(copy_threads),
                               std::move(file_workers),
                               std::move(staging_bytes),
                               std::move(cuda_pool_reserve_size),
                               std::move(cuda_pool_release_threshold),
                               std::move(plan_cache_capacity),
                               std::move(disk_engine),
                               std::move(allow_direct),
                               std::move(disk_queue_depth),
                               std::move(disk_threads)};
  auto builder = TransferManager::builder();
  add_devices(builder, given);
  add_workers(builder, given);
  add_resources(builder, given);
  add_disk(builder, given);
  if (capabilities != nullptr) { builder.capabilities(*capabilities); }
  if (preferences != nullptr) { builder.preferences(*preferences); }
  if (event_system != nullptr) { builder.event_system(**event_system); }
  if (cost_model != nullptr) { builder.cost_model(*cost_model); }
  GilRelease const unlocked;
  new (self) PyManager(builder.build());
}

}  // namespace

void bind_manager_lifecycle(Manager& bound) {
  bound
      .def("__init__", &init_manager,
           nb::sig("def __init__(self, *, host_devices: int | None = None, host_device_bytes: int "
                   "| None = None, devices: collections.abc.Iterable[Device] | None = None, "
                   "cuda_device_id: int | collections.abc.Iterable[int] | None = None, "
                   "nixl_backends: str | collections.abc.Iterable[str] | "
                   "collections.abc.Mapping[str, collections.abc.Mapping[str, object]] | None = "
                   "None, nixl_library: str | os.PathLike[str] | None = None, agent_name: str | "
                   "None = None, landing_bytes: int | None = None, remote_timeout: float | None = "
                   "None, map_peer_memory: bool | None = None, capabilities: "
                   "TransferCapabilities | None = None, preferences: TransferPreferences | None = "
                   "None, event_system: EventSystem | None = None, cost_model: CostModel | None = "
                   "None, num_h2d_streams: int | None = None, num_d2h_streams: int | None = None, "
                   "copy_threads: int | None = None, file_workers: int | None = None, "
                   "staging_bytes: int | None = None, cuda_pool_reserve_size: int | None = None, "
                   "cuda_pool_release_threshold: int | None = None, plan_cache_capacity: int | "
                   "None = None, disk_engine: DiskEngine | None = None, allow_direct: bool | None "
                   "= None, disk_queue_depth: int | None = None, disk_threads: int | None = None) "
                   "-> None"),
           nb::kw_only(), nb::arg("host_devices") = nb::none(),
           nb::arg("host_device_bytes") = nb::none(), nb::arg("devices") = nb::none(),
           nb::arg("cuda_device_id") = nb::none(), nb::arg("nixl_backends") = nb::none(),
           nb::arg("nixl_library") = nb::none(), nb::arg("agent_name") = nb::none(),
           nb::arg("landing_bytes") = nb::none(), nb::arg("remote_timeout") = nb::none(),
           nb::arg("map_peer_memory") = nb::none(), nb::arg("capabilities").none() = nb::none(),
           nb::arg("preferences").none() = nb::none(), nb::arg("event_system").none() = nb::none(),
           nb::arg("cost_model").none() = nb::none(), nb::arg("num_h2d_streams") = nb::none(),
           nb::arg("num_d2h_streams") = nb::none(), nb::arg("copy_threads") = nb::none(),
           nb::arg("file_workers") = nb::none(), nb::arg("staging_bytes") = nb::none(),
           nb::arg("cuda_pool_reserve_size") = nb::none(),
           nb::arg("cuda_pool_release_threshold") = nb::none(),
           nb::arg("plan_cache_capacity") = nb::none(), nb::arg("disk_engine") = nb::none(),
           nb::arg("allow_direct") = nb::none(), nb::arg("disk_queue_depth") = nb::none(),
           nb::arg("disk_threads") = nb::none(),
           "Defaults: one emulated device of 4 GiB, 4 + 4 streams, all CPUs for copies, 2 file "
           "workers with 32 MiB of staging each, io_uring and O_DIRECT where there are. With "
           "several devices the first one's streams are the pools. With nixl_backends (names, or "
           "names with their parameters; \"ucx\" for other workers) the manager is a worker among "
           "others: nixl_library is where NIXL lies (default: find_nixl), agent_name unique among "
           "those that meet, landing_bytes (64 MiB) what peers may borrow to exchange dense "
           "images, remote_timeout (30 s) how long peers may take, map_peer_memory whether memory "
           "of peers on this machine is mapped (default) or reached through NIXL as well.")
      .def("close", &PyManager::close,
           "Waits for the transfers in flight and gives everything back; calls after it raise "
           "ShuttingDownError.")
      .def_prop_ro("is_closed", &PyManager::is_closed)
      .def(
          "__enter__", [](nb::object self) { return self; },
          nb::sig("def __enter__(self) -> TransferManager"))
      .def(
          "__exit__", [](PyManager& self, nb::handle, nb::handle, nb::handle) { self.close(); },
          nb::sig("def __exit__(self, exc_type: object, exc: object, traceback: object) -> None"),
          nb::arg("exc_type").none(), nb::arg("exc").none(), nb::arg("traceback").none());
}

}  // namespace kvbm::python
