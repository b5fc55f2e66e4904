// SPDX-License-Identifier: Apache-2.0
#include "manager.hpp"

#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

namespace kvbm::python {

namespace {

using layout::LayoutHandle;

void bind_registry(Manager& bound) {
  bound
      .def_prop_ro(
          "worker_id", [](PyManager const& self) { return self.get()->worker_id(); },
          "Random, unique per event system and process instance.")
      .def(
          "layout_builder",
          [](PyManager const& self) { return make_layout_builder(self.get()->memory_source()); },
          nb::sig("def layout_builder(self) -> PhysicalLayoutBuilder"),
          "Starts a layout on this manager's memory.")
      .def(
          "open_disk",
          [](PyManager const& self, nb::handle path, bool read_only) {
            auto const names = to_paths(path);
            auto const manager = self.get();
            GilRelease const unlocked;
            return PyLayout(layout::PhysicalLayout::open_disk(
                manager->memory_source(), names,
                read_only ? memory::OpenMode::ReadOnly : memory::OpenMode::ReadWrite));
          },
          nb::sig("def open_disk(self, path: str | os.PathLike[str] | "
                  "list[str | os.PathLike[str]] | tuple[str | os.PathLike[str], ...], *, "
                  "read_only: bool = False) -> PhysicalLayout"),
          nb::arg("path"), nb::kw_only(), nb::arg("read_only") = false,
          "Reopens a disk layout: config, kind and format come from its manifest. Any number of "
          "processes may read, one may write.")
      .def(
          "register_layout",
          [](PyManager const& self, PyLayout const& layout) {
            auto const manager = self.get();
            GilRelease const unlocked;
            return manager->register_layout(*layout);
          },
          nb::arg("layout"), "Makes a layout known under a new handle.")
      .def(
          "unregister_layout",
          [](PyManager const& self, LayoutHandle handle) {
            auto const manager = self.get();
            GilRelease const unlocked;
            manager->unregister_layout(handle);
          },
          nb::arg("handle"),
          "Forgets a layout; BusyError while transfers use it. Where its metadata was exported, "
          "the "
          "workers that imported it have to confirm first: BusyError where one does not within "
          "remote_timeout.")
      .def(
          "layout",
          [](PyManager const& self, LayoutHandle handle) {
            return PyLayout(self.get()->layout(handle));
          },
          nb::arg("handle"))
      .def(
          "handles", [](PyManager const& self) { return self.get()->handles(); },
          "Handles of all registered layouts, ascending.")
      .def(
          "blocks",
          [](PyManager const& self, LayoutHandle handle, nb::handle block_ids,
             layout::KvBlockLayout const* format) {
            BlockIds const ids(block_ids, "block_ids");
            return PyKvBlocks(
                self.get()->blocks(handle, ids.to_vector(),
                                   format == nullptr ? std::nullopt : std::optional(*format)));
          },
          nb::sig("def blocks(self, handle: LayoutHandle, block_ids: kvbm_cpp._types.BlockIds, "
                  "override_format: "
                  "KvBlockLayout | None = None) -> KvBlocks"),
          nb::arg("handle"), nb::arg("block_ids"), nb::arg("override_format").none() = nb::none(),
          "Blocks of a registered layout.");
}

transfer::TransferOptions options_or_default(PyOptions const* options) {
  return options == nullptr ? transfer::TransferOptions{} : **options;
}

void bind_transfers(Manager& bound) {
  bound
      .def(
          "execute_transfer",
          [](PyManager const& self, LayoutHandle src, nb::handle src_blocks, LayoutHandle dst,
             nb::handle dst_blocks, PyOptions const* options) {
            BlockIds const from(src_blocks, "src_blocks");
            BlockIds const to(dst_blocks, "dst_blocks");
            auto const manager = self.get();
            GilRelease const unlocked;
            return manager->execute_transfer(src, from.span(), dst, to.span(),
                                             options_or_default(options));
          },
          nb::sig("def execute_transfer(self, src: LayoutHandle, src_blocks: "
                  "kvbm_cpp._types.BlockIds, dst: "
                  "LayoutHandle, dst_blocks: kvbm_cpp._types.BlockIds, options: TransferOptions | "
                  "None = None) -> "
                  "TransferCompleteNotification"),
          nb::arg("src"), nb::arg("src_blocks"), nb::arg("dst"), nb::arg("dst_blocks"),
          nb::arg("options").none() = nb::none(),
          "Moves src_blocks[i] of `src` to dst_blocks[i] of `dst`, changing format, kind and "
          "storage as needed. An array of uint32 ids is read in place: leave it alone until the "
          "call returns.")
      .def(
          "execute_transfer",
          [](PyManager const& self, PyKvBlocks const& src, PyKvBlocks const& dst,
             PyOptions const* options) {
            auto const manager = self.get();
            GilRelease const unlocked;
            return manager->execute_transfer(*src, *dst, options_or_default(options));
          },
          nb::arg("src"), nb::arg("dst"), nb::arg("options").none() = nb::none())
      .def(
          "explain_transfer",
          [](PyManager const& self, LayoutHandle src, nb::handle src_blocks, LayoutHandle dst,
             nb::handle dst_blocks, PyOptions const* options) {
            BlockIds const from(src_blocks, "src_blocks");
            BlockIds const to(dst_blocks, "dst_blocks");
            return self.get()->explain_transfer(src, from.span(), dst, to.span(),
                                                options_or_default(options));
          },
          nb::sig("def explain_transfer(self, src: LayoutHandle, src_blocks: "
                  "kvbm_cpp._types.BlockIds, dst: "
                  "LayoutHandle, dst_blocks: kvbm_cpp._types.BlockIds, options: TransferOptions | "
                  "None = None) -> "
                  "TransferExplanation"),
          nb::arg("src"), nb::arg("src_blocks"), nb::arg("dst"), nb::arg("dst_blocks"),
          nb::arg("options").none() = nb::none(),
          "What execute_transfer would do with the same arguments, and why; moves nothing.")
      .def(
          "explain_transfer",
          [](PyManager const& self, PyKvBlocks const& src, PyKvBlocks const& dst,
             PyOptions const* options) {
            return self.get()->explain_transfer(*src, *dst, options_or_default(options));
          },
          nb::arg("src"), nb::arg("dst"), nb::arg("options").none() = nb::none())
      .def(
          "prepare_transfer",
          [](PyManager const& self, LayoutHandle src, LayoutHandle dst, PyOptions const* options) {
            auto const manager = self.get();
            GilRelease const unlocked;
            return PyPrepared(manager->prepare_transfer(src, dst, options_or_default(options)));
          },
          nb::arg("src"), nb::arg("dst"), nb::arg("options").none() = nb::none(),
          "Does everything but the block ids once.");
}

void bind_integrity(Manager& bound) {
  bound
      .def(
          "block_checksums",
          [](PyManager const& self, LayoutHandle handle, nb::handle block_ids) {
            BlockIds const ids(block_ids, "block_ids");
            auto const manager = self.get();
            GilRelease const unlocked;
            return manager->block_checksums(handle, ids.span());
          },
          nb::sig("def block_checksums(self, handle: LayoutHandle, block_ids: "
                  "kvbm_cpp._types.BlockIds) -> "
                  "list[Checksum]"),
          nb::arg("handle"), nb::arg("block_ids"),
          "XXH3-128 of each block's logical tensor: equal tensors have equal checksums, whatever "
          "the format, kind and storage.")
      .def(
          "layer_checksums",
          [](PyManager const& self, LayoutHandle handle, nb::handle block_ids) {
            BlockIds const ids(block_ids, "block_ids");
            auto const manager = self.get();
            std::vector<Checksum> flat;
            {
              GilRelease const unlocked;
              flat = manager->layer_checksums(handle, ids.span());
            }
            nb::list blocks;
            std::size_t const count = ids.span().size();
            std::size_t const layers = count == 0 ? 0 : flat.size() / count;
            for (std::size_t block = 0; block < count; ++block) {
              auto const first = flat.begin() + static_cast<std::ptrdiff_t>(block * layers);
              blocks.append(nb::cast(
                  std::vector<Checksum>(first, first + static_cast<std::ptrdiff_t>(layers))));
            }
            return blocks;
          },
          nb::sig("def layer_checksums(self, handle: LayoutHandle, block_ids: "
                  "kvbm_cpp._types.BlockIds) -> "
                  "list[list[Checksum]]"),
          nb::arg("handle"), nb::arg("block_ids"), "The same per layer: [block][layer].")
      .def(
          "fill_blocks",
          [](PyManager const& self, LayoutHandle handle, nb::handle block_ids,
             transfer::FillPattern const& pattern) {
            BlockIds const ids(block_ids, "block_ids");
            auto const manager = self.get();
            GilRelease const unlocked;
            manager->fill_blocks(handle, ids.span(), pattern);
          },
          nb::sig("def fill_blocks(self, handle: LayoutHandle, block_ids: "
                  "kvbm_cpp._types.BlockIds, pattern: "
                  "FillPattern) -> None"),
          nb::arg("handle"), nb::arg("block_ids"), nb::arg("pattern"),
          "Writes the pattern into whole blocks.")
      .def(
          "sync",
          [](PyManager const& self, LayoutHandle handle) {
            auto const manager = self.get();
            GilRelease const unlocked;
            manager->sync(handle);
          },
          nb::arg("handle"), "Makes a disk layout's written blocks survive power loss.");
}

void bind_context(Manager& bound) {
  bound
      .def(
          "device",
          [](PyManager const& self, DeviceId id) {
            return PyDevice(self.get()->context().device(id));
          },
          nb::arg("id") = 0)
      .def_prop_ro(
          "devices",
          [](PyManager const& self) {
            nb::list devices;
            for (device::DevicePtr const& device : self.get()->context().devices()) {
              devices.append(nb::cast(PyDevice(device)));
            }
            return devices;
          },
          nb::sig("def devices(self) -> list[Device]"))
      .def(
          "acquire_h2d_stream",
          [](PyManager const& self) {
            return PyStream(self.get()->context().acquire_h2d_stream());
          },
          "The next stream of the pool, round robin; shared with the transfers that use the pool. "
          "torch.cuda.ExternalStream(stream.cuda_stream) computes on it. It lives as long as the "
          "manager or the returned object.")
      .def("acquire_d2h_stream",
           [](PyManager const& self) {
             return PyStream(self.get()->context().acquire_d2h_stream());
           })
      .def("acquire_d2d_stream",
           [](PyManager const& self) {
             return PyStream(self.get()->context().acquire_d2d_stream());
           })
      .def_prop_ro("memory_pool_stats",
                   [](PyManager const& self) { return self.get()->context().memory_pool_stats(); })
      .def_prop_ro(
          "plan_cache_stats", [](PyManager const& self) { return self.get()->plan_cache_stats(); },
          "How often execute_transfer and prepare_transfer found their plan ready.")
      .def_prop_ro(
          "copy_threads",
          [](PyManager const& self) { return self.get()->context().copy_engine().num_threads(); })
      .def_prop_ro("event_system", [](PyManager const& self) {
        return PyEventSystem(self.get()->context().event_system());
      });
}

}  // namespace

void bind_manager(nb::module_& m) {
  nb::enum_<memory::DiskEngine>(m, "DiskEngine", "Which engine moves bytes to and from files.")
      .value("Auto", memory::DiskEngine::Auto, "io_uring where the kernel allows it")
      .value("IoUring", memory::DiskEngine::IoUring)
      .value("Threads", memory::DiskEngine::Threads, "pread and pwrite");
  Manager bound(m, "TransferManager", nb::is_final(),
                "The one door: registers layouts and moves blocks between them. All methods may "
                "be called from any thread. A context manager: leaving it closes it.");
  bind_manager_lifecycle(bound);
  bind_registry(bound);
  bind_transfers(bound);
  bind_integrity(bound);
  bind_context(bound);
  bind_manager_workers(bound);
  bind_manager_metrics(bound);
}

}  // namespace kvbm::python
