// SPDX-License-Identifier: Apache-2.0
#include "common.hpp"

#include "kvbm/remote/notices.hpp"

#include <nanobind/operators.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/unique_ptr.h>

#include <algorithm>
#include <deque>
#include <mutex>
#include <string>
#include <utility>

namespace kvbm::python {

namespace {

using remote::WriteNotices;
using remote::WriteNotification;
using Clock = std::chrono::steady_clock;

// A subscription, and what an asyncio task that was cancelled gave back.
class PyNotices {
 public:
  explicit PyNotices(WriteNotices notices) : notices_(std::move(notices)) {}

  struct Outcome {
    std::optional<WriteNotification> notification;
    bool ended = false;  // nothing will come any more
  };

  // Without the interpreter lock.
  Outcome poll(std::chrono::nanoseconds timeout) {
    {
      std::lock_guard const lock(mutex_);
      if (!given_back_.empty()) {
        auto const first = given_back_.front();
        given_back_.pop_front();
        return {first, false};
      }
    }
    Clock::time_point const begin = Clock::now();
    auto const notification = notices_->next(timeout);
    // A subscription whose manager is gone does not wait.
    return {notification, !notification && Clock::now() - begin < timeout};
  }

  void give_back(WriteNotification const& notification) {
    std::lock_guard const lock(mutex_);
    given_back_.push_back(notification);
  }

  void on_each(std::function<void(WriteNotification const&)> callback) {
    (*notices_).on_each(std::move(callback));
  }

 private:
  // Its end waits for the callback's thread, which may be waiting for the interpreter lock.
  struct Subscription {
    explicit Subscription(WriteNotices notices) : value(std::move(notices)) {}
    ~Subscription() {
      GilRelease const unlocked;
      WriteNotices const last = std::move(value);
    }
    Subscription(Subscription const&) = delete;
    Subscription& operator=(Subscription const&) = delete;
    WriteNotices* operator->() noexcept { return &value; }
    WriteNotices& operator*() noexcept { return value; }
    WriteNotices value;
  };

  Subscription notices_;
  std::mutex mutex_;
  std::deque<WriteNotification> given_back_;
};

std::optional<WriteNotification> next(PyNotices& self, nb::handle timeout) {
  std::optional<std::chrono::nanoseconds> limit;
  if (!timeout.is_none()) { limit = to_duration(nb::cast<double>(timeout), "timeout"); }
  Clock::time_point const begin = Clock::now();
  for (;;) {
    std::chrono::nanoseconds slice = kSignalInterval;
    bool last = false;
    if (limit) {
      std::chrono::nanoseconds const left = *limit - (Clock::now() - begin);
      last = left <= slice;
      slice = std::min(slice, std::max(left, std::chrono::nanoseconds(0)));
    }
    PyNotices::Outcome outcome;
    {
      GilRelease const unlocked;
      outcome = self.poll(slice);
    }
    if (outcome.notification) { return outcome.notification; }
    if (PyErr_CheckSignals() != 0) { throw nb::python_error(); }
    if (last || outcome.ended) { return std::nullopt; }
  }
}

nb::object to_object(std::optional<WriteNotification> const& notification) {
  return notification ? nb::cast(*notification) : nb::none();
}

void on_each(PyNotices& self, nb::callable function) {
  auto callback = std::make_shared<Callback>(std::move(function));
  GilRelease const unlocked;
  self.on_each([callback = std::move(callback)](WriteNotification const& notification) {
    callback->call([&notification] { return nb::make_tuple(nb::cast(notification)); });
  });
}

}  // namespace

nb::object make_notices(WriteNotices notices) {
  return nb::cast(std::make_unique<PyNotices>(std::move(notices)));
}

void bind_notices(nb::module_& m) {
  nb::class_<WriteNotification>(
      m, "WriteNotification", nb::is_final(),
      "What a peer's transfer sent after its blocks had arrived. Hashable.")
      .def(nb::init<std::uint64_t, std::uint64_t>(), nb::arg("worker_id"), nb::arg("value"))
      .def_ro("worker_id", &WriteNotification::worker_id, "Of the sender.")
      .def_ro("value", &WriteNotification::value,
              "What the sender gave as nixl_write_notification.")
      .def(nb::self == nb::self, nb::sig("def __eq__(self, other: object, /) -> bool"))
      .def("__hash__",
           [](WriteNotification const& self) {
             return nb::hash(nb::make_tuple(self.worker_id, self.value));
           })
      .def("__repr__", [](WriteNotification const& self) {
        return "WriteNotification(worker_id=" + std::to_string(self.worker_id) +
               ", value=" + std::to_string(self.value) + ")";
      });

  nb::class_<PyNotices>(
      m, "WriteNotices", nb::is_final(),
      "A subscription: receives every write notification from its start on, each exactly once, in "
      "the order in which it came; several subscriptions receive all of them each. What came "
      "before "
      "there was any is kept for the first one. All methods may be called from any thread; `async "
      "for` works too, and ends with the manager.")
      .def(
          "next",
          [](PyNotices& self, nb::handle timeout) { return to_object(next(self, timeout)); },
          nb::sig("def next(self, timeout: float | None = None) -> WriteNotification | None"),
          nb::arg("timeout") = nb::none(),
          "Waits for the next one, at most `timeout` seconds; None then, and once the manager is "
          "closed.")
      .def("on_each", &on_each,
           nb::sig("def on_each(self, callback: collections.abc.Callable[[WriteNotification], "
                   "object]) -> None"),
           nb::arg("callback"),
           "Calls callback(notification) for every one from now on, on a thread of this "
           "subscription's own, until it is dropped or the manager closed; next() then receives "
           "none. An exception goes to sys.unraisablehook.")
      .def(
          "poll",
          [](PyNotices& self, double timeout) {
            auto const limit = to_duration(timeout, "timeout");
            PyNotices::Outcome outcome;
            {
              GilRelease const unlocked;
              outcome = self.poll(limit);
            }
            return nb::make_tuple(to_object(outcome.notification), outcome.ended);
          },
          nb::sig("def poll(self, timeout: float) -> tuple[WriteNotification | None, bool]"),
          nb::arg("timeout"), "What came within `timeout` seconds, and whether nothing more will.")
      .def("give_back", &PyNotices::give_back, nb::arg("notification"),
           "Puts it back for the next caller.")
      .def(
          "__aiter__",
          [](nb::object const& self) {
            return nb::module_::import_("kvbm_cpp._asyncio").attr("iterate_notices")(self);
          },
          nb::sig("def __aiter__(self) -> collections.abc.AsyncIterator[WriteNotification]"));
}

}  // namespace kvbm::python
