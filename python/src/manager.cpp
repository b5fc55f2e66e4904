// SPDX-License-Identifier: Apache-2.0
#include "common.hpp"

#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <map>
#include <mutex>
#include <utility>

namespace kvbm::python {

namespace {

using layout::LayoutHandle;
using manager::TransferManager;
using Notification = transfer::TransferCompleteNotification;

// A manager that can be closed while calls are under way in other threads: they hold it as well.
class PyManager {
 public:
  explicit PyManager(TransferManager manager)
      : manager_(std::make_shared<TransferManager>(std::move(manager))) {}
  ~PyManager() { close(); }
  PyManager(PyManager const&) = delete;
  PyManager& operator=(PyManager const&) = delete;

  [[nodiscard]] std::shared_ptr<TransferManager> get() const {
    std::lock_guard const lock(mutex_);
    KVBM_EXPECTS(manager_ != nullptr, ShuttingDown, "the TransferManager was closed");
    return manager_;
  }

  [[nodiscard]] bool is_closed() const {
    std::lock_guard const lock(mutex_);
    return manager_ == nullptr;
  }

  void close() {
    GilRelease const unlocked;
    std::shared_ptr<TransferManager> last;
    {
      std::lock_guard const lock(mutex_);
      last.swap(manager_);
    }
  }

 private:
  mutable std::mutex mutex_;
  std::shared_ptr<TransferManager> manager_;
};

// What TransferManager(...) was given, None where nothing was.
struct ManagerArguments {
  nb::object host_devices, host_device_bytes, devices, cuda_device_id, nixl_backends;
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
  if (!given.nixl_backends.is_none()) {
    for (nb::handle const name : nb::iter(given.nixl_backends)) {
      builder.nixl_backend(nb::cast<std::string>(name));
    }
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
  add_resources(builder, given);
  add_disk(builder, given);
  if (capabilities != nullptr) { builder.capabilities(*capabilities); }
  if (preferences != nullptr) { builder.preferences(*preferences); }
  if (event_system != nullptr) { builder.event_system(**event_system); }
  if (cost_model != nullptr) { builder.cost_model(*cost_model); }
  GilRelease const unlocked;
  new (self) PyManager(builder.build());
}

using Manager = nb::class_<PyManager>;

void bind_lifecycle(Manager& bound) {
  bound
      .def("__init__", &init_manager,
           nb::sig("def __init__(self, *, host_devices: int | None = None, host_device_bytes: int "
                   "| None = None, devices: collections.abc.Iterable[Device] | None = None, "
                   "cuda_device_id: int | collections.abc.Iterable[int] | None = None, "
                   "nixl_backends: collections.abc.Iterable[str] | None = None, capabilities: "
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
           nb::arg("capabilities").none() = nb::none(), nb::arg("preferences").none() = nb::none(),
           nb::arg("event_system").none() = nb::none(), nb::arg("cost_model").none() = nb::none(),
           nb::arg("num_h2d_streams") = nb::none(), nb::arg("num_d2h_streams") = nb::none(),
           nb::arg("copy_threads") = nb::none(), nb::arg("file_workers") = nb::none(),
           nb::arg("staging_bytes") = nb::none(), nb::arg("cuda_pool_reserve_size") = nb::none(),
           nb::arg("cuda_pool_release_threshold") = nb::none(),
           nb::arg("plan_cache_capacity") = nb::none(), nb::arg("disk_engine") = nb::none(),
           nb::arg("allow_direct") = nb::none(), nb::arg("disk_queue_depth") = nb::none(),
           nb::arg("disk_threads") = nb::none(),
           "Defaults: one emulated device of 4 GiB, 4 + 4 streams, all CPUs for copies, 2 file "
           "workers with 32 MiB of staging each, io_uring and O_DIRECT where there are. With "
           "several devices the first one's streams are the pools.")
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

void bind_registry(Manager& bound) {
  bound
      .def_prop_ro(
          "worker_id", [](PyManager const& self) { return self.get()->worker_id(); },
          "Random, unique per event system and process instance.")
      .def(
          "layout_builder",
          [](PyManager const& self) { return make_layout_builder(self.get()->memory_source()); },
          nb::sig("def layout_builder(self) -> PhysicalLayoutBuilder"),
          "Starts a layout on this manager's memory.")
      .def(
          "open_disk",
          [](PyManager const& self, nb::handle path, bool read_only) {
            std::string const name = to_path(path);
            auto const manager = self.get();
            GilRelease const unlocked;
            return PyLayout(layout::PhysicalLayout::open_disk(
                manager->memory_source(), name,
                read_only ? memory::OpenMode::ReadOnly : memory::OpenMode::ReadWrite));
          },
          nb::sig("def open_disk(self, path: str | os.PathLike[str], *, read_only: bool = False) "
                  "-> PhysicalLayout"),
          nb::arg("path"), nb::kw_only(), nb::arg("read_only") = false,
          "Reopens a disk layout: config, kind and format come from its manifest. Any number of "
          "processes may read, one may write.")
      .def(
          "register_layout",
          [](PyManager const& self, PyLayout const& layout) {
            return self.get()->register_layout(*layout);
          },
          nb::arg("layout"), "Makes a layout known under a new handle.")
      .def(
          "unregister_layout",
          [](PyManager const& self, LayoutHandle handle) {
            auto const manager = self.get();
            GilRelease const unlocked;
            manager->unregister_layout(handle);
          },
          nb::arg("handle"), "Forgets a layout; BusyError while transfers use it.")
      .def(
          "layout",
          [](PyManager const& self, LayoutHandle handle) {
            return PyLayout(self.get()->layout(handle));
          },
          nb::arg("handle"))
      .def(
          "handles", [](PyManager const& self) { return self.get()->handles(); },
          "Handles of all registered layouts, ascending.")
      .def(
          "blocks",
          [](PyManager const& self, LayoutHandle handle, nb::handle block_ids,
             layout::KvBlockLayout const* format) {
            BlockIds const ids(block_ids, "block_ids");
            return PyKvBlocks(
                self.get()->blocks(handle, ids.to_vector(),
                                   format == nullptr ? std::nullopt : std::optional(*format)));
          },
          nb::sig("def blocks(self, handle: LayoutHandle, block_ids: kvbm_cpp._types.BlockIds, "
                  "override_format: "
                  "KvBlockLayout | None = None) -> KvBlocks"),
          nb::arg("handle"), nb::arg("block_ids"), nb::arg("override_format").none() = nb::none(),
          "Blocks of a registered layout.");
}

transfer::TransferOptions options_or_default(PyOptions const* options) {
  return options == nullptr ? transfer::TransferOptions{} : **options;
}

void bind_transfers(Manager& bound) {
  bound
      .def(
          "execute_transfer",
          [](PyManager const& self, LayoutHandle src, nb::handle src_blocks, LayoutHandle dst,
             nb::handle dst_blocks, PyOptions const* options) {
            BlockIds const from(src_blocks, "src_blocks");
            BlockIds const to(dst_blocks, "dst_blocks");
            auto const manager = self.get();
            GilRelease const unlocked;
            return manager->execute_transfer(src, from.span(), dst, to.span(),
                                             options_or_default(options));
          },
          nb::sig("def execute_transfer(self, src: LayoutHandle, src_blocks: "
                  "kvbm_cpp._types.BlockIds, dst: "
                  "LayoutHandle, dst_blocks: kvbm_cpp._types.BlockIds, options: TransferOptions | "
                  "None = None) -> "
                  "TransferCompleteNotification"),
          nb::arg("src"), nb::arg("src_blocks"), nb::arg("dst"), nb::arg("dst_blocks"),
          nb::arg("options").none() = nb::none(),
          "Moves src_blocks[i] of `src` to dst_blocks[i] of `dst`, changing format, kind and "
          "storage as needed. An array of uint32 ids is read in place: leave it alone until the "
          "call returns.")
      .def(
          "execute_transfer",
          [](PyManager const& self, PyKvBlocks const& src, PyKvBlocks const& dst,
             PyOptions const* options) {
            auto const manager = self.get();
            GilRelease const unlocked;
            return manager->execute_transfer(*src, *dst, options_or_default(options));
          },
          nb::arg("src"), nb::arg("dst"), nb::arg("options").none() = nb::none())
      .def(
          "explain_transfer",
          [](PyManager const& self, LayoutHandle src, nb::handle src_blocks, LayoutHandle dst,
             nb::handle dst_blocks, PyOptions const* options) {
            BlockIds const from(src_blocks, "src_blocks");
            BlockIds const to(dst_blocks, "dst_blocks");
            return self.get()->explain_transfer(src, from.span(), dst, to.span(),
                                                options_or_default(options));
          },
          nb::sig("def explain_transfer(self, src: LayoutHandle, src_blocks: "
                  "kvbm_cpp._types.BlockIds, dst: "
                  "LayoutHandle, dst_blocks: kvbm_cpp._types.BlockIds, options: TransferOptions | "
                  "None = None) -> "
                  "TransferExplanation"),
          nb::arg("src"), nb::arg("src_blocks"), nb::arg("dst"), nb::arg("dst_blocks"),
          nb::arg("options").none() = nb::none(),
          "What execute_transfer would do with the same arguments, and why; moves nothing.")
      .def(
          "explain_transfer",
          [](PyManager const& self, PyKvBlocks const& src, PyKvBlocks const& dst,
             PyOptions const* options) {
            return self.get()->explain_transfer(*src, *dst, options_or_default(options));
          },
          nb::arg("src"), nb::arg("dst"), nb::arg("options").none() = nb::none())
      .def(
          "prepare_transfer",
          [](PyManager const& self, LayoutHandle src, LayoutHandle dst, PyOptions const* options) {
            auto const manager = self.get();
            GilRelease const unlocked;
            return PyPrepared(manager->prepare_transfer(src, dst, options_or_default(options)));
          },
          nb::arg("src"), nb::arg("dst"), nb::arg("options").none() = nb::none(),
          "Does everything but the block ids once.");
}

void bind_integrity(Manager& bound) {
  bound
      .def(
          "block_checksums",
          [](PyManager const& self, LayoutHandle handle, nb::handle block_ids) {
            BlockIds const ids(block_ids, "block_ids");
            auto const manager = self.get();
            GilRelease const unlocked;
            return manager->block_checksums(handle, ids.span());
          },
          nb::sig("def block_checksums(self, handle: LayoutHandle, block_ids: "
                  "kvbm_cpp._types.BlockIds) -> "
                  "list[Checksum]"),
          nb::arg("handle"), nb::arg("block_ids"),
          "XXH3-128 of each block's logical tensor: equal tensors have equal checksums, whatever "
          "the format, kind and storage.")
      .def(
          "layer_checksums",
          [](PyManager const& self, LayoutHandle handle, nb::handle block_ids) {
            BlockIds const ids(block_ids, "block_ids");
            auto const manager = self.get();
            std::vector<Checksum> flat;
            {
              GilRelease const unlocked;
              flat = manager->layer_checksums(handle, ids.span());
            }
            nb::list blocks;
            std::size_t const count = ids.span().size();
            std::size_t const layers = count == 0 ? 0 : flat.size() / count;
            for (std::size_t block = 0; block < count; ++block) {
              auto const first = flat.begin() + static_cast<std::ptrdiff_t>(block * layers);
              blocks.append(nb::cast(
                  std::vector<Checksum>(first, first + static_cast<std::ptrdiff_t>(layers))));
            }
            return blocks;
          },
          nb::sig("def layer_checksums(self, handle: LayoutHandle, block_ids: "
                  "kvbm_cpp._types.BlockIds) -> "
                  "list[list[Checksum]]"),
          nb::arg("handle"), nb::arg("block_ids"), "The same per layer: [block][layer].")
      .def(
          "fill_blocks",
          [](PyManager const& self, LayoutHandle handle, nb::handle block_ids,
             transfer::FillPattern const& pattern) {
            BlockIds const ids(block_ids, "block_ids");
            auto const manager = self.get();
            GilRelease const unlocked;
            manager->fill_blocks(handle, ids.span(), pattern);
          },
          nb::sig("def fill_blocks(self, handle: LayoutHandle, block_ids: "
                  "kvbm_cpp._types.BlockIds, pattern: "
                  "FillPattern) -> None"),
          nb::arg("handle"), nb::arg("block_ids"), nb::arg("pattern"),
          "Writes the pattern into whole blocks.")
      .def(
          "sync",
          [](PyManager const& self, LayoutHandle handle) {
            auto const manager = self.get();
            GilRelease const unlocked;
            manager->sync(handle);
          },
          nb::arg("handle"), "Makes a disk layout's written blocks survive power loss.");
}

void bind_context(Manager& bound) {
  bound
      .def(
          "device",
          [](PyManager const& self, DeviceId id) {
            return PyDevice(self.get()->context().device(id));
          },
          nb::arg("id") = 0)
      .def_prop_ro(
          "devices",
          [](PyManager const& self) {
            nb::list devices;
            for (device::DevicePtr const& device : self.get()->context().devices()) {
              devices.append(nb::cast(PyDevice(device)));
            }
            return devices;
          },
          nb::sig("def devices(self) -> list[Device]"))
      .def(
          "acquire_h2d_stream",
          [](PyManager const& self) {
            return PyStream(self.get()->context().acquire_h2d_stream());
          },
          "The next stream of the pool, round robin; shared with the transfers that use the pool. "
          "torch.cuda.ExternalStream(stream.cuda_stream) computes on it. It lives as long as the "
          "manager or the returned object.")
      .def("acquire_d2h_stream",
           [](PyManager const& self) {
             return PyStream(self.get()->context().acquire_d2h_stream());
           })
      .def("acquire_d2d_stream",
           [](PyManager const& self) {
             return PyStream(self.get()->context().acquire_d2d_stream());
           })
      .def_prop_ro("memory_pool_stats",
                   [](PyManager const& self) { return self.get()->context().memory_pool_stats(); })
      .def_prop_ro(
          "plan_cache_stats", [](PyManager const& self) { return self.get()->plan_cache_stats(); },
          "How often execute_transfer and prepare_transfer found their plan ready.")
      .def_prop_ro(
          "copy_threads",
          [](PyManager const& self) { return self.get()->context().copy_engine().num_threads(); })
      .def_prop_ro("event_system", [](PyManager const& self) {
        return PyEventSystem(self.get()->context().event_system());
      });
}

}  // namespace

void bind_manager(nb::module_& m) {
  nb::enum_<memory::DiskEngine>(m, "DiskEngine", "Which engine moves bytes to and from files.")
      .value("Auto", memory::DiskEngine::Auto, "io_uring where the kernel allows it")
      .value("IoUring", memory::DiskEngine::IoUring)
      .value("Threads", memory::DiskEngine::Threads, "pread and pwrite");
  Manager bound(m, "TransferManager", nb::is_final(),
                "The one door: registers layouts and moves blocks between them. All methods may "
                "be called from any thread. A context manager: leaving it closes it.");
  bind_lifecycle(bound);
  bind_registry(bound);
  bind_transfers(bound);
  bind_integrity(bound);
  bind_context(bound);
}

}  // namespace kvbm::python
