// SPDX-License-Identifier: Apache-2.0
#include "common.hpp"

#include "kvbm/memory/striped_file.hpp"

#include <nanobind/stl/string.h>

#include <string>

namespace kvbm::python {

namespace {

using memory::Region;

nb::dict cuda_array_interface(PyRegion const& self) {
  if (self->kind() != memory::StorageKind::Device || self->host_data() != nullptr) {
    throw nb::attribute_error("this region is no memory of a GPU; see numpy()");
  }
  nb::dict interface;
  interface["shape"] = nb::make_tuple(self->bytes());
  interface["typestr"] = "|u1";
  interface["data"] = nb::make_tuple(self->address(), false);
  interface["version"] = 3;
  return interface;
}

/// The file of a Disk region, or the first of several; null for others.
std::shared_ptr<memory::BlockFile> block_file(Region const& region) {
  auto const set = std::dynamic_pointer_cast<memory::StripedFile>(region.store());
  if (set != nullptr) { return set->parts().front(); }
  return std::dynamic_pointer_cast<memory::BlockFile>(region.store());
}

void bind_region(nb::module_& m) {
  nb::class_<PyRegion>(
      m, "Region", nb::is_final(),
      "A range of bytes in one kind of storage. Shares ownership of what backs it.")
      .def_prop_ro("kind", [](PyRegion const& self) { return self->kind(); })
      .def_prop_ro(
          "address", [](PyRegion const& self) { return self->address(); },
          "Address of the first byte; 0 for Disk.")
      .def_prop_ro("bytes", [](PyRegion const& self) { return self->bytes(); })
      .def_prop_ro(
          "device_id", [](PyRegion const& self) { return self->device_id(); },
          "Owning device, or the near one of Pinned memory where known, else -1.")
      .def_prop_ro(
          "file_path",
          [](PyRegion const& self) -> nb::object {
            auto const file = block_file(*self);
            return file == nullptr ? nb::none() : nb::object(to_str(file->path().native()));
          },
          nb::sig("def file_path(self) -> str | None"), "The data file of a Disk region.")
      .def_prop_ro(
          "file_offset", [](PyRegion const& self) { return self->store_offset(); },
          "Offset of the first byte in that file or store.")
      .def_prop_ro(
          "is_direct",
          [](PyRegion const& self) {
            auto const file = block_file(*self);
            return file != nullptr && file->is_direct();
          },
          "Whether the file is read and written past the page cache (O_DIRECT).")
      .def_prop_ro(
          "io_engine",
          [](PyRegion const& self) -> nb::object {
            auto const file = block_file(*self);
            if (file == nullptr) { return nb::none(); }
            return to_str(memory::to_string(file->io()->engine()));
          },
          nb::sig("def io_engine(self) -> str | None"), "\"IoUring\" or \"Threads\".")
      .def(
          "numpy",
          [](PyRegion const& self, nb::handle shape, nb::handle dtype) {
            return to_numpy(*self, shape, dtype);
          },
          nb::sig(
              "def numpy(self, shape: int | collections.abc.Sequence[int] | None = None, dtype: "
              "numpy.typing.DTypeLike = 'uint8') -> numpy.typing.NDArray[typing.Any]"),
          nb::arg("shape") = nb::none(), nb::arg("dtype") = "uint8",
          "The memory as a numpy array, without a copy; the array keeps it alive.")
      .def_prop_ro(
          "__cuda_array_interface__", &cuda_array_interface,
          nb::sig("def __cuda_array_interface__(self) -> dict[str, typing.Any]"),
          "The bytes for torch.as_tensor(region, device=\"cuda\") and cupy.asarray(region), "
          "which keep the Region alive. AttributeError where it is no memory of a GPU.")
      .def("__repr__", [](PyRegion const& self) {
        return "Region(" + std::string(memory::to_string(self->kind())) + ", " +
               std::to_string(self->bytes()) + " bytes)";
      });
}

Region allocate(PyDevice const& self, std::uint64_t bytes, std::uint64_t alignment) {
  GilRelease const unlocked;
  return (*self)->allocate(bytes, alignment);
}

nb::object empty(PyDevice const& self, nb::handle shape, nb::handle dtype) {
  if (!(*self)->is_host_accessible()) {
    throw UnsupportedError("the CPU cannot reach memory of " + (*self)->name() +
                           ": use allocate() and torch.as_tensor() or cupy.asarray()");
  }
  nb::object const type = nb::module_::import_("numpy").attr("dtype")(dtype);
  std::uint64_t bytes = nb::cast<std::uint64_t>(type.attr("itemsize"));
  if (PyIndex_Check(shape.ptr()) != 0) {
    bytes = checked_mul(bytes, to_u64(shape, "shape"));
  } else {
    for (nb::handle const extent : nb::iter(shape)) {
      bytes = checked_mul(bytes, to_u64(extent, "shape"));
    }
  }
  return to_numpy(allocate(self, bytes, memory::kRegionAlignment), shape, type);
}

void bind_properties(nb::module_& m) {
  using device::DeviceProperties;
  nb::class_<DeviceProperties>(m, "DeviceProperties", nb::is_final(),
                               "What a device is; empty and 0 for emulated ones.")
      .def_ro("uuid", &DeviceProperties::uuid, "\"GPU-8c1a...\"")
      .def_ro("pci_address", &DeviceProperties::pci_address, "\"0000:1b:00.0\"")
      .def_ro("num_multiprocessors", &DeviceProperties::num_multiprocessors)
      .def_ro("compute_capability", &DeviceProperties::compute_capability, "90 is 9.0.")
      .def_ro("driver_version", &DeviceProperties::driver_version,
              "The newest CUDA that the driver knows, 13000 is 13.0.")
      .def_ro("runtime_version", &DeviceProperties::runtime_version, "Of the runtime in use.");
}

void bind_devices(nb::module_& m) {
  nb::class_<PyDevice>(m, "Device", nb::is_final(), "One device: memory, streams, events.")
      .def_prop_ro("backend", [](PyDevice const& self) { return (*self)->backend(); })
      .def_prop_ro("id", [](PyDevice const& self) { return (*self)->id(); })
      .def_prop_ro("name", [](PyDevice const& self) { return (*self)->name(); })
      .def_prop_ro("total_bytes", [](PyDevice const& self) { return (*self)->total_bytes(); })
      .def_prop_ro("used_bytes", [](PyDevice const& self) { return (*self)->used_bytes(); })
      .def_prop_ro(
          "is_host_accessible", [](PyDevice const& self) { return (*self)->is_host_accessible(); },
          "Whether the CPU may touch this device's memory.")
      .def_prop_ro("properties", [](PyDevice const& self) { return (*self)->properties(); })
      .def_prop_ro(
          "numa_node", [](PyDevice const& self) { return (*self)->numa_node(); },
          "Where its pinned memory should be; -1 where unknown.")
      .def(
          "can_address",
          [](PyDevice const& self, DeviceId other) {
            GilRelease const unlocked;
            return (*self)->can_address(other);
          },
          nb::arg("other"),
          "Whether kernels of this device can address memory of device `other`; asking makes it "
          "so.")
      .def(
          "allocate",
          [](PyDevice const& self, nb::handle bytes, nb::handle alignment) {
            return PyRegion(allocate(self, to_u64(bytes, "bytes"), to_u64(alignment, "alignment")));
          },
          nb::sig("def allocate(self, bytes: int, alignment: int = 512) -> Region"),
          nb::arg("bytes"), nb::arg("alignment") = memory::kRegionAlignment,
          "Memory of this device, zeroed, alive as long as the Region.")
      .def(
          "empty", &empty,
          nb::sig("def empty(self, shape: int | collections.abc.Sequence[int], dtype: "
                  "numpy.typing.DTypeLike = 'float32') -> numpy.typing.NDArray[typing.Any]"),
          nb::arg("shape"), nb::arg("dtype") = "float32",
          "A numpy array in this device's memory, without a copy; zeroed. The memory lives as long "
          "as the array or anything made from it.")
      .def(
          "create_stream",
          [](PyDevice const& self, std::string name) {
            return PyStream((*self)->create_stream(std::move(name)));
          },
          nb::arg("name") = "python", "A new stream of its own.")
      .def("create_event", [](PyDevice const& self) { return PyEvent((*self)->create_event()); })
      .def(
          "synchronize",
          [](PyDevice const& self) {
            GilRelease const unlocked;
            (*self)->synchronize();
          },
          "Blocks until all streams of this device are idle.")
      .def("__repr__", [](PyDevice const& self) { return "Device(" + (*self)->name() + ")"; });
  m.def(
      "make_host_device",
      [](DeviceId id, nb::handle memory_bytes) {
        device::HostDeviceOptions options;
        options.memory_bytes = to_u64(memory_bytes, "memory_bytes");
        return PyDevice(device::make_host_device(id, options));
      },
      nb::sig("def make_host_device(id: int = 0, memory_bytes: int = 4294967296) -> Device"),
      nb::arg("id") = 0, nb::arg("memory_bytes") = std::uint64_t{4} << 30U,
      "An emulated device, e.g. one shared by an engine and several managers.");
  m.def(
      "cuda_device",
      [](DeviceId id) {
        GilRelease const unlocked;
        return PyDevice(device::make_cuda_device(id));
      },
      nb::arg("id") = 0,
      "CUDA device `id`, in the context that torch and others use too; UnsupportedError \"no CUDA "
      "device: ...\" where there is none.");
  m.def("cuda_unavailable_reason", &device::cuda_unavailable_reason,
        "Why there is no CUDA device; empty where there is one.");

  nb::class_<device::MemoryPoolStats>(m, "MemoryPoolStats", nb::is_final(),
                                      "What a pool of device memory holds right now.")
      .def_ro("reserved_bytes", &device::MemoryPoolStats::reserved_bytes)
      .def_ro("used_bytes", &device::MemoryPoolStats::used_bytes)
      .def_ro("peak_used_bytes", &device::MemoryPoolStats::peak_used_bytes)
      .def_ro("num_allocations", &device::MemoryPoolStats::num_allocations)
      .def_ro("num_device_allocations", &device::MemoryPoolStats::num_device_allocations);
}

}  // namespace

void bind_device(nb::module_& m) {
  bind_region(m);
  bind_properties(m);
  bind_devices(m);
}

}  // namespace kvbm::python
