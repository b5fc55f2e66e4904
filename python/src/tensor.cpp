// SPDX-License-Identifier: Apache-2.0
#include "common.hpp"

#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <string>

namespace kvbm::python {

namespace {

std::string place(char const* name, std::size_t index) {
  return std::string(name) + "[" + std::to_string(index) + "]";
}

void require_writable(bool writable, std::string const& where) {
  KVBM_EXPECTS(writable, InvalidArgument,
               where + " is read-only, and a layout's memory gets written: pass a writable array");
}

void require_contiguous(bool contiguous, std::string const& where) {
  KVBM_EXPECTS(contiguous, InvalidArgument,
               where +
                   " is not C-contiguous: pass the tensor that owns the memory, not a "
                   "transposed or sliced view of it, or use layout_from_tensors()");
}

void require_bytes(std::uint64_t bytes, std::string const& where) {
  KVBM_EXPECTS(bytes > 0, InvalidArgument, where + " has no elements");
}

bool is_c_contiguous(Tensor const& tensor) {
  auto expected = static_cast<std::int64_t>(tensor.item_bytes);
  for (std::size_t i = tensor.shape.size(); i-- > 0;) {
    if (tensor.shape[i] != 1 && tensor.strides[i] != expected) { return false; }
    expected *= static_cast<std::int64_t>(tensor.shape[i]);
  }
  return true;
}

// From the first element to behind the last; tensors with negative strides have no such range.
std::uint64_t reach_bytes(Tensor const& tensor, std::string const& where) {
  std::uint64_t bytes = tensor.item_bytes;
  for (std::size_t i = 0; i < tensor.shape.size(); ++i) {
    if (tensor.shape[i] == 0) { return 0; }
    if (tensor.shape[i] == 1) { continue; }
    KVBM_EXPECTS(tensor.strides[i] >= 0, InvalidArgument,
                 where + " is not C-contiguous: stride " + std::to_string(tensor.strides[i]) +
                     " of axis " + std::to_string(i) + " is negative");
    bytes = checked_add(
        bytes, checked_mul(tensor.shape[i] - 1, static_cast<std::uint64_t>(tensor.strides[i])));
  }
  return bytes;
}

void fill_strides(Tensor& tensor) {
  tensor.strides.resize(tensor.shape.size());
  std::uint64_t next = tensor.item_bytes;
  for (std::size_t i = tensor.shape.size(); i-- > 0;) {
    tensor.strides[i] = static_cast<std::int64_t>(next);
    next = checked_mul(next, std::max<std::uint64_t>(tensor.shape[i], 1));
  }
}

Tensor from_raw(nb::tuple const& raw, std::string const& where) {
  KVBM_EXPECTS(raw.size() >= 2 && raw.size() <= 4, InvalidArgument,
               where + " has " + std::to_string(raw.size()) +
                   " items, must be (address, bytes[, device_id[, owner]])");
  Tensor tensor;
  tensor.raw = true;
  tensor.address = to_u64(raw[0], (where + " address").c_str());
  tensor.bytes = to_u64(raw[1], (where + " bytes").c_str());
  if (raw.size() > 2 && !nb::handle(raw[2]).is_none()) {
    tensor.device_id = nb::cast<DeviceId>(raw[2]);
    tensor.on_device = *tensor.device_id >= 0;
  }
  if (raw.size() > 3) { tensor.keep_alive = share(nb::object(raw[3])); }
  tensor.shape = {tensor.bytes};
  tensor.strides = {1};
  return tensor;
}

Tensor from_region(memory::Region const& region) {
  Tensor tensor;
  tensor.raw = true;
  tensor.address = region.address();
  tensor.bytes = region.bytes();
  tensor.device_id = region.device_id();
  tensor.on_device = region.kind() == memory::StorageKind::Device;
  tensor.shape = {tensor.bytes};
  tensor.strides = {1};
  tensor.keep_alive = std::make_shared<memory::Region const>(region);
  return tensor;
}

std::string text(nb::handle object) { return nb::str(object).c_str(); }

// torch tensors have a type that DLPack and __cuda_array_interface__ lack (bfloat16, float8), may
// require gradients, and say themselves where they are.
bool is_torch_like(nb::handle object) {
  return nb::hasattr(object, "data_ptr") && nb::hasattr(object, "element_size") &&
         nb::hasattr(object, "stride") && nb::hasattr(object, "shape") &&
         nb::hasattr(object, "device");
}

Tensor from_torch(nb::handle object, std::string const& where) {
  nb::object const device = object.attr("device");
  std::string const kind = text(device.attr("type"));
  if (kind != "cpu" && kind != "cuda") {
    throw nb::type_error((where + " is on " + text(device) +
                          ": only cpu and cuda tensors have "
                          "memory that kvbm reaches")
                             .c_str());
  }
  Tensor tensor;
  tensor.address = to_u64(object.attr("data_ptr")(), (where + " data_ptr()").c_str());
  tensor.item_bytes = to_u64(object.attr("element_size")(), (where + " element_size()").c_str());
  for (nb::handle const extent : nb::iter(object.attr("shape"))) {
    tensor.shape.push_back(to_u64(extent, "shape"));
  }
  for (nb::handle const stride : nb::iter(object.attr("stride")())) {
    tensor.strides.push_back(nb::cast<std::int64_t>(stride) *
                             static_cast<std::int64_t>(tensor.item_bytes));
  }
  if (kind == "cuda") {
    nb::object const index = device.attr("index");
    tensor.on_device = true;
    tensor.device_id = index.is_none() ? 0 : nb::cast<DeviceId>(index);
  }
  std::string const dtype = text(object.attr("dtype"));
  tensor.dtype = dtype.substr(dtype.rfind('.') + 1);
  tensor.keep_alive = share(nb::borrow(object));
  return tensor;
}

// cupy arrays say their device, which the interface has no word for.
std::optional<DeviceId> device_of_array(nb::handle object) {
  nb::object const device =
      nb::hasattr(object, "device") ? nb::object(object.attr("device")) : nb::none();
  if (device.is_none() || !nb::hasattr(device, "id")) { return std::nullopt; }
  nb::object const id = device.attr("id");
  return PyLong_Check(id.ptr()) != 0 ? std::optional(nb::cast<DeviceId>(id)) : std::nullopt;
}

Tensor from_cuda_array(nb::handle object, std::string const& where) {
  nb::dict const interface = nb::cast<nb::dict>(object.attr("__cuda_array_interface__"));
  nb::tuple const data = nb::cast<nb::tuple>(interface["data"]);
  std::string const type = text(nb::handle(interface["typestr"]));
  Tensor tensor;
  tensor.on_device = true;
  tensor.device_id = device_of_array(object);
  tensor.writable = !nb::cast<bool>(data[1]);
  tensor.address = to_u64(data[0], (where + " address").c_str());
  tensor.dtype =
      text(nb::module_::import_("numpy").attr("dtype")(nb::str(type.c_str())).attr("name"));
  tensor.item_bytes = std::stoull(type.substr(2));
  for (nb::handle const extent : nb::cast<nb::tuple>(interface["shape"])) {
    tensor.shape.push_back(to_u64(extent, "shape"));
  }
  if (interface.contains("strides") && !nb::handle(interface["strides"]).is_none()) {
    for (nb::handle const stride : nb::cast<nb::tuple>(interface["strides"])) {
      tensor.strides.push_back(nb::cast<std::int64_t>(stride));
    }
  } else {
    fill_strides(tensor);
  }
  tensor.keep_alive = share(nb::borrow(object));
  return tensor;
}

std::string dtype_of(nb::dlpack::dtype const& type) {
  using Code = nb::dlpack::dtype_code;
  auto const code = static_cast<Code>(type.code);
  std::string const bits = std::to_string(type.bits);
  switch (code) {
    case Code::Int: return "int" + bits;
    case Code::UInt: return "uint" + bits;
    case Code::Float: return "float" + bits;
    case Code::Bfloat: return "bfloat" + bits;
    case Code::Complex: return "complex" + bits;
    case Code::Bool: return "bool";
    default: return "dlpack" + std::to_string(type.code) + "_" + bits;
  }
}

template <typename Array>
Tensor from_array(nb::handle object, Array array) {
  Tensor tensor;
  tensor.address = reinterpret_cast<std::uintptr_t>(array.data());
  tensor.item_bytes = array.itemsize();
  tensor.dtype = dtype_of(array.dtype());
  for (std::size_t i = 0; i < array.ndim(); ++i) {
    tensor.shape.push_back(array.shape(i));
    tensor.strides.push_back(array.stride(i) * static_cast<std::int64_t>(tensor.item_bytes));
  }
  if (array.device_type() == nb::device::cuda::value) {
    tensor.on_device = true;
    tensor.device_id = array.device_id();
  }
  // The DLPack capsule keeps the memory, not necessarily the object: hold both.
  tensor.keep_alive = share(nb::make_tuple(nb::borrow(object), nb::cast(std::move(array))));
  return tensor;
}

Tensor read_tensor(nb::handle object, std::string const& where) {
  if (nb::isinstance<nb::tuple>(object)) { return from_raw(nb::borrow<nb::tuple>(object), where); }
  if (nb::isinstance<PyRegion>(object)) { return from_region(*nb::cast<PyRegion const&>(object)); }
  if (is_torch_like(object)) { return from_torch(object, where); }
  if (nb::hasattr(object, "__cuda_array_interface__")) { return from_cuda_array(object, where); }
  if (nb::ndarray<> array; nb::try_cast(object, array, false)) {
    return from_array(object, std::move(array));
  }
  if (nb::ndarray<nb::ro> array; nb::try_cast(object, array, false)) {
    Tensor tensor = from_array(object, std::move(array));
    tensor.writable = false;
    return tensor;
  }
  throw nb::type_error((where + " is a " + nb::type_name(object.type()).c_str() +
                        ": no numpy array, torch or DLPack tensor, buffer, Region or tuple "
                        "(address, bytes[, device_id]); view arrays of types that DLPack lacks as "
                        "unsigned integers of the same width")
                           .c_str());
}

}  // namespace

Tensor inspect_tensor(nb::handle object, std::string const& where) {
  Tensor tensor = read_tensor(object, where);
  if (!tensor.raw) { tensor.bytes = reach_bytes(tensor, where); }
  return tensor;
}

Tensor to_tensor(nb::handle object, char const* name, std::size_t index) {
  std::string const where = place(name, index);
  Tensor tensor = inspect_tensor(object, where);
  require_writable(tensor.writable, where);
  require_bytes(tensor.bytes, where);
  require_contiguous(is_c_contiguous(tensor), where);
  return tensor;
}

void bind_tensor(nb::module_& m) {
  nb::class_<Tensor>(m, "TensorInfo", nb::is_final(),
                     "What kvbm sees of a tensor: where it is and how it is laid out. Keeps the "
                     "tensor alive.")
      .def_static(
          "of",
          [](nb::handle tensor, std::string const& name) { return inspect_tensor(tensor, name); },
          nb::sig("def of(tensor: kvbm_cpp._types.TensorLike, name: str = 'tensor') -> "
                  "TensorInfo"),
          nb::arg("tensor").none(), nb::arg("name") = "tensor",
          "Reads it without a copy: numpy and cupy arrays, torch tensors of any dtype, objects "
          "with DLPack, a buffer or __cuda_array_interface__, a Region, or (address, bytes[, "
          "device_id[, owner]]). Errors call it `name`.")
      .def_ro("address", &Tensor::address, "Of the first element.")
      .def_ro("bytes", &Tensor::bytes, "From the first element to behind the last.")
      .def_ro("item_bytes", &Tensor::item_bytes, "Of one element; 1 for raw memory.")
      .def_ro("dtype", &Tensor::dtype, "\"bfloat16\"; empty for raw memory.")
      .def_prop_ro(
          "shape", [](Tensor const& self) { return nb::tuple(nb::cast(self.shape)); },
          nb::sig("def shape(self) -> tuple[int, ...]"))
      .def_prop_ro(
          "strides", [](Tensor const& self) { return nb::tuple(nb::cast(self.strides)); },
          nb::sig("def strides(self) -> tuple[int, ...]"), "Bytes, one an axis.")
      .def_prop_ro("is_contiguous", &is_c_contiguous, "In C's order, without gaps.")
      .def_ro("is_writable", &Tensor::writable)
      .def_ro("on_device", &Tensor::on_device, "Whether it is in memory of a GPU.")
      .def_prop_ro(
          "device_id",
          [](Tensor const& self) -> nb::object {
            return self.device_id && *self.device_id >= 0 ? nb::cast(*self.device_id) : nb::none();
          },
          nb::sig("def device_id(self) -> int | None"), "Which GPU, where the library says so.")
      .def("__repr__", [](Tensor const& self) {
        return "TensorInfo(" + (self.dtype.empty() ? std::string("raw") : self.dtype) + " " +
               nb::repr(nb::tuple(nb::cast(self.shape))).c_str() + ", " +
               (self.on_device
                    ? "device " + (self.device_id ? std::to_string(*self.device_id) : "?")
                    : std::string("host")) +
               ")";
      });
}

nb::object to_numpy(memory::Region const& region, nb::handle shape, nb::handle dtype) {
  if (region.host_data() == nullptr) {
    throw UnsupportedError("the CPU cannot reach this " +
                           std::string(memory::to_string(region.kind())) + " region");
  }
  nb::object const type = nb::module_::import_("numpy").attr("dtype")(dtype);
  std::uint64_t const item_bytes = nb::cast<std::uint64_t>(type.attr("itemsize"));
  std::uint64_t bytes = region.bytes();
  if (!shape.is_none()) {
    bytes = item_bytes;
    if (PyIndex_Check(shape.ptr()) != 0) {
      bytes = checked_mul(bytes, to_u64(shape, "shape"));
    } else {
      for (nb::handle const extent : nb::iter(shape)) {
        bytes = checked_mul(bytes, to_u64(extent, "shape"));
      }
    }
  }
  KVBM_EXPECTS(bytes <= region.bytes(), InvalidArgument,
               "shape and dtype need " + std::to_string(bytes) + " bytes, the region has " +
                   std::to_string(region.bytes()));
  nb::object const owner = nb::cast(PyRegion(region));
  std::size_t const extent = bytes;
  nb::object const raw = nb::cast(nb::ndarray<nb::numpy, std::uint8_t>(
      static_cast<void*>(region.host_data()), {extent}, owner));
  nb::object const typed = raw.attr("view")(type);
  return shape.is_none() ? typed : nb::object(typed.attr("reshape")(shape));
}

}  // namespace kvbm::python
