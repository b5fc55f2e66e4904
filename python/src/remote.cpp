// SPDX-License-Identifier: Apache-2.0
#include "common.hpp"

#include "kvbm/remote/metadata.hpp"
#include "kvbm/remote/nixl_library.hpp"
#include "kvbm/remote/notices.hpp"
#include "kvbm/remote/resharding.hpp"
#include "kvbm/remote/tier.hpp"

#include <nanobind/operators.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <cstddef>
#include <string>
#include <utility>

namespace kvbm::python {

namespace {

using remote::HeadTransfer;
using remote::LogicalLayoutDescriptor;
using remote::LogicalLayoutHandle;
using remote::NixlLibraryInfo;
using remote::RemoteStats;
using remote::SerializedLayout;
using remote::WorkerAddress;

nb::bytes to_py_bytes(std::vector<std::byte> const& bytes) {
  return nb::bytes(reinterpret_cast<char const*>(bytes.data()), bytes.size());
}

std::span<std::byte const> as_span(nb::bytes const& bytes) {
  return {reinterpret_cast<std::byte const*>(bytes.c_str()), bytes.size()};
}

template <typename Blob>
nb::bytes serialize(Blob const& value) {
  std::vector<std::byte> bytes;
  {
    GilRelease const unlocked;
    bytes = value.to_bytes();
  }
  return to_py_bytes(bytes);
}

template <typename Blob>
Blob deserialize(nb::bytes const& bytes) {
  auto const given = as_span(bytes);
  GilRelease const unlocked;
  return Blob::from_bytes(given);
}

void bind_tier(nb::module_& m) {
  nb::enum_<LogicalLayoutHandle>(
      m, "LogicalLayoutHandle",
      "The place of a layout in the hierarchy of tiers, the same name on every worker.")
      .value("G1", LogicalLayoutHandle::G1, "device memory")
      .value("G2", LogicalLayoutHandle::G2, "host memory")
      .value("G3", LogicalLayoutHandle::G3, "local disk")
      .value("G4", LogicalLayoutHandle::G4, "object store");
  m.def("tier_of", &remote::tier_of, nb::arg("kind"),
        "The tier that a kind of storage belongs to.");
}

void bind_descriptor(nb::module_& m) {
  nb::class_<LogicalLayoutDescriptor>(
      m, "LogicalLayoutDescriptor", nb::is_final(),
      "One layout of a worker: what it is, where it lies, and what it is for.")
      .def_ro("handle", &LogicalLayoutDescriptor::handle)
      .def_ro("tier", &LogicalLayoutDescriptor::tier)
      .def_ro("is_gpu", &LogicalLayoutDescriptor::is_gpu,
              "Device memory that only a GPU's engines reach, not the emulated kind.")
      .def_prop_ro("config", [](LogicalLayoutDescriptor const& self) { return self.layout.config; })
      .def_prop_ro("kind", [](LogicalLayoutDescriptor const& self) { return self.layout.kind; })
      .def_prop_ro("format", [](LogicalLayoutDescriptor const& self) { return self.layout.format; })
      .def_prop_ro(
          "regions",
          [](LogicalLayoutDescriptor const& self) {
            nb::list regions;
            for (auto const& region : self.layout.regions) {
              regions.append(nb::make_tuple(region.address, region.bytes));
            }
            return regions;
          },
          nb::sig("def regions(self) -> list[tuple[int, int]]"),
          "Address in the worker, and bytes, of each region.")
      .def_prop_ro(
          "is_shared", [](LogicalLayoutDescriptor const& self) { return !self.shared.empty(); },
          "Whether processes of the same machine can map it.")
      .def(nb::self == nb::self, nb::sig("def __eq__(self, other: object, /) -> bool"))
      .def("__repr__", [](LogicalLayoutDescriptor const& self) {
        return "LogicalLayoutDescriptor(" + to_string(self.handle) + ", " +
               std::string(remote::to_string(self.tier)) + ")";
      });
}

void bind_metadata(nb::module_& m) {
  nb::class_<WorkerAddress>(m, "WorkerAddress", nb::is_final(), "How the wire reaches a worker.")
      .def_ro("agent_name", &WorkerAddress::agent_name)
      .def_prop_ro(
          "nixl_metadata",
          [](WorkerAddress const& self) { return to_py_bytes(self.nixl_metadata); },
          "What NIXL's agent of that name says about itself.")
      .def("to_bytes", &serialize<WorkerAddress>, "A versioned and checksummed blob.")
      .def_static("from_bytes", &deserialize<WorkerAddress>, nb::arg("data"),
                  "Reads what to_bytes wrote; the bytes are not trusted.")
      .def(nb::self == nb::self, nb::sig("def __eq__(self, other: object, /) -> bool"))
      .def("__repr__", [](WorkerAddress const& self) {
        return "WorkerAddress(" + self.agent_name + ", " +
               std::to_string(self.nixl_metadata.size()) + " bytes)";
      });
  nb::class_<SerializedLayout>(m, "SerializedLayout", nb::is_final(),
                               "Everything that a peer needs to address the layouts of one worker.")
      .def_ro("worker_id", &SerializedLayout::worker_id)
      .def_ro("address", &SerializedLayout::address)
      .def_ro("layouts", &SerializedLayout::layouts)
      .def_prop_ro(
          "landing_bytes",
          [](SerializedLayout const& self) { return self.landing ? self.landing->bytes : 0; },
          "Memory that the worker lends to peers.")
      .def("to_bytes", &serialize<SerializedLayout>,
           "A versioned and checksummed blob; equal values give equal bytes.")
      .def_static("from_bytes", &deserialize<SerializedLayout>, nb::arg("data"),
                  "Reads what to_bytes wrote; the bytes are not trusted. VersionMismatchError, "
                  "CorruptError naming the field and what is wrong with it.")
      .def(
          "to_json", [](SerializedLayout const& self) { return to_str(self.to_json()); },
          nb::sig("def to_json(self) -> str"),
          "For people; what NIXL says as its length and checksum.")
      .def(nb::self == nb::self, nb::sig("def __eq__(self, other: object, /) -> bool"))
      .def("__repr__", [](SerializedLayout const& self) {
        return "SerializedLayout(worker_id=" + std::to_string(self.worker_id) + ", " +
               std::to_string(self.layouts.size()) + " layouts)";
      });
}

void bind_resharding(nb::module_& m) {
  nb::class_<HeadTransfer>(
      m, "HeadTransfer", nb::is_final(),
      "What one rank of the source sends to one rank of the destination. Ranges count heads from "
      "the first one that the rank itself holds, as src_head_range and dst_head_range do; None for "
      "MLA: the whole block.")
      .def_ro("src_rank", &HeadTransfer::src_rank)
      .def_ro("dst_rank", &HeadTransfer::dst_rank)
      .def_prop_ro(
          "src_heads",
          [](HeadTransfer const& self) {
            return self.src_heads.begin == self.src_heads.end ? nb::object(nb::none())
                                                              : from_range(self.src_heads);
          },
          nb::sig("def src_heads(self) -> range | None"))
      .def_prop_ro(
          "dst_heads",
          [](HeadTransfer const& self) {
            return self.dst_heads.begin == self.dst_heads.end ? nb::object(nb::none())
                                                              : from_range(self.dst_heads);
          },
          nb::sig("def dst_heads(self) -> range | None"))
      .def(nb::self == nb::self, nb::sig("def __eq__(self, other: object, /) -> bool"))
      .def("__repr__", [](HeadTransfer const& self) {
        return "HeadTransfer(rank " + std::to_string(self.src_rank) + " heads [" +
               std::to_string(self.src_heads.begin) + ", " + std::to_string(self.src_heads.end) +
               ") -> rank " + std::to_string(self.dst_rank) + " heads [" +
               std::to_string(self.dst_heads.begin) + ", " + std::to_string(self.dst_heads.end) +
               "))";
      });
  m.def(
      "plan_resharding",
      [](nb::handle total_heads, nb::handle src_tp, nb::handle dst_tp) {
        return remote::plan_resharding(to_u64(total_heads, "total_heads"),
                                       to_unsigned(src_tp, "src_tp"),
                                       to_unsigned(dst_tp, "dst_tp"));
      },
      nb::sig("def plan_resharding(total_heads: int, src_tp: int, dst_tp: int) -> "
              "list[HeadTransfer]"),
      nb::arg("total_heads"), nb::arg("src_tp"), nb::arg("dst_tp"),
      "Who sends which heads to whom when src_tp ranks hold what dst_tp ranks shall get. Every "
      "head "
      "of every destination rank is sent to it exactly once; total_heads 0 means MLA. Ordered by "
      "dst_rank, then by dst_heads.");
  m.def(
      "transfers_from",
      [](std::vector<HeadTransfer> const& plan, nb::handle src_rank) {
        return remote::transfers_from(plan, to_unsigned(src_rank, "src_rank"));
      },
      nb::sig("def transfers_from(plan: collections.abc.Sequence[HeadTransfer], src_rank: int) -> "
              "list[HeadTransfer]"),
      nb::arg("plan"), nb::arg("src_rank"), "Those that this rank sends, in their order.");
  m.def(
      "transfers_to",
      [](std::vector<HeadTransfer> const& plan, nb::handle dst_rank) {
        return remote::transfers_to(plan, to_unsigned(dst_rank, "dst_rank"));
      },
      nb::sig("def transfers_to(plan: collections.abc.Sequence[HeadTransfer], dst_rank: int) -> "
              "list[HeadTransfer]"),
      nb::arg("plan"), nb::arg("dst_rank"), "Those that this rank receives, in their order.");
  m.def(
      "heads_of_rank",
      [](nb::handle total_heads, nb::handle tp, nb::handle rank) {
        return from_range(remote::heads_of_rank(to_u64(total_heads, "total_heads"),
                                                to_unsigned(tp, "tp"), to_unsigned(rank, "rank")));
      },
      nb::sig("def heads_of_rank(total_heads: int, tp: int, rank: int) -> range"),
      nb::arg("total_heads"), nb::arg("tp"), nb::arg("rank"),
      "Heads, counted over the whole model, that `rank` of `tp` holds.");
}

void bind_nixl(nb::module_& m) {
  nb::class_<NixlLibraryInfo>(m, "NixlLibraryInfo", nb::is_final(),
                              "A NIXL that lies on this machine.")
      .def_prop_ro(
          "path",
          [](NixlLibraryInfo const& self) {
            return nb::module_::import_("pathlib").attr("Path")(to_str(self.path.native()));
          },
          nb::sig("def path(self) -> pathlib.Path"), "Of libnixl_capi.so.")
      .def_ro("version", &NixlLibraryInfo::version,
              "Of the package that it came with; empty: unknown.")
      .def_ro("plugins", &NixlLibraryInfo::plugins,
              "Names of its backends' files: present, not tried.")
      .def("__repr__", [](NixlLibraryInfo const& self) {
        return to_str("NixlLibraryInfo(" + self.path.native() + ", " + self.version + ")");
      });
  m.def(
      "find_nixl",
      [](nb::handle library, nb::handle prefixes) {
        remote::NixlSearch search;
        if (!library.is_none()) { search.library = to_path(library); }
        for (nb::handle const prefix : nb::iter(prefixes)) {
          search.prefixes.emplace_back(to_path(prefix));
        }
        GilRelease const unlocked;
        return remote::find_nixl(search);
      },
      nb::sig("def find_nixl(library: str | os.PathLike[str] | None = None, *, prefixes: "
              "collections.abc.Iterable[str | os.PathLike[str]] = ()) -> NixlLibraryInfo"),
      nb::arg("library") = nb::none(), nb::kw_only(), nb::arg("prefixes") = nb::tuple(),
      "Finds NIXL without loading it: `library` itself; KVBM_NIXL_LIBRARY; the wheels nixl-cu13 "
      "and "
      "nixl-cu12 in `prefixes`, in VIRTUAL_ENV and in this Python environment; the system's. "
      "UnsupportedError says where it looked and how to get one.");
}

void bind_stats(nb::module_& m) {
  nb::class_<RemoteStats>(m, "RemoteStats", nb::is_final(), "Counts since the worker started.")
      .def_ro("notifications", &RemoteStats::notifications, "Write notifications received.")
      .def_ro("undelivered", &RemoteStats::undelivered,
              "Of these, dropped because nobody ever subscribed.")
      .def_ro("foreign_messages", &RemoteStats::foreign_messages,
              "Ignored: not kvbm's, damaged, or of unknown workers.")
      .def_ro("duplicate_messages", &RemoteStats::duplicate_messages, "Ignored: came before.")
      .def_ro("images", &RemoteStats::images, "Copied for peers.")
      .def_ro("workers", &RemoteStats::workers, "That this one has imported, now.")
      .def_ro("importers", &RemoteStats::importers, "That have imported this one, now.")
      .def_ro("landing_bytes_lent", &RemoteStats::landing_bytes_lent, "Now.");
}

}  // namespace

LogicalLayoutHandle to_tier(nb::handle value) {
  return nb::isinstance<nb::str>(value) ? remote::tier_from_string(nb::cast<std::string>(value))
                                        : nb::cast<LogicalLayoutHandle>(value);
}

void bind_remote(nb::module_& m) {
  bind_tier(m);
  bind_descriptor(m);
  bind_metadata(m);
  bind_resharding(m);
  bind_nixl(m);
  bind_stats(m);
}

}  // namespace kvbm::python
