// SPDX-License-Identifier: Apache-2.0
#include "common.hpp"

#include <nanobind/stl/string.h>

#include <string>
#include <utility>

namespace kvbm::python {

namespace {

// An object's attribute, or nothing where it has none.
nb::object attribute(nb::handle object, char const* name) {
  nb::object value = nb::steal(PyObject_GetAttrString(object.ptr(), name));
  if (!value.is_valid()) {
    if (PyErr_ExceptionMatches(PyExc_AttributeError) == 0) { throw nb::python_error(); }
    PyErr_Clear();
    return nb::none();
  }
  return value;
}

bool is_int(nb::handle object) {
  return PyLong_Check(object.ptr()) != 0 && PyBool_Check(object.ptr()) == 0;
}

// A device's number in an attribute: an int, or a device object that has one.
std::optional<DeviceId> device_number(nb::handle value) {
  if (is_int(value)) {
    auto const id = nb::cast<DeviceId>(value);
    return id >= 0 ? std::optional(id) : std::nullopt;
  }
  for (char const* const name : {"index", "device_id", "id"}) {
    nb::object const inner = attribute(value, name);
    if (is_int(inner)) { return device_number(inner); }
  }
  return std::nullopt;
}

// Libraries name a stream's device differently; 0 where none does.
DeviceId device_of(nb::handle object) {
  for (char const* const name : {"device_index", "device_id", "device"}) {
    nb::object const value = attribute(object, name);
    if (value.is_none()) { continue; }
    if (auto const id = device_number(value)) { return *id; }
  }
  return 0;
}

void* to_handle(nb::handle value, std::string const& where) {
  // NOLINTNEXTLINE(performance-no-int-to-ptr): handles come from Python as integers
  return reinterpret_cast<void*>(static_cast<std::uintptr_t>(to_u64(value, where.c_str())));
}

// What `__cuda_stream__` says: (version, handle), from a method or, as some have it, at once.
nb::object protocol_handle(nb::handle said, std::string const& where) {
  nb::object const answer = PyCallable_Check(said.ptr()) != 0 ? said() : nb::borrow(said);
  if (!nb::isinstance<nb::tuple>(answer) || nb::len(answer) != 2) {
    throw nb::type_error(
        (where + ": __cuda_stream__ gave " + nb::repr(answer).c_str() + ", not (version, handle)")
            .c_str());
  }
  auto const version = to_u64(answer[0], (where + ": __cuda_stream__ version").c_str());
  KVBM_EXPECTS(version == 0, InvalidArgument,
               where + " speaks version " + std::to_string(version) +
                   " of __cuda_stream__, only version 0 is known");
  return answer[1];
}

// The library's object together with the one that owns what it stands for.
template <typename T>
std::shared_ptr<T> keep_with(std::shared_ptr<T> inner, nb::handle owner) {
  struct Kept {
    SharedObject owner;
    std::shared_ptr<T> inner;  // goes first
  };
  auto const kept = std::make_shared<Kept>(Kept{share_lazily(nb::borrow(owner)), std::move(inner)});
  return {kept, kept->inner.get()};
}

device::StreamPtr wrap_stream(nb::handle owner, nb::handle handle, DeviceId id,
                              std::string const& where) {
  return keep_with(device::wrap_cuda_stream(id, to_handle(handle, where)), owner);
}

device::EventPtr wrap_event(nb::handle owner, nb::handle handle, DeviceId id,
                            std::string const& where) {
  void* const native = to_handle(handle, where);
  KVBM_EXPECTS(native != nullptr, InvalidArgument,
               where + " was never recorded, so there is nothing to wait for: record it first");
  return keep_with(device::wrap_cuda_event(id, native), owner);
}

// Streams of cupy have ptr, and so have its events: only streams can wait.
bool is_stream_with_ptr(nb::handle object) {
  return nb::hasattr(object, "ptr") && nb::hasattr(object, "wait_event");
}
bool is_event_with_ptr(nb::handle object) {
  return nb::hasattr(object, "ptr") && nb::hasattr(object, "record") &&
         !nb::hasattr(object, "wait_event");
}

nb::object stream_handle(nb::handle object, std::string const& where) {
  if (is_int(object)) { return nb::borrow(object); }
  if (nb::object value = attribute(object, "cuda_stream"); is_int(value)) { return value; }
  if (nb::object const value = attribute(object, "__cuda_stream__"); !value.is_none()) {
    return protocol_handle(value, where);
  }
  if (is_stream_with_ptr(object)) { return attribute(object, "ptr"); }
  throw nb::type_error(
      (where + " is a " + nb::type_name(object.type()).c_str() +
       ": no kvbm Stream, no CUDA stream (an object with cuda_stream, __cuda_stream__ or ptr) and "
       "no int")
          .c_str());
}

nb::object event_handle(nb::handle object, std::string const& where) {
  if (is_int(object)) { return nb::borrow(object); }
  if (nb::object value = attribute(object, "cuda_event"); is_int(value)) { return value; }
  if (is_event_with_ptr(object)) { return attribute(object, "ptr"); }
  if (nb::object const value = attribute(object, "handle"); !value.is_none()) {
    return nb::module_::import_("builtins").attr("int")(value);
  }
  throw nb::type_error((where + " is a " + nb::type_name(object.type()).c_str() +
                        ": no kvbm Event, no CUDA event (an object with cuda_event, ptr or "
                        "handle) and no int")
                           .c_str());
}

DeviceId device_or(nb::handle device_id, nb::handle object) {
  return device_id.is_none() ? device_of(object) : nb::cast<DeviceId>(device_id);
}

std::uintptr_t native_stream(PyStream const& self) {
  if ((*self)->backend() != device::Backend::Cuda) {
    throw nb::attribute_error(
        ("stream " + (*self)->name() + " is one of an emulated device: it has no cudaStream_t")
            .c_str());
  }
  return reinterpret_cast<std::uintptr_t>((*self)->native_handle());
}

void bind_events(nb::module_& m) {
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
          "Blocks until the work recorded last has ended.")
      .def_prop_ro("backend", [](PyEvent const& self) { return (*self)->backend(); })
      .def_prop_ro(
          "cuda_event",
          [](PyEvent const& self) {
            void* const native = (*self)->native_handle();
            if (native == nullptr) {
              throw nb::attribute_error("an event of an emulated device has no cudaEvent_t");
            }
            return reinterpret_cast<std::uintptr_t>(native);
          },
          "The cudaEvent_t as an int; it lives until this object is recorded again or dropped. "
          "AttributeError for events of emulated devices.");
}

void bind_streams(nb::module_& m) {
  nb::class_<PyStream>(m, "Stream", nb::is_final(),
                       "A FIFO queue of work on one device; streams run side by side. Those of a "
                       "manager's pools live as long as the manager, all others as long as any "
                       "reference.")
      .def_prop_ro("device_id", [](PyStream const& self) { return (*self)->device_id(); })
      .def_prop_ro("backend", [](PyStream const& self) { return (*self)->backend(); })
      .def_prop_ro("name", [](PyStream const& self) { return (*self)->name(); })
      .def_prop_ro("cuda_stream", &native_stream,
                   "The cudaStream_t as an int, e.g. for torch.cuda.ExternalStream; keep this "
                   "object or its manager as long as that is used. AttributeError for streams of "
                   "emulated devices.")
      .def(
          "__cuda_stream__",
          [](PyStream const& self) { return nb::make_tuple(0, native_stream(self)); },
          nb::sig("def __cuda_stream__(self) -> tuple[int, int]"),
          "CUDA's stream protocol: (version, cudaStream_t).")
      .def_prop_ro(
          "is_capturing", [](PyStream const& self) { return (*self)->is_capturing(); },
          "Whether what is enqueued goes into a CUDA graph instead of running.")
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
          "Runs `work` on a host thread when everything before it ended. It must not wait for this "
          "stream; an exception goes to sys.unraisablehook. Dropping the last reference to the "
          "stream waits for it.")
      .def(
          "record",
          [](PyStream const& self, nb::handle event) {
            device::StreamPtr const stream = *self;
            device::EventPtr const point = to_event(event, "event");
            GilRelease const unlocked;
            stream->record(point);
          },
          nb::sig("def record(self, event: kvbm_cpp._types.EventLike) -> None"), nb::arg("event"),
          "Marks the present end of the stream in `event`.")
      .def(
          "wait",
          [](PyStream const& self, nb::handle event) {
            device::StreamPtr const stream = *self;
            device::EventPtr const point = to_event(event, "event");
            GilRelease const unlocked;
            stream->wait(point);
          },
          nb::sig("def wait(self, event: kvbm_cpp._types.EventLike) -> None"), nb::arg("event"),
          "What is enqueued after this call waits for the point that `event` marks now.")
      .def(
          "synchronize",
          [](PyStream const& self) {
            device::StreamPtr const stream = *self;
            GilRelease const unlocked;
            stream->synchronize();
          },
          "Blocks until everything enqueued so far has ended.")
      .def("is_idle", [](PyStream const& self) { return (*self)->is_idle(); })
      .def("__repr__", [](PyStream const& self) {
        return "Stream(" + (*self)->name() + ", " +
               std::string(device::to_string((*self)->backend())) + " device " +
               std::to_string((*self)->device_id()) + ")";
      });
}

}  // namespace

device::StreamPtr to_stream(nb::handle object, std::string const& where) {
  if (nb::isinstance<PyStream>(object)) { return *nb::cast<PyStream const&>(object); }
  return wrap_stream(object, stream_handle(object, where), device_of(object), where);
}

device::EventPtr to_event(nb::handle object, std::string const& where) {
  if (nb::isinstance<PyEvent>(object)) { return *nb::cast<PyEvent const&>(object); }
  return wrap_event(object, event_handle(object, where), device_of(object), where);
}

void bind_stream(nb::module_& m) {
  nb::enum_<device::Backend>(m, "Backend", "Which implementation is behind a Device.")
      .value("Host", device::Backend::Host, "emulated: ordinary memory and threads")
      .value("Cuda", device::Backend::Cuda, "an NVIDIA GPU");
  bind_events(m);
  bind_streams(m);
  m.def(
      "wrap_cuda_stream",
      [](nb::handle stream, nb::handle device_id) {
        return PyStream(wrap_stream(stream, stream_handle(stream, "stream"),
                                    device_or(device_id, stream), "stream"));
      },
      nb::sig("def wrap_cuda_stream(stream: kvbm_cpp._types.CudaStreamLike, device_id: int | None "
              "= None) -> Stream"),
      nb::arg("stream"), nb::arg("device_id") = nb::none(),
      "A Stream over a CUDA stream of another library, which it keeps alive; the owner of a "
      "cudaStream_t given as an int keeps that alive. Without device_id the stream's own says "
      "which device, an int means device 0.");
  m.def(
      "wrap_cuda_event",
      [](nb::handle event, nb::handle device_id) {
        return PyEvent(
            wrap_event(event, event_handle(event, "event"), device_or(device_id, event), "event"));
      },
      nb::sig("def wrap_cuda_event(event: kvbm_cpp._types.CudaEventLike, device_id: int | None = "
              "None) -> Event"),
      nb::arg("event"), nb::arg("device_id") = nb::none(),
      "An Event over a recorded CUDA event of another library, likewise.");
}

}  // namespace kvbm::python
