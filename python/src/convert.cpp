// SPDX-License-Identifier: Apache-2.0
#include "common.hpp"

#include <cmath>
#include <cstring>
#include <limits>
#include <string>

namespace kvbm::python {

namespace {

constexpr std::uint64_t kMaxBlockId = std::numeric_limits<BlockId>::max();

std::string repr_of(nb::handle object) { return nb::repr(object).c_str(); }

[[noreturn]] void throw_block_id(char const* name, std::size_t position, std::string const& value) {
  throw_error(ErrorCode::OutOfRange, std::string(name) + "[" + std::to_string(position) + "] is " +
                                         value + ", must be a block id in [0, " +
                                         std::to_string(kMaxBlockId) + "]");
}

template <typename T>
void append_strided(std::byte const* data, std::size_t count, std::int64_t stride, char const* name,
                    std::vector<BlockId>& out) {
  for (std::size_t i = 0; i < count; ++i) {
    T value{};
    std::memcpy(&value, data + static_cast<std::int64_t>(i) * stride * std::int64_t{sizeof(T)},
                sizeof(T));
    if (!std::in_range<BlockId>(value)) { throw_block_id(name, i, std::to_string(value)); }
    out.push_back(static_cast<BlockId>(value));
  }
}

using AnyArray = nb::ndarray<nb::ro, nb::device::cpu>;

// Integer arrays of any width and stride; false for what is not one.
bool from_array(nb::handle ids, char const* name, std::vector<BlockId>& out) {
  AnyArray array;
  if (!nb::try_cast(ids, array, false)) { return false; }
  auto const code = static_cast<nb::dlpack::dtype_code>(array.dtype().code);
  bool const is_signed = code == nb::dlpack::dtype_code::Int;
  if ((!is_signed && code != nb::dlpack::dtype_code::UInt) || array.dtype().lanes != 1) {
    throw nb::type_error((std::string(name) + " is an array of no integer type").c_str());
  }
  if (array.ndim() != 1) {
    throw nb::type_error(
        (std::string(name) + " has " + std::to_string(array.ndim()) + " dimensions, must have 1")
            .c_str());
  }
  auto const* const data = static_cast<std::byte const*>(array.data());
  std::size_t const count = array.shape(0);
  std::int64_t const stride = array.stride(0);
  out.reserve(count);
  switch (array.dtype().bits) {
    case 8:
      is_signed ? append_strided<std::int8_t>(data, count, stride, name, out)
                : append_strided<std::uint8_t>(data, count, stride, name, out);
      return true;
    case 16:
      is_signed ? append_strided<std::int16_t>(data, count, stride, name, out)
                : append_strided<std::uint16_t>(data, count, stride, name, out);
      return true;
    case 32:
      is_signed ? append_strided<std::int32_t>(data, count, stride, name, out)
                : append_strided<std::uint32_t>(data, count, stride, name, out);
      return true;
    case 64:
      is_signed ? append_strided<std::int64_t>(data, count, stride, name, out)
                : append_strided<std::uint64_t>(data, count, stride, name, out);
      return true;
    default: throw nb::type_error((std::string(name) + " is an array of an unknown width").c_str());
  }
}

void from_iterable(nb::handle ids, char const* name, std::vector<BlockId>& out) {
  if (!nb::hasattr(ids, "__iter__") || nb::isinstance<nb::str>(ids)) {
    throw nb::type_error((std::string(name) + " is " + repr_of(ids) +
                          ", must be integers: a sequence or a one-dimensional array")
                             .c_str());
  }
  std::size_t position = 0;
  for (nb::handle const item : nb::iter(ids)) {
    nb::object const index = nb::steal(PyNumber_Index(item.ptr()));
    if (!index.is_valid()) { throw nb::python_error(); }
    int overflow = 0;
    long long const value = PyLong_AsLongLongAndOverflow(index.ptr(), &overflow);
    if (overflow != 0 || !std::in_range<BlockId>(value)) {
      throw_block_id(name, position, repr_of(index));
    }
    out.push_back(static_cast<BlockId>(value));
    ++position;
  }
}

}  // namespace

BlockIds::BlockIds(nb::handle ids, char const* name) {
  if (nb::try_cast(ids, borrowed_, false)) {
    view_ = {borrowed_.data(), borrowed_.shape(0)};
    return;
  }
  if (!from_array(ids, name, owned_)) { from_iterable(ids, name, owned_); }
  view_ = owned_;
}

std::uint64_t to_u64(nb::handle value, char const* name) {
  nb::object const index = nb::steal(PyNumber_Index(value.ptr()));
  if (!index.is_valid()) {
    PyErr_Clear();
    throw nb::type_error(
        (std::string(name) + " is " + repr_of(value) + ", must be an int").c_str());
  }
  unsigned long long const number = PyLong_AsUnsignedLongLong(index.ptr());
  if (PyErr_Occurred() != nullptr) {
    PyErr_Clear();
    throw_error(ErrorCode::InvalidArgument,
                std::string(name) + " is " + repr_of(index) + ", must be in [0, 2^64)");
  }
  return number;
}

std::optional<std::uint64_t> to_optional_u64(nb::handle value, char const* name) {
  return value.is_none() ? std::nullopt : std::optional(to_u64(value, name));
}

unsigned to_unsigned(nb::handle value, char const* name) {
  std::uint64_t const number = to_u64(value, name);
  KVBM_EXPECTS(number <= std::numeric_limits<unsigned>::max(), InvalidArgument,
               std::string(name) + " is " + std::to_string(number) + ", must be below 2^32");
  return static_cast<unsigned>(number);
}

IndexRange to_range(nb::handle value, char const* name) {
  if (PyRange_Check(value.ptr()) != 0) {
    if (nb::cast<std::int64_t>(value.attr("step")) != 1) {
      throw_error(ErrorCode::InvalidArgument,
                  std::string(name) + " is " + repr_of(value) + ", its step must be 1");
    }
    return {to_u64(value.attr("start"), name), to_u64(value.attr("stop"), name)};
  }
  if ((nb::isinstance<nb::tuple>(value) || nb::isinstance<nb::list>(value)) &&
      nb::len(value) == 2) {
    return {to_u64(value[0], name), to_u64(value[1], name)};
  }
  throw nb::type_error(
      (std::string(name) + " is " + repr_of(value) + ", must be a range or a pair (begin, end)")
          .c_str());
}

nb::object from_range(std::optional<IndexRange> const& range) {
  if (!range) { return nb::none(); }
  return nb::module_::import_("builtins").attr("range")(range->begin, range->end);
}

std::chrono::nanoseconds to_duration(double seconds, char const* name) {
  KVBM_EXPECTS(!std::isnan(seconds), InvalidArgument, std::string(name) + " is not a number");
  constexpr double kLimit = 9e9;  // seconds that fit into 63 bits of nanoseconds
  if (seconds >= kLimit) { return std::chrono::nanoseconds::max(); }
  if (seconds <= -kLimit) { return std::chrono::nanoseconds::min(); }
  return std::chrono::ceil<std::chrono::nanoseconds>(std::chrono::duration<double>(seconds));
}

std::string to_path(nb::handle path) {
  PyObject* encoded = nullptr;
  if (PyUnicode_FSConverter(path.ptr(), static_cast<void*>(&encoded)) == 0) {
    throw nb::python_error();
  }
  nb::bytes const bytes = nb::steal<nb::bytes>(encoded);
  return {bytes.c_str(), bytes.size()};
}

std::vector<std::filesystem::path> to_paths(nb::handle paths) {
  if (!nb::isinstance<nb::list>(paths) && !nb::isinstance<nb::tuple>(paths)) {
    return {to_path(paths)};
  }
  std::vector<std::filesystem::path> result;
  for (nb::handle const path : nb::iter(paths)) {
    result.emplace_back(to_path(path));
  }
  return result;
}

}  // namespace kvbm::python
