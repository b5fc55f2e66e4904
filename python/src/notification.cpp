// SPDX-License-Identifier: Apache-2.0
#include "common.hpp"

#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <utility>

namespace kvbm::python {

namespace {

using transfer::FailedBlock;
using Notification = transfer::TransferCompleteNotification;

// A failed transfer counts as ready: its error is told by error(), or thrown by the caller.
bool is_ready_within(Notification const& notification, std::chrono::nanoseconds timeout) {
  GilRelease const unlocked;
  try {
    return notification.wait_for(timeout);
  } catch (...) {
    if (notification.is_ready()) { return true; }
    throw;
  }
}

// Whether the outcome is known within `timeout` (nullopt: whenever). Never throws its error.
bool await_outcome(Notification const& notification,
                   std::optional<std::chrono::nanoseconds> timeout) {
  if (notification.is_ready()) { return true; }
  using Clock = std::chrono::steady_clock;
  Clock::time_point const begin = Clock::now();
  for (;;) {
    std::chrono::nanoseconds slice = kSignalInterval;
    bool last = false;
    if (timeout) {
      std::chrono::nanoseconds const left = *timeout - (Clock::now() - begin);
      last = left <= slice;
      slice = std::min(slice, std::max(left, std::chrono::nanoseconds(0)));
    }
    if (is_ready_within(notification, slice)) { return true; }
    if (PyErr_CheckSignals() != 0) { throw nb::python_error(); }
    if (last) { return false; }
  }
}

// The error of a transfer of several blocks sums up; what S3 said is with the first of them.
nb::object exception_of(Notification const& notification) {
  nb::object exception = to_exception(notification.error());
  if (!exception.is_none()) {
    std::vector<FailedBlock> const failed = notification.failed_blocks();
    if (!failed.empty()) { add_s3_failure(exception, failed.front().error); }
  }
  return exception;
}

void rethrow(Notification const& notification) {
  nb::object const exception = exception_of(notification);
  if (exception.is_none()) { return; }
  PyErr_SetObject(exception.type().ptr(), exception.ptr());
  throw nb::python_error();
}

bool wait_for(Notification const& notification, double timeout) {
  bool const ready = await_outcome(notification, to_duration(timeout, "timeout"));
  if (ready) { rethrow(notification); }
  return ready;
}

void wait(Notification const& notification, nb::handle timeout) {
  if (timeout.is_none()) {
    await_outcome(notification, std::nullopt);
    rethrow(notification);
    return;
  }
  double const seconds = nb::cast<double>(timeout);
  if (!wait_for(notification, seconds)) {
    throw TimeoutError("the transfer is not complete after " +
                       std::string(nb::str(timeout).c_str()) + " s; it goes on");
  }
}

void then(Notification const& notification, nb::callable function) {
  auto callback = std::make_shared<Callback>(std::move(function));
  GilRelease const unlocked;
  notification.then([callback = std::move(callback)](std::exception_ptr const& error) {
    callback->call([&error] { return nb::make_tuple(to_exception(error)); });
  });
}

}  // namespace

void bind_notification(nb::module_& m) {
  nb::class_<FailedBlock>(m, "FailedBlock", nb::is_final(),
                          "A block of a transfer that did not arrive.")
      .def_ro("position", &FailedBlock::position, "Index into the transfer's block lists.")
      .def_prop_ro(
          "error", [](FailedBlock const& self) { return to_exception(self.error); },
          nb::sig("def error(self) -> kvbm_cpp._errors.Error"), "Why.")
      .def("__repr__", [](FailedBlock const& self) {
        return "FailedBlock(position=" + std::to_string(self.position) + ")";
      });

  nb::class_<Notification>(
      m, "TransferCompleteNotification", nb::is_final(),
      "The outcome of a transfer, now or later. Awaitable in asyncio. Dropping it neither blocks "
      "nor cancels; all methods may be called from any thread.")
      .def_static("completed", &Notification::completed, "Ready, successful.")
      .def("is_ready", &Notification::is_ready, "Whether the outcome is known.")
      .def("could_yield", &Notification::could_yield,
           "Whether waiting may block at all: False exactly for transfers done synchronously.")
      .def("wait", &wait, nb::sig("def wait(self, timeout: float | None = None) -> None"),
           nb::arg("timeout") = nb::none(),
           "Blocks until the outcome is known and raises the error of a failed transfer; raises "
           "kvbm_cpp.TimeoutError after `timeout` seconds, while the transfer goes on.")
      .def("wait_for", &wait_for, nb::arg("timeout"),
           "Blocks for at most `timeout` seconds; returns whether the outcome is known, and raises "
           "the error of a failed transfer.")
      .def("error", &exception_of, nb::sig("def error(self) -> kvbm_cpp._errors.Error | None"),
           "The error of a failed transfer; None while pending and after success.")
      .def("failed_blocks", &Notification::failed_blocks,
           "Blocks that did not arrive; after a failure every block not listed arrived completely.")
      .def("then", &then,
           nb::sig("def then(self, callback: collections.abc.Callable[[kvbm_cpp._errors.Error | "
                   "None], object]) -> None"),
           nb::arg("callback"),
           "Calls callback(error) once when the outcome is known (None: success), on the event "
           "system's thread; at once, in this thread, where it is known already. An exception goes "
           "to sys.unraisablehook.")
      .def_static("aggregate", &Notification::aggregate, nb::arg("notifications"),
                  "One notification for many: completes after all ended, and fails with every "
                  "failure in its message.")
      .def(
          "__await__",
          [](nb::object const& self) {
            return nb::module_::import_("kvbm_cpp._asyncio").attr("iterate")(self);
          },
          nb::sig("def __await__(self) -> collections.abc.Generator[typing.Any, None, None]"))
      .def("__repr__", [](Notification const& self) {
        if (!self.is_ready()) { return "<TransferCompleteNotification pending>"; }
        return self.error() == nullptr ? "<TransferCompleteNotification done>"
                                       : "<TransferCompleteNotification failed>";
      });
}

}  // namespace kvbm::python
