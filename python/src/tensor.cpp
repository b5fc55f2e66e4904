// SPDX-License-Identifier: Apache-2.0
#include "common.hpp"

#include <nanobind/stl/string.h>

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
                   "transposed or sliced view of it");
}

void require_bytes(std::uint64_t bytes, std::string const& where) {
  KVBM_EXPECTS(bytes > 0, InvalidArgument, where + " has no elements");
}

template <typename Array>
bool is_c_contiguous(Array const& array) {
  std::int64_t expected = 1;
  for (std::size_t i = array.ndim(); i-- > 0;) {
    if (array.shape(i) != 1 && array.stride(i) != expected) { return false; }
    expected *= static_cast<std::int64_t>(array.shape(i));
  }
  return true;
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
  }
  if (raw.size() > 3) { tensor.keep_alive = share(nb::object(raw[3])); }
  require_bytes(tensor.bytes, where);
  return tensor;
}

Tensor from_cuda_array(nb::handle object, std::string const& where) {
  nb::dict const interface = nb::cast<nb::dict>(object.attr("__cuda_array_interface__"));
  nb::tuple const data = nb::cast<nb::tuple>(interface["data"]);
  nb::tuple const shape = nb::cast<nb::tuple>(interface["shape"]);
  std::string const type = nb::cast<std::string>(nb::str(nb::handle(interface["typestr"])));
  require_writable(!nb::cast<bool>(data[1]), where);
  Tensor tensor;
  tensor.item_bytes = std::stoull(type.substr(2));
  std::uint64_t elements = 1;
  for (nb::handle const extent : shape) {
    elements = checked_mul(elements, to_u64(extent, "shape"));
  }
  if (interface.contains("strides") && !nb::handle(interface["strides"]).is_none()) {
    nb::tuple const strides = nb::cast<nb::tuple>(interface["strides"]);
    std::uint64_t expected = tensor.item_bytes;
    for (std::size_t i = shape.size(); i-- > 0;) {
      std::uint64_t const extent = to_u64(shape[i], "shape");
      require_contiguous(
          extent == 1 || nb::cast<std::int64_t>(strides[i]) == static_cast<std::int64_t>(expected),
          where);
      expected = checked_mul(expected, extent);
    }
  }
  tensor.address = to_u64(data[0], "data");
  tensor.bytes = checked_mul(elements, tensor.item_bytes);
  tensor.keep_alive = share(nb::borrow(object));
  require_bytes(tensor.bytes, where);
  return tensor;
}

}  // namespace

Tensor to_tensor(nb::handle object, char const* name, std::size_t index) {
  std::string const where = place(name, index);
  if (nb::isinstance<nb::tuple>(object)) { return from_raw(nb::borrow<nb::tuple>(object), where); }
  if (nb::isinstance<PyRegion>(object)) {
    memory::Region const& region = *nb::cast<PyRegion const&>(object);
    Tensor tensor;
    tensor.raw = true;
    tensor.address = region.address();
    tensor.bytes = region.bytes();
    tensor.device_id = region.device_id();
    tensor.keep_alive = std::make_shared<memory::Region const>(region);
    return tensor;
  }
  if (nb::hasattr(object, "__cuda_array_interface__")) { return from_cuda_array(object, where); }

  nb::ndarray<> array;
  if (!nb::try_cast(object, array, false)) {
    nb::ndarray<nb::ro> read_only;
    require_writable(!nb::try_cast(object, read_only, false), where);
    throw nb::type_error((where + " is a " + nb::type_name(object.type()).c_str() +
                          ": no numpy array, DLPack tensor, buffer, Region or tuple (address, "
                          "bytes[, device_id]); view arrays of types that DLPack lacks as "
                          "unsigned integers of the same width")
                             .c_str());
  }
  require_bytes(array.nbytes(), where);
  require_contiguous(is_c_contiguous(array), where);
  Tensor tensor;
  tensor.address = reinterpret_cast<std::uintptr_t>(array.data());
  tensor.bytes = array.nbytes();
  tensor.item_bytes = array.itemsize();
  if (array.device_type() != nb::device::cpu::value) { tensor.device_id = array.device_id(); }
  // The DLPack capsule keeps the memory, not necessarily the object: hold both.
  tensor.keep_alive = share(nb::make_tuple(nb::borrow(object), nb::cast(std::move(array))));
  return tensor;
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
