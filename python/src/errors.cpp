// SPDX-License-Identifier: Apache-2.0
#include "common.hpp"

namespace kvbm::python {

namespace {

nb::object make_exception(Error const& error, std::exception_ptr const& cause = nullptr) {
  nb::object exception = nb::module_::import_("kvbm_cpp._errors")
                             .attr("make_error")(nb::cast(error.code()), to_str(error.what()),
                                                 error.native_code(), error.retryable());
  add_s3_failure(exception, cause);
  return exception;
}

void translate(std::exception_ptr const& error, void*) {
  try {
    std::rethrow_exception(error);
  } catch (Error const& failure) {
    try {
      nb::object const exception = make_exception(failure, error);
      PyErr_SetObject(exception.type().ptr(), exception.ptr());
    } catch (nb::python_error& nested) { nested.restore(); }
  }
}

}  // namespace

nb::str to_str(std::string_view text) {
  PyObject* const decoded =
      PyUnicode_DecodeUTF8(text.data(), static_cast<Py_ssize_t>(text.size()), "replace");
  if (decoded == nullptr) { throw nb::python_error(); }
  return nb::steal<nb::str>(decoded);
}

nb::object to_exception(std::exception_ptr const& error) {
  if (error == nullptr) { return nb::none(); }
  try {
    std::rethrow_exception(error);
  } catch (Error const& failure) {
    return make_exception(failure, error);
  } catch (std::bad_alloc const& failure) {
    return make_exception(Error(ErrorCode::OutOfMemory, failure.what()));
  } catch (std::exception const& failure) {
    return make_exception(Error(ErrorCode::Internal, failure.what()));
  } catch (...) { return make_exception(Error(ErrorCode::Internal, "unknown error")); }
}

void bind_errors(nb::module_& m) {
  nb::enum_<ErrorCode>(m, "ErrorCode", "What kind of failure happened.")
      .value("InvalidArgument", ErrorCode::InvalidArgument, "a value that can never be right")
      .value("OutOfRange", ErrorCode::OutOfRange, "an index or range beyond what the object has")
      .value("Overflow", ErrorCode::Overflow, "a size or address left the 64-bit range")
      .value("Unsupported", ErrorCode::Unsupported,
             "a correct request that this build or machine cannot serve")
      .value("NotFound", ErrorCode::NotFound, "a handle, file or device that does not exist")
      .value("AlreadyExists", ErrorCode::AlreadyExists, "a name or file that is taken")
      .value("Busy", ErrorCode::Busy, "the object is in use")
      .value("Corrupt", ErrorCode::Corrupt, "stored bytes fail their checksum or structure")
      .value("VersionMismatch", ErrorCode::VersionMismatch,
             "written by a version that this one does not read")
      .value("OutOfMemory", ErrorCode::OutOfMemory, "an allocation or a pool limit was exceeded")
      .value("Io", ErrorCode::Io, "the operating system refused; native_code is its errno")
      .value("Device", ErrorCode::Device, "a device runtime reported an error")
      .value("Timeout", ErrorCode::Timeout, "the deadline passed before the work ended")
      .value("Cancelled", ErrorCode::Cancelled, "the caller asked to stop")
      .value("ShuttingDown", ErrorCode::ShuttingDown, "the owner is being destroyed")
      .value("PeerLost", ErrorCode::PeerLost, "a remote worker died, was stopped, or disconnected")
      .value("Internal", ErrorCode::Internal, "a broken invariant of kvbm itself");
  nb::register_exception_translator(translate);
}

}  // namespace kvbm::python
