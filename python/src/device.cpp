// SPDX-License-Identifier: Apache-2.0
#include "common.hpp"

#include "kvbm/memory/block_file.hpp"

#include <nanobind/stl/string.h>

#include <string>

namespace kvbm::python {

namespace {

using memory::Region;

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
            return self->file() == nullptr ? nb::none()
                                           : nb::object(to_str(self->file()->path().native()));
          },
          nb::sig("def file_path(self) -> str | None"), "The data file of a Disk region.")
      .def_prop_ro(
          "file_offset", [](PyRegion const& self) { return self->file_offset(); },
          "Offset of the first byte in that file.")
      .def_prop_ro(
          "is_direct",
          [](PyRegion const& self) { return self->file() != nullptr && self->file()->is_direct(); },
          "Whether the file is read and written past the page cache (O_DIRECT).")
      .def_prop_ro(
          "io_engine",
          [](PyRegion const& self) -> nb::object {
            if (self->file() == nullptr) { return nb::none(); }
            return to_str(memory::to_string(self->file()->io()->engine()));
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
      .def("__repr__", [](PyRegion const& self) {
        return "Region(" + std::string(memory::to_string(self->kind())) + ", " +
               std::to_string(self->bytes()) + " bytes)";
      });
}

void bind_event(nb::module_& m) {
  nb::class_<PyEvent>(m, "Event", nb::is_final(),
                      "A point in a stream's work. Never recorded: complete.")
      .def("is_complete", [](PyEvent const& self) { return (*self)->is_complete(); })
      .def(
          "wait",
          [](PyEvent const& self) {
            device::EventPtr const event = *self;
            GilRelease const unlocked;
            event->wait();
          },
          "Blocks until the work recorded last has ended.");
}

void bind_stream(nb::module_& m) {
  nb::class_<PyStream>(m, "Stream", nb::is_final(),
                       "A FIFO queue of work on one device; streams run side by side.")
      .def_prop_ro("device_id", [](PyStream const& self) { return (*self)->device_id(); })
      .def_prop_ro("name", [](PyStream const& self) { return (*self)->name(); })
      .def(
          "enqueue",
          [](PyStream const& self, nb::callable work) {
            auto callback = std::make_shared<Callback>(std::move(work));
            device::StreamPtr const stream = *self;
            GilRelease const unlocked;
            stream->enqueue([callback = std::move(callback)] {
              callback->call([] { return nb::make_tuple(); });
            });
          },
          nb::sig("def enqueue(self, work: collections.abc.Callable[[], object]) -> None"),
          nb::arg("work"),
          "Runs `work` on a thread of the stream when everything before it ended. It must not wait "
          "for this stream; an exception goes to sys.unraisablehook.")
      .def(
          "record",
          [](PyStream const& self, PyEvent const& event) {
            device::StreamPtr const stream = *self;
            device::EventPtr const point = *event;
            GilRelease const unlocked;
            stream->record(point);
          },
          nb::arg("event"), "Marks the present end of the stream in `event`.")
      .def(
          "wait",
          [](PyStream const& self, PyEvent const& event) {
            device::StreamPtr const stream = *self;
            device::EventPtr const point = *event;
            GilRelease const unlocked;
            stream->wait(point);
          },
          nb::arg("event"),
          "What is enqueued after this call waits for the point that `event` marks now.")
      .def(
          "synchronize",
          [](PyStream const& self) {
            device::StreamPtr const stream = *self;
            GilRelease const unlocked;
            stream->synchronize();
          },
          "Blocks until everything enqueued so far has ended.")
      .def("is_idle", [](PyStream const& self) { return (*self)->is_idle(); });
}

Region allocate(PyDevice const& self, std::uint64_t bytes, std::uint64_t alignment) {
  GilRelease const unlocked;
  return (*self)->allocate(bytes, alignment);
}

nb::object empty(PyDevice const& self, nb::handle shape, nb::handle dtype) {
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

void bind_devices(nb::module_& m) {
  nb::enum_<device::Backend>(m, "Backend", "Which implementation is behind a Device.")
      .value("Host", device::Backend::Host, "emulated: ordinary memory and threads")
      .value("Cuda", device::Backend::Cuda, "an NVIDIA GPU");
  nb::class_<PyDevice>(m, "Device", nb::is_final(), "One device: memory, streams, events.")
      .def_prop_ro("backend", [](PyDevice const& self) { return (*self)->backend(); })
      .def_prop_ro("id", [](PyDevice const& self) { return (*self)->id(); })
      .def_prop_ro("name", [](PyDevice const& self) { return (*self)->name(); })
      .def_prop_ro("total_bytes", [](PyDevice const& self) { return (*self)->total_bytes(); })
      .def_prop_ro("used_bytes", [](PyDevice const& self) { return (*self)->used_bytes(); })
      .def_prop_ro(
          "is_host_accessible", [](PyDevice const& self) { return (*self)->is_host_accessible(); },
          "Whether the CPU may touch this device's memory.")
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
  bind_event(m);
  bind_stream(m);
  bind_devices(m);
}

}  // namespace kvbm::python
