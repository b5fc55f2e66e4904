// SPDX-License-Identifier: Apache-2.0
#include "common.hpp"

#include "kvbm/layout/descriptor.hpp"
#include "kvbm/layout/dims.hpp"
#include "kvbm/layout/view.hpp"
#include "kvbm/memory/block_store.hpp"

#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <optional>
#include <string>
#include <utility>

namespace kvbm::python {

namespace {

using layout::BlockView;
using layout::PhysicalLayout;

void bind_block_view(nb::module_& m) {
  nb::class_<BlockView>(m, "BlockView", nb::is_final(), "Where a block or chunk of a layout is.")
      .def_ro("region", &BlockView::region, "Which of the layout's regions.")
      .def_ro("offset", &BlockView::offset, "Bytes in the region.")
      .def_ro("address", &BlockView::address, "Of the first element; 0 for files.")
      .def_ro("bytes", &BlockView::bytes, "From the first element to behind the last.")
      .def_prop_ro("is_contiguous", [](BlockView const& self) { return self.view.is_contiguous(); })
      .def_prop_ro(
          "dims",
          [](BlockView const& self) {
            nb::list dims;
            for (layout::ViewAxis const& axis : self.view.axes()) {
              dims.append(nb::cast(axis.dim));
            }
            return nb::tuple(dims);
          },
          nb::sig("def dims(self) -> tuple[Dim, ...]"), "Names of the axes.")
      .def_prop_ro(
          "shape",
          [](BlockView const& self) {
            nb::list extents;
            for (layout::ViewAxis const& axis : self.view.axes()) {
              extents.append(axis.extent);
            }
            return nb::tuple(extents);
          },
          nb::sig("def shape(self) -> tuple[int, ...]"))
      .def_prop_ro(
          "strides",
          [](BlockView const& self) {
            nb::list strides;
            for (layout::ViewAxis const& axis : self.view.axes()) {
              strides.append(axis.stride_bytes);
            }
            return nb::tuple(strides);
          },
          nb::sig("def strides(self) -> tuple[int, ...]"), "Bytes, one an axis.");
}

PyLayout open_disk(nb::handle path, bool read_only) {
  auto const names = to_paths(path);
  GilRelease const unlocked;
  return PhysicalLayout::open_disk(
      memory::make_host_memory_source(), names,
      read_only ? memory::OpenMode::ReadOnly : memory::OpenMode::ReadWrite);
}

void bind_store_space(nb::module_& m) {
  using memory::StoreSpace;
  nb::class_<StoreSpace>(m, "StoreSpace", nb::is_final(), "Room that a store takes and has.")
      .def_ro("bytes_allocated", &StoreSpace::bytes_allocated,
              "On its storage, its bookkeeping included; 0: unknown.")
      .def_ro("extents_total", &StoreSpace::extents_total)
      .def_ro("extents_written", &StoreSpace::extents_written)
      .def_ro("extents_torn", &StoreSpace::extents_torn, "Begun and not ended.")
      .def_ro("extents_damaged", &StoreSpace::extents_damaged,
              "As far as it is known without reading them.")
      .def_ro("file_system_free", &StoreSpace::file_system_free, "0 and 0: unknown.")
      .def_ro("file_system_total", &StoreSpace::file_system_total)
      .def("__repr__", [](StoreSpace const& self) {
        return "StoreSpace(bytes_allocated=" + std::to_string(self.bytes_allocated) +
               ", extents_written=" + std::to_string(self.extents_written) + " of " +
               std::to_string(self.extents_total) +
               ", file_system_free=" + std::to_string(self.file_system_free) + ")";
      });
}

void bind_physical_layout(nb::module_& m) {
  nb::class_<PyLayout>(m, "PhysicalLayout", nb::is_final(),
                       "Blocks of one shape, in one format, in one storage. Cheap to copy; its "
                       "memory lives as long as any copy or transfer uses it.")
      .def_static("open_disk", &open_disk,
                  nb::sig("def open_disk(path: str | os.PathLike[str] | "
                          "list[str | os.PathLike[str]] | tuple[str | os.PathLike[str], ...], *, "
                          "read_only: bool = False) -> PhysicalLayout"),
                  nb::arg("path"), nb::kw_only(), nb::arg("read_only") = false,
                  "Reopens what allocate_disk(path) made, several files by the first of them, or "
                  "by all where they have moved; TransferManager.open_disk does so with the "
                  "manager's I/O engine.")
      .def_prop_ro("config", [](PyLayout const& self) { return self->config(); })
      .def_prop_ro("kind", [](PyLayout const& self) { return self->kind(); })
      .def_prop_ro("block_dimension", [](PyLayout const& self) { return self->block_dimension(); })
      .def_prop_ro("format", [](PyLayout const& self) { return self->format(); })
      .def_prop_ro("storage_kind", [](PyLayout const& self) { return self->storage_kind(); })
      .def_prop_ro("device_id", [](PyLayout const& self) { return self->device_id(); })
      .def_prop_ro(
          "regions",
          [](PyLayout const& self) {
            nb::list regions;
            for (memory::Region const& region : self->regions()) {
              regions.append(nb::cast(PyRegion(region)));
            }
            return regions;
          },
          nb::sig("def regions(self) -> list[Region]"), "One (fully contiguous) or one a layer.")
      .def(
          "store_space",
          [](PyLayout const& self) -> std::optional<memory::StoreSpace> {
            auto const store = self->regions().front().store();
            if (store == nullptr) { return std::nullopt; }
            GilRelease const unlocked;
            return store->space();
          },
          nb::sig("def store_space(self) -> StoreSpace | None"),
          "Room that the files of a disk layout take and have; None for memory. Object stores do "
          "not know it.")
      .def(
          "object_store",
          [](PyLayout const& self) { return make_object_store(self->regions().front().store()); },
          nb::sig("def object_store(self) -> ObjectStore | None"),
          "The objects of a layout that allocate_object() made, for blocks by content key; None "
          "for memory and files.")
      .def_prop_ro("extents_per_block",
                   [](PyLayout const& self) { return self->extents_per_block(); })
      .def(
          "chunk_view",
          [](PyLayout const& self, nb::handle block, nb::handle layer, nb::handle outer) {
            return self->chunk_view(to_u64(block, "block"), to_u64(layer, "layer"),
                                    to_u64(outer, "outer"));
          },
          nb::sig("def chunk_view(self, block: int, layer: int, outer: int) -> BlockView"),
          nb::arg("block"), nb::arg("layer"), nb::arg("outer"),
          "Address, size and strides of one (block, layer, outer).")
      .def(
          "block_view",
          [](PyLayout const& self, nb::handle block) {
            return self->block_view(to_u64(block, "block"));
          },
          nb::sig("def block_view(self, block: int) -> BlockView"), nb::arg("block"),
          "The same of a whole block, where one region has it.")
      .def(
          "fingerprint", [](PyLayout const& self) { return self->fingerprint(); },
          "Stable hash of everything that decides which byte means what inside a block.")
      .def(
          "shape_fingerprint", [](PyLayout const& self) { return self->shape_fingerprint(); },
          "Stable hash of the logical tensor: equal ones can be copied into each other.")
      .def(
          "descriptor_json", [](PyLayout const& self) { return self->descriptor().to_json(); },
          "What another process needs to know to address the same bytes.")
      .def(
          "with_format",
          [](PyLayout const& self, layout::KvBlockLayout const& format) {
            return PyLayout(self->with_format(format));
          },
          nb::arg("format"), "The same regions read as another format.")
      .def("__str__", [](PyLayout const& self) { return self->to_string(); })
      .def("__repr__",
           [](PyLayout const& self) { return "PhysicalLayout(" + self->to_string() + ")"; });
}

PyKvBlocks kv_blocks_of(PyLayout const& layout, nb::handle ids,
                        std::optional<layout::KvBlockLayout> const& format) {
  BlockIds const block_ids(ids, "block_ids");
  return transfer::KvBlocks::of(*layout, block_ids.to_vector(), format);
}

void bind_kv_blocks(nb::module_& m) {
  nb::class_<PyKvBlocks>(m, "KvBlocks", nb::is_final(),
                         "Blocks of one layout with, optionally, another reading of their format. "
                         "Immutable; keeps the layout alive.")
      .def_static(
          "of",
          [](PyLayout const& layout, nb::handle ids, layout::KvBlockLayout const* format) {
            return kv_blocks_of(layout, ids,
                                format == nullptr ? std::nullopt : std::optional(*format));
          },
          nb::sig("def of(layout: PhysicalLayout, block_ids: kvbm_cpp._types.BlockIds, "
                  "override_format: "
                  "KvBlockLayout | None = None) -> KvBlocks"),
          nb::arg("layout"), nb::arg("block_ids"), nb::arg("override_format").none() = nb::none(),
          "Blocks of a layout that needs no registration.")
      .def_prop_ro(
          "layout", [](PyKvBlocks const& self) { return PyLayout(self->layout()); },
          "Read in the override's format where there is one.")
      .def_prop_ro(
          "handle",
          [](PyKvBlocks const& self) -> nb::object {
            auto const& handle = self->handle();
            return handle ? nb::cast(*handle) : nb::none();
          },
          nb::sig("def handle(self) -> LayoutHandle | None"), "Where it came from a manager.")
      .def_prop_ro("block_ids", [](PyKvBlocks const& self) { return self->block_ids(); })
      .def_prop_ro(
          "override_format",
          [](PyKvBlocks const& self) -> nb::object {
            auto const& format = self->override_format();
            return format ? nb::cast(*format) : nb::none();
          },
          nb::sig("def override_format(self) -> KvBlockLayout | None"))
      .def(
          "requires_transform_to",
          [](PyKvBlocks const& self, PyKvBlocks const& other) {
            return self->requires_transform_to(*other);
          },
          nb::arg("other"), "Whether bytes would have to be rearranged to go to `other`.")
      .def("__len__", [](PyKvBlocks const& self) { return self->block_ids().size(); });
}

}  // namespace

void bind_layout(nb::module_& m) {
  nb::enum_<layout::LayoutKind>(m, "LayoutKind", "How blocks are spread over regions.")
      .value("FullyContiguous", layout::LayoutKind::FullyContiguous, "one region")
      .value("LayerSeparate", layout::LayoutKind::LayerSeparate, "one region a layer");
  nb::enum_<layout::BlockDimension>(m, "BlockDimension",
                                    "Where the block index stands in a layer's region.")
      .value("First", layout::BlockDimension::First, "[nb, no, chunk]")
      .value("Second", layout::BlockDimension::Second, "[no, nb, chunk]");
  bind_block_view(m);
  bind_store_space(m);
  bind_physical_layout(m);
  bind_kv_blocks(m);
}

}  // namespace kvbm::python
