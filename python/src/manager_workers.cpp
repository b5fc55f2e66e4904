// SPDX-License-Identifier: Apache-2.0
//
// What the manager does with other workers.
#include "manager.hpp"

#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <cstddef>
#include <utility>

namespace kvbm::python {

namespace {

using layout::LayoutHandle;
using remote::SerializedLayout;

void bind_export(Manager& bound) {
  bound
      .def(
          "build_logical_descriptor",
          [](PyManager const& self, LayoutHandle handle, nb::handle tier) {
            return self.get()->build_logical_descriptor(handle, to_tier(tier));
          },
          nb::sig("def build_logical_descriptor(self, handle: LayoutHandle, tier: "
                  "LogicalLayoutHandle | str) -> LogicalLayoutDescriptor"),
          nb::arg("handle"), nb::arg("tier"),
          "What a peer needs to reach a layout of this worker, with the tier that it is.")
      .def(
          "worker_address",
          [](PyManager const& self) {
            auto const manager = self.get();
            GilRelease const unlocked;
            return manager->worker_address();
          },
          "How the wire reaches this worker. UnsupportedError without a NIXL backend, as with all "
          "that concerns other workers.")
      .def(
          "export_metadata",
          [](PyManager const& self, nb::handle handles) {
            auto const manager = self.get();
            if (handles.is_none()) {
              GilRelease const unlocked;
              return manager->export_metadata();
            }
            auto const given = nb::cast<std::vector<LayoutHandle>>(nb::list(nb::borrow(handles)));
            GilRelease const unlocked;
            return manager->export_metadata(given);
          },
          nb::sig("def export_metadata(self, handles: collections.abc.Iterable[LayoutHandle] | "
                  "None = None) -> SerializedLayout"),
          nb::arg("handles") = nb::none(),
          "Everything that peers need to use these layouts; all layouts in memory by default.");
}

void bind_import(Manager& bound) {
  bound
      .def(
          "import_metadata",
          [](PyManager const& self, SerializedLayout const& metadata) {
            auto const manager = self.get();
            GilRelease const unlocked;
            return manager->import_metadata(metadata);
          },
          nb::arg("metadata"),
          "Meets the worker whose metadata this is and returns its id: its handles can be used "
          "like this worker's own. Its memory is mapped where both run on one machine and it "
          "shares it, else reached through NIXL. AlreadyExistsError where it was imported already, "
          "PeerLostError where it has ended.")
      .def(
          "import_metadata",
          [](PyManager const& self, nb::bytes const& metadata) {
            auto const manager = self.get();
            std::span const bytes(reinterpret_cast<std::byte const*>(metadata.c_str()),
                                  metadata.size());
            GilRelease const unlocked;
            return manager->import_metadata(bytes);
          },
          nb::arg("metadata"), "The same from bytes, which are not trusted.")
      .def(
          "unimport_worker",
          [](PyManager const& self, std::uint64_t worker_id) {
            auto const manager = self.get();
            GilRelease const unlocked;
            manager->unimport_worker(worker_id);
          },
          nb::arg("worker_id"),
          "Forgets a worker and its handles; it can be imported again. BusyError while transfers "
          "use its layouts; unknown ones are fine.")
      .def_prop_ro(
          "imported_workers", [](PyManager const& self) { return self.get()->imported_workers(); },
          "Ids of the workers that are imported now.")
      .def_prop_ro(
          "imported_handles", [](PyManager const& self) { return self.get()->imported_handles(); },
          "Handles of all imported layouts, ascending.")
      .def(
          "how_reached",
          [](PyManager const& self, LayoutHandle handle) {
            return to_str(self.get()->how_reached(handle));
          },
          nb::arg("handle"),
          "How an imported layout's memory is reached, in words, and why not better.")
      .def(
          "resolve",
          [](PyManager const& self, std::uint64_t worker_id, nb::handle tier) {
            return self.get()->resolve(worker_id, to_tier(tier));
          },
          nb::sig("def resolve(self, worker_id: int, tier: LogicalLayoutHandle | str) -> "
                  "LayoutHandle"),
          nb::arg("worker_id"), nb::arg("tier"),
          "The layout that a worker, this one or an imported one, has in a tier; the first one if "
          "there are several. NotFoundError naming worker and tier.");
}

}  // namespace

void bind_manager_workers(Manager& bound) {
  bind_export(bound);
  bind_import(bound);
  bound
      .def(
          "subscribe_write_notifications",
          [](PyManager const& self) {
            return make_notices(self.get()->subscribe_write_notifications());
          },
          nb::sig("def subscribe_write_notifications(self) -> WriteNotices"),
          "Starts to receive the write notifications of peers' transfers into this worker's "
          "memory.")
      .def_prop_ro(
          "remote_stats", [](PyManager const& self) { return self.get()->remote_stats(); },
          "Counts of what came from peers since the manager was made.");
}

}  // namespace kvbm::python
