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

// A subscription. Waiting and taking are apart, so that an asyncio task that is cancelled while a
// thread waits for it has taken nothing.
class PyNotices {
 public:
  explicit PyNotices(WriteNotices notices) : notices_(std::move(notices)) {}

  struct State {
    bool ready = false;  // there is something to take
    bool ended = false;  // nothing more will come
  };

  // Waits until there is something to take. Without the interpreter lock.
  State poll(std::chrono::nanoseconds timeout) {
    Clock::time_point const begin = Clock::now();
    std::unique_lock const filling(filling_, std::min(timeout, kSignalInterval));
    {
      std::lock_guard const lock(mutex_);
      if (!waiting_.empty()) { return {true, false}; }
    }
    if (!filling.owns_lock()) { return {}; }
    Clock::time_point const now = Clock::now();
    std::chrono::nanoseconds const left =
        std::max<std::chrono::nanoseconds>(timeout - (now - begin), std::chrono::nanoseconds(0));
    auto const notification = notices_->next(left);
    // A subscription whose manager is gone does not wait.
    if (!notification) { return {false, Clock::now() - now < left}; }
    std::lock_guard const lock(mutex_);
    waiting_.push_back(*notification);
    return {true, false};
  }

  std::optional<WriteNotification> take() {
    std::lock_guard const lock(mutex_);
    if (waiting_.empty()) { return std::nullopt; }
    auto const first = waiting_.front();
    waiting_.pop_front();
    return first;
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
  std::timed_mutex filling_;  // held by who waits, so that the order stays
  std::mutex mutex_;
  std::deque<WriteNotification> waiting_;
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
    PyNotices::State state;
    {
      GilRelease const unlocked;
      state = self.poll(slice);
    }
    if (auto const notification = self.take()) { return notification; }
    if (PyErr_CheckSignals() != 0) { throw nb::python_error(); }
    if (last || state.ended) { return std::nullopt; }
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
            PyNotices::State state;
            {
              GilRelease const unlocked;
              state = self.poll(limit);
            }
            return nb::make_tuple(state.ready, state.ended);
          },
          nb::sig("def poll(self, timeout: float) -> tuple[bool, bool]"), nb::arg("timeout"),
          "Waits for the next one, at most about `timeout` seconds, without taking it: whether "
          "next(0) gives it, and whether nothing more will come.")
      .def(
          "__aiter__",
          [](nb::object const& self) {
            return nb::module_::import_("kvbm_cpp._asyncio").attr("iterate_notices")(self);
          },
          nb::sig("def __aiter__(self) -> collections.abc.AsyncIterator[WriteNotification]"));
}

}  // namespace kvbm::python
