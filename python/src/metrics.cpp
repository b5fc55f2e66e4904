// SPDX-License-Identifier: Apache-2.0
//
// What a manager counts: as values, as text for Prometheus, and over HTTP.
#include "manager.hpp"

#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <chrono>
#include <string>

namespace kvbm::python {

namespace {

using manager::ManagerStats;
using transfer::LatencyHistogram;
using transfer::RouteStats;
using transfer::TransferCounts;
using transfer::TransferStats;

double seconds(std::chrono::nanoseconds time) {
  return std::chrono::duration<double>(time).count();
}

nb::dict errors_of(TransferCounts const& counts) {
  nb::dict errors;
  for (std::size_t i = 0; i < counts.errors.size(); ++i) {
    if (counts.errors[i] > 0) { errors[nb::cast(static_cast<ErrorCode>(i))] = counts.errors[i]; }
  }
  return errors;
}

void bind_counts(nb::module_& m) {
  nb::class_<LatencyHistogram>(m, "LatencyHistogram", nb::is_final(),
                               "How long transfers took, in buckets of powers of two.")
      .def_prop_ro(
          "bounds",
          [](LatencyHistogram const&) {
            std::vector<double> bounds;
            for (std::size_t i = 0; i < LatencyHistogram::kNumBounds; ++i) {
              bounds.push_back(seconds(LatencyHistogram::upper_bound(i)));
            }
            return bounds;
          },
          "The longest time, in seconds, that each bucket but the last counts.")
      .def_prop_ro(
          "buckets",
          [](LatencyHistogram const& self) {
            return std::vector<std::uint64_t>(self.buckets.begin(), self.buckets.end());
          },
          "Transfers in each bucket, not cumulative; the last one took even longer.")
      .def_prop_ro("count", &LatencyHistogram::count, "Transfers in all buckets.")
      .def_prop_ro(
          "sum", [](LatencyHistogram const& self) { return seconds(self.sum); }, "In seconds.");
  nb::class_<TransferCounts>(
      m, "TransferCounts", nb::is_final(),
      "What became of transfers: submitted == completed + failed + cancelled + in_flight, and "
      "bytes_submitted == bytes_completed + bytes_failed + bytes_in_flight, at any time.")
      .def_ro("submitted", &TransferCounts::submitted, "Transfers that were accepted.")
      .def_ro("completed", &TransferCounts::completed, "Without an error.")
      .def_ro("failed", &TransferCounts::failed, "In whole or in part, deadlines included.")
      .def_ro("cancelled", &TransferCounts::cancelled, "Stopped by the caller's token.")
      .def_ro("in_flight", &TransferCounts::in_flight, "Now.")
      .def_ro("bytes_submitted", &TransferCounts::bytes_submitted)
      .def_ro("bytes_completed", &TransferCounts::bytes_completed, "Of blocks that arrived.")
      .def_ro("bytes_failed", &TransferCounts::bytes_failed, "Of blocks that did not.")
      .def_ro("bytes_in_flight", &TransferCounts::bytes_in_flight, "Now.")
      .def_ro("latency", &TransferCounts::latency, "Of transfers that ended, well or not.")
      .def_prop_ro("errors", &errors_of, nb::sig("def errors(self) -> dict[ErrorCode, int]"),
                   "Transfers that failed, by error code; codes that never came are left out.");
}

void bind_stats(nb::module_& m) {
  nb::class_<RouteStats>(m, "RouteStats", nb::is_final(), "One route's part of TransferStats.")
      .def_prop_ro("src", [](RouteStats const& self) { return self.route.src; })
      .def_prop_ro("dst", [](RouteStats const& self) { return self.route.dst; })
      .def_prop_ro(
          "route", [](RouteStats const& self) { return to_string(self.route); },
          "'device_to_pinned', ...")
      .def_prop_ro(
          "reach", [](RouteStats const& self) { return std::string(to_string(self.route.reach)); },
          "'local', 'from_peer' or 'to_peer'.")
      .def_ro("counts", &RouteStats::counts);
  nb::class_<TransferStats>(m, "TransferStats", nb::is_final(),
                            "What a manager's transfers came to since it was made.")
      .def_ro("routes", &TransferStats::routes, "Those that were ever used.")
      .def_prop_ro("total", &TransferStats::total, "The sum over all routes.")
      .def(
          "of",
          [](TransferStats const& self, std::string const& route, std::string const& reach) {
            auto const found =
                std::find_if(self.routes.begin(), self.routes.end(), [&](RouteStats const& stats) {
                  return to_string(stats.route) == route && to_string(stats.route.reach) == reach;
                });
            return found != self.routes.end() ? found->counts : TransferCounts{};
          },
          nb::arg("route"), nb::arg("reach") = "local",
          "One route's counts, zeros where it was never used: of('device_to_pinned').");
  nb::class_<ManagerStats>(m, "ManagerStats", nb::is_final(), "What a manager counts.")
      .def_ro("transfers", &ManagerStats::transfers)
      .def_ro("plan_cache", &ManagerStats::plan_cache)
      .def_ro("memory_pool", &ManagerStats::memory_pool, "The first device's temporaries.")
      .def_ro("num_layouts", &ManagerStats::num_layouts, "Registered now.")
      .def_ro("num_pending_events", &ManagerStats::num_pending_events, "Now.")
      .def_ro("remote", &ManagerStats::remote, "None without a NIXL backend.");
}

}  // namespace

void bind_metrics(nb::module_& m) {
  bind_counts(m);
  bind_stats(m);
}

void bind_manager_metrics(Manager& bound) {
  bound
      .def(
          "statistics", [](PyManager const& self) { return self.get()->statistics(); },
          "Everything that this manager has counted since it was made.")
      .def(
          "metrics_text",
          [](PyManager const& self) {
            auto const manager = self.get();
            GilRelease const unlocked;
            metrics::Exporter exporter;
            exporter.add(*manager.operator->());
            return exporter.text();
          },
          "The same as the text that Prometheus reads. UnsupportedError in a build without "
          "prometheus-cpp.")
      .def("serve_metrics", &PyManager::serve_metrics, nb::arg("address") = "127.0.0.1:9400",
           "Serves metrics_text() at http://ADDRESS/metrics until the manager is closed, and "
           "returns the port; port 0 takes any that is free. UnsupportedError in a build without "
           "prometheus-cpp; IoError where the address cannot be had; AlreadyExistsError where it "
           "serves already.");
}

}  // namespace kvbm::python
