// SPDX-License-Identifier: Apache-2.0
#include "common.hpp"

#include <nanobind/operators.h>
#include <nanobind/stl/string.h>

#include <array>
#include <string>

namespace kvbm::python {

namespace {

using layout::LayoutHandle;
using transfer::FillPattern;

// Bit patterns of 128 bits as Python integers, little end first.
using Bits = std::array<std::uint64_t, 2>;

nb::object to_int(Bits const& bits) {
  nb::object const high = nb::int_(bits[1]);
  return (high << nb::int_(64)) | nb::int_(bits[0]);
}

Bits from_int(nb::handle value, char const* name) {
  nb::object const number = nb::steal(PyNumber_Index(value.ptr()));
  if (!number.is_valid()) { throw nb::python_error(); }
  nb::object const high = number >> nb::int_(64);
  nb::object const low = number & nb::int_(~std::uint64_t{0});
  unsigned long long const high_bits = PyLong_AsUnsignedLongLong(high.ptr());
  if (PyErr_Occurred() != nullptr) {
    PyErr_Clear();
    throw_error(ErrorCode::InvalidArgument,
                std::string(name) + " is " + nb::repr(number).c_str() + ", must be in [0, 2^128)");
  }
  return {PyLong_AsUnsignedLongLong(low.ptr()), high_bits};
}

void bind_handle(nb::module_& m) {
  nb::class_<LayoutHandle>(m, "LayoutHandle", nb::is_final(),
                           "Names a registered layout of a worker in 128 bits. Hashable, ordered.")
      .def(nb::init<std::uint64_t, std::uint16_t>(), nb::arg("worker_id"), nb::arg("layout_id"))
      .def_prop_ro("worker_id", &LayoutHandle::worker_id, "Bits 0-63.")
      .def_prop_ro("layout_id", &LayoutHandle::layout_id, "Bits 64-79.")
      .def_prop_ro("reserved_bits", &LayoutHandle::reserved_bits,
                   "The other 48; a handle with any of them set is refused everywhere.")
      .def(
          "to_u128", [](LayoutHandle handle) { return to_int(handle.to_bits()); },
          nb::sig("def to_u128(self) -> int"), "All 128 bits as an integer.")
      .def_static(
          "from_u128",
          [](nb::handle value) { return LayoutHandle::from_bits(from_int(value, "value")); },
          nb::sig("def from_u128(value: int) -> LayoutHandle"), nb::arg("value"),
          "The handle with these 128 bits.")
      .def(nb::self == nb::self, nb::sig("def __eq__(self, other: object, /) -> bool"))
      .def(nb::self < nb::self)
      .def(nb::self <= nb::self)
      .def(nb::self > nb::self)
      .def(nb::self >= nb::self)
      .def("__hash__",
           [](LayoutHandle handle) {
             return static_cast<Py_hash_t>(std::hash<LayoutHandle>{}(handle) >> 1U);
           })
      .def("__repr__", [](LayoutHandle handle) { return to_string(handle); });
}

void bind_checksum(nb::module_& m) {
  nb::class_<Checksum>(m, "Checksum", nb::is_final(),
                       "An XXH3-128 checksum. str() gives 32 hexadecimal digits, bytes() 16 bytes, "
                       "most significant first. Hashable, ordered.")
      .def(
          "__init__",
          [](Checksum* self, nb::handle value) {
            Bits bits{};
            if (nb::isinstance<nb::str>(value)) {
              nb::object const text = nb::borrow(value);
              if (nb::len(text) != 32) {
                throw_error(ErrorCode::InvalidArgument,
                            "value has " + std::to_string(nb::len(text)) +
                                " characters, a checksum has 32 hexadecimal digits");
              }
              bits = from_int(nb::module_::import_("builtins").attr("int")(text, 16), "value");
            } else {
              bits = from_int(value, "value");
            }
            new (self) Checksum{bits[0], bits[1]};
          },
          nb::sig("def __init__(self, value: int | str) -> None"), nb::arg("value"))
      .def(
          "hex", [](Checksum checksum) { return to_string(checksum); }, "32 hexadecimal digits.")
      .def("__str__", [](Checksum checksum) { return to_string(checksum); })
      .def("__repr__", [](Checksum checksum) { return "Checksum('" + to_string(checksum) + "')"; })
      .def(
          "__int__", [](Checksum checksum) { return to_int({checksum.low, checksum.high}); },
          nb::sig("def __int__(self) -> int"))
      .def(
          "__bytes__",
          [](Checksum checksum) {
            return to_int({checksum.low, checksum.high}).attr("to_bytes")(16, "big");
          },
          nb::sig("def __bytes__(self) -> bytes"))
      .def(nb::self == nb::self, nb::sig("def __eq__(self, other: object, /) -> bool"))
      .def(nb::self < nb::self)
      .def(nb::self <= nb::self)
      .def(nb::self > nb::self)
      .def(nb::self >= nb::self)
      .def("__hash__",
           [](Checksum checksum) { return static_cast<Py_hash_t>(checksum.low >> 1U); });
  m.def(
      "checksum_bytes",
      [](nb::handle data) {
        Py_buffer buffer{};
        if (PyObject_GetBuffer(data.ptr(), &buffer, PyBUF_SIMPLE) != 0) {
          throw nb::python_error();
        }
        Checksum checksum;
        {
          GilRelease const unlocked;
          checksum = checksum_bytes(buffer.buf, static_cast<std::size_t>(buffer.len));
        }
        PyBuffer_Release(&buffer);
        return checksum;
      },
      nb::sig("def checksum_bytes(data: typing_extensions.Buffer) -> Checksum"), nb::arg("data"),
      "XXH3-128 of any contiguous buffer.");
}

void bind_fill_pattern(nb::module_& m) {
  nb::class_<FillPattern> pattern(
      m, "FillPattern", nb::is_final(),
      "What fill_blocks writes, as a function of the logical element, so that two layouts filled "
      "alike hold the same tensor in any format.");
  nb::enum_<FillPattern::Kind>(pattern, "Kind", "Which function it is.")
      .value("Constant", FillPattern::Kind::Constant, "every byte is `value`")
      .value("Sequential", FillPattern::Kind::Sequential,
             "byte i of a block's logical tensor is (value + block + i) mod 256")
      .value("BlockLayer", FillPattern::Kind::BlockLayer,
             "every byte is a hash of (value, block, layer)")
      .value("Hashed", FillPattern::Kind::Hashed,
             "bytes of a hash of (value, block, layer, outer, offset)");
  pattern
      .def(
          "__init__",
          [](FillPattern* self, FillPattern::Kind kind, nb::handle value) {
            new (self) FillPattern{kind, to_u64(value, "value")};
          },
          nb::sig("def __init__(self, kind: kvbm_cpp._kvbm_cpp.FillPattern.Kind = ..., value: int "
                  "= 0) -> None"),
          nb::arg("kind") = FillPattern::Kind::Hashed, nb::arg("value") = 0)
      .def_ro("kind", &FillPattern::kind)
      .def_ro("value", &FillPattern::value, "The constant, the start, or the seed.")
      .def("__repr__", [](FillPattern const& self) {
        return std::string("FillPattern(") + nb::str(nb::cast(self.kind)).c_str() + ", " +
               std::to_string(self.value) + ")";
      });
}

void bind_log_level(nb::module_& m) {
  nb::enum_<log::Level>(m, "LogLevel", "How much is logged.")
      .value("Trace", log::Level::Trace)
      .value("Debug", log::Level::Debug)
      .value("Info", log::Level::Info)
      .value("Warning", log::Level::Warning)
      .value("Error", log::Level::Error)
      .value("Off", log::Level::Off);
  m.def("set_log_level", &log::set_level, nb::arg("level"),
        "Sets the lowest level that is logged, overriding the environment's KVBM_LOG.");
}

}  // namespace

void bind_values(nb::module_& m) {
  nb::enum_<memory::StorageKind>(m, "StorageKind", "Where bytes live.")
      .value("System", memory::StorageKind::System, "ordinary host memory")
      .value("Pinned", memory::StorageKind::Pinned, "page-locked host memory")
      .value("Device", memory::StorageKind::Device, "memory of a device")
      .value("Disk", memory::StorageKind::Disk, "a file on local storage")
      .value("Object", memory::StorageKind::Object, "an object store");
  bind_handle(m);
  bind_checksum(m);
  bind_fill_pattern(m);
  bind_log_level(m);
  m.def("version", &version, "\"major.minor.patch\" of the library.");
}

}  // namespace kvbm::python
