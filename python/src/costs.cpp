// SPDX-License-Identifier: Apache-2.0
#include "common.hpp"

#include "kvbm/transfer/cost_store.hpp"

#include <nanobind/operators.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <string>

namespace kvbm::python {

namespace {

using transfer::CostModel;
using transfer::GpuCosts;
using transfer::LinkCosts;
using transfer::LinkDirection;
using transfer::PathCosts;
using transfer::RatePoint;

void bind_rates(nb::module_& m) {
  nb::class_<RatePoint>(m, "RatePoint", nb::is_final(),
                        "A rate that was measured at one length of contiguous runs.")
      .def(
          "__init__",
          [](RatePoint* self, nb::handle run_bytes, double bytes_per_second) {
            new (self) RatePoint{to_u64(run_bytes, "run_bytes"), bytes_per_second};
          },
          nb::sig("def __init__(self, run_bytes: int, bytes_per_second: float) -> None"),
          nb::arg("run_bytes"), nb::arg("bytes_per_second"))
      .def_ro("run_bytes", &RatePoint::run_bytes)
      .def_ro("bytes_per_second", &RatePoint::bytes_per_second)
      .def(nb::self == nb::self, nb::sig("def __eq__(self, other: object, /) -> bool"))
      .def("__repr__", [](RatePoint const& self) {
        return "RatePoint(" + std::to_string(self.run_bytes) + ", " +
               nb::repr(nb::float_(self.bytes_per_second)).c_str() + ")";
      });
  nb::class_<PathCosts>(m, "PathCosts", nb::is_final(),
                        "What one way of a GPU costs: a fixed part, and a rate that depends on the "
                        "run length.")
      .def(nb::init<>())
      .def_rw("latency", &PathCosts::latency, "Seconds of a tiny transfer.")
      .def_prop_rw(
          "rates", [](PathCosts const& self) { return self.rates; },
          [](PathCosts& self, std::vector<RatePoint> rates) { self.rates = std::move(rates); },
          "Ascending run lengths, at least one point. A copy: assign the whole list.")
      .def(
          "rate", &PathCosts::rate, nb::arg("run_bytes"),
          "Bytes per second at a run length: interpolated in logarithms, constant beyond the ends.")
      .def(nb::self == nb::self, nb::sig("def __eq__(self, other: object, /) -> bool"));
}

void bind_gpu_costs(nb::module_& m) {
  nb::enum_<LinkDirection>(m, "LinkDirection", "Which way bytes cross a GPU's link.")
      .value("HostToDevice", LinkDirection::HostToDevice)
      .value("DeviceToHost", LinkDirection::DeviceToHost)
      .value("DeviceToDevice", LinkDirection::DeviceToDevice);
  nb::class_<LinkCosts>(m, "LinkCosts", nb::is_final(), "The ways in one direction of a link.")
      .def(nb::init<>())
      .def_rw("dma", &LinkCosts::dma, "By length of the runs that the copy engines move.")
      .def_rw("sm", &LinkCosts::sm, "A kernel straight between both sides, by run length.")
      .def_rw("gather", &LinkCosts::gather,
              "A kernel between blocks and the ring in HBM, by run length.")
      .def(nb::self == nb::self, nb::sig("def __eq__(self, other: object, /) -> bool"));
  nb::class_<GpuCosts>(m, "GpuCosts", nb::is_final(),
                       "What a GPU and its link do; the defaults are those of an H200.")
      .def(nb::init<>())
      .def_rw("h2d", &GpuCosts::h2d)
      .def_rw("d2h", &GpuCosts::d2h)
      .def_rw("d2d", &GpuCosts::d2d)
      .def(
          "__getitem__",
          [](GpuCosts& self, LinkDirection direction) -> LinkCosts& { return self[direction]; },
          nb::rv_policy::reference_internal, nb::arg("direction"))
      .def(nb::self == nb::self, nb::sig("def __eq__(self, other: object, /) -> bool"));
}

}  // namespace

void bind_costs(nb::module_& m) {
  bind_rates(m);
  bind_gpu_costs(m);
  nb::class_<CostModel>(m, "CostModel", nb::is_final(),
                        "Rates in bytes per second and latencies in seconds that estimates are "
                        "made from.")
      .def(nb::init<>())
      .def_rw("host_copy_rate", &CostModel::host_copy_rate)
      .def_rw("host_permute_rate", &CostModel::host_permute_rate)
      .def_rw("host_element_rate", &CostModel::host_element_rate)
      .def_rw("disk_read_rate", &CostModel::disk_read_rate)
      .def_rw("disk_write_rate", &CostModel::disk_write_rate)
      .def_rw("stream_latency", &CostModel::stream_latency)
      .def_rw("disk_latency", &CostModel::disk_latency)
      .def_rw("gpu", &CostModel::gpu)
      .def_static(
          "load",
          [](PyDevice const& device) -> nb::object {
            std::optional<CostModel> costs;
            {
              GilRelease const unlocked;
              costs = transfer::load_cost_model((*device)->properties());
            }
            return costs ? nb::cast(*costs) : nb::none();
          },
          nb::sig("def load(device: Device) -> CostModel | None"), nb::arg("device"),
          "The costs that `kvbm tune` or save() kept for this device with this driver. A manager "
          "on a GPU takes them by itself where it is given no cost_model.")
      .def(
          "save",
          [](CostModel const& self, PyDevice const& device) {
            std::filesystem::path path;
            {
              GilRelease const unlocked;
              path = transfer::save_cost_model((*device)->properties(), self);
            }
            return to_str(path.native());
          },
          nb::sig("def save(self, device: Device) -> str"), nb::arg("device"),
          "Keeps them for later processes; returns the file, below XDG_CACHE_HOME or ~/.cache.");
}

}  // namespace kvbm::python
