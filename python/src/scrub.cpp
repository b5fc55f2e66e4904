// SPDX-License-Identifier: Apache-2.0
#include "common.hpp"

#include "kvbm/memory/scrub.hpp"

#include <nanobind/stl/string.h>

#include <algorithm>
#include <memory>
#include <string>
#include <utility>

namespace kvbm::python {

namespace {

using memory::DamagedExtent;
using memory::Scrubber;
using memory::ScrubCounters;

// Its end waits for a thread that may want the interpreter lock to report.
using PyScrubber = Unlocked<std::shared_ptr<Scrubber>>;

void init_scrubber(PyScrubber* self, PyLayout const& layout, nb::handle bytes_per_second,
                   nb::handle batch_bytes, double between_passes, nb::handle max_passes,
                   bool invalidate_damaged, nb::object on_damage) {
  // Longer than any process, and still a time that can be added to now.
  constexpr std::chrono::nanoseconds kLongest = std::chrono::hours(24) * 3650;
  memory::ScrubOptions options;
  options.bytes_per_second = to_u64(bytes_per_second, "bytes_per_second");
  options.batch_bytes = to_u64(batch_bytes, "batch_bytes");
  options.between_passes = std::chrono::ceil<std::chrono::milliseconds>(
      std::min(to_duration(between_passes, "between_passes"), kLongest));
  options.max_passes = to_u64(max_passes, "max_passes");
  options.invalidate_damaged = invalidate_damaged;
  Scrubber::Report report;
  if (!on_damage.is_none()) {
    report = [callback =
                  std::make_shared<Callback>(std::move(on_damage))](DamagedExtent const& damage) {
      callback->call([&damage] { return nb::make_tuple(nb::cast(damage)); });
    };
  }
  auto const store = layout->regions().front().store();
  KVBM_EXPECTS(store != nullptr, InvalidArgument,
               "layout is " + layout->to_string() + ": memory has no checksums to compare with");
  std::shared_ptr<Scrubber> scrubber;
  {
    GilRelease const unlocked;
    scrubber = std::make_shared<Scrubber>(store, options, std::move(report));
  }
  new (self) PyScrubber(std::move(scrubber));
}

bool wait_for_passes(PyScrubber const& self, std::uint64_t passes, nb::handle timeout) {
  using Clock = std::chrono::steady_clock;
  auto const limit = timeout.is_none() ? std::chrono::nanoseconds::max()
                                       : to_duration(nb::cast<double>(timeout), "timeout");
  Clock::time_point const begin = Clock::now();
  for (;;) {
    std::chrono::nanoseconds const left = limit - (Clock::now() - begin);
    bool reached = false;
    bool running = false;
    {
      GilRelease const unlocked;
      reached = (*self)->wait_for_passes(
          passes, std::clamp(left, std::chrono::nanoseconds(0), kSignalInterval));
      running = (*self)->is_running();
    }
    if (PyErr_CheckSignals() != 0) { throw nb::python_error(); }
    if (reached || !running || left <= kSignalInterval) { return reached; }
  }
}

void bind_scrub_results(nb::module_& m) {
  nb::class_<DamagedExtent>(m, "DamagedExtent", nb::is_final(), "An extent that cannot be trusted.")
      .def_prop_ro(
          "store", [](DamagedExtent const& self) { return to_str(self.store); },
          nb::sig("def store(self) -> str"), "The file or URL.")
      .def_ro("group", &DamagedExtent::group)
      .def_ro("extent", &DamagedExtent::extent,
              "Its number in the group; of a fully contiguous layout, the block.")
      .def_prop_ro(
          "error", [](DamagedExtent const& self) { return to_exception(self.error); },
          nb::sig("def error(self) -> kvbm_cpp._errors.Error"), "Why.")
      .def_ro("invalidated", &DamagedExtent::invalidated, "Whether it was forgotten.")
      .def("__repr__", [](DamagedExtent const& self) {
        return "DamagedExtent(group=" + std::to_string(self.group) +
               ", extent=" + std::to_string(self.extent) + ")";
      });
  nb::class_<ScrubCounters>(m, "ScrubCounters", nb::is_final(), "What a Scrubber has done so far.")
      .def_ro("passes", &ScrubCounters::passes, "Ended ones.")
      .def_ro("failed_passes", &ScrubCounters::failed_passes,
              "Those that the store cut short with an error.")
      .def_ro("extents_checked", &ScrubCounters::extents_checked,
              "Read and compared; those never written are not.")
      .def_ro("bytes_checked", &ScrubCounters::bytes_checked)
      .def_ro("damaged", &ScrubCounters::damaged, "Reported.")
      .def_ro("overwritten", &ScrubCounters::overwritten,
              "Changed by a writer while they were read, hence not judged.");
}

}  // namespace

void bind_scrub(nb::module_& m) {
  bind_scrub_results(m);
  nb::class_<PyScrubber>(
      m, "Scrubber", nb::is_final(),
      "Walks all extents of a layout on disk or in an object store again and again on a thread of "
      "its own, and reports what no longer fits its checksum. Writers need not stop. The first "
      "pass starts at once. A context manager that stops it at the end.")
      .def("__init__", &init_scrubber,
           nb::sig("def __init__(self, layout: PhysicalLayout, *, bytes_per_second: int = "
                   "67108864, batch_bytes: int = 4194304, between_passes: float = 86400.0, "
                   "max_passes: int = 0, invalidate_damaged: bool = False, on_damage: "
                   "collections.abc.Callable[[DamagedExtent], object] | None = None) -> None"),
           nb::arg("layout"), nb::kw_only(), nb::arg("bytes_per_second") = 64U << 20U,
           nb::arg("batch_bytes") = 4U << 20U, nb::arg("between_passes") = 86400.0,
           nb::arg("max_passes") = 0, nb::arg("invalidate_damaged") = false,
           nb::arg("on_damage") = nb::none(),
           "bytes_per_second 0: as fast as the store is; max_passes 0: for ever. on_damage is "
           "called on the scrubber's thread; an exception goes to sys.unraisablehook.")
      .def(
          "pause", [](PyScrubber const& self) { (*self)->pause(); },
          "Keeps it from starting reads until resume().")
      .def("resume", [](PyScrubber const& self) { (*self)->resume(); })
      .def(
          "start_pass", [](PyScrubber const& self) { (*self)->start_pass(); },
          "Starts the next pass now if it waits between two.")
      .def(
          "stop",
          [](PyScrubber const& self) {
            GilRelease const unlocked;
            (*self)->stop();
          },
          "Ends it for good after the batch under way. Not from on_damage.")
      .def("wait_for_passes", &wait_for_passes,
           nb::sig("def wait_for_passes(self, passes: int, timeout: float | None = None) -> bool"),
           nb::arg("passes"), nb::arg("timeout") = nb::none(),
           "Waits until so many passes have ended or failed since the start, or it has stopped, or "
           "`timeout` seconds are over; returns whether they have.")
      .def("counters", [](PyScrubber const& self) { return (*self)->counters(); })
      .def_prop_ro("is_running", [](PyScrubber const& self) { return (*self)->is_running(); })
      .def(
          "__enter__", [](nb::object const& self) { return self; },
          nb::sig("def __enter__(self) -> Scrubber"))
      .def(
          "__exit__",
          [](PyScrubber const& self, nb::args const&) {
            GilRelease const unlocked;
            (*self)->stop();
          },
          nb::sig("def __exit__(self, *args: object) -> None"));
}

}  // namespace kvbm::python
