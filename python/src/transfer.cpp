// SPDX-License-Identifier: Apache-2.0
#include "common.hpp"

#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <utility>

namespace kvbm::python {

namespace {

using transfer::Candidate;
using transfer::CopyPlan;
using transfer::Decision;
using transfer::EventSystem;
using transfer::Strategy;
using transfer::TransferExplanation;

void bind_plan(nb::module_& m) {
  nb::enum_<Strategy>(m, "Strategy", "The ways to execute a plan.")
      .value("HostCopy", Strategy::HostCopy, "copy threads, in the caller's call")
      .value("StreamCopy", Strategy::StreamCopy, "copy threads, in the order of a stream")
      .value("DmaCopy", Strategy::DmaCopy, "the GPU's copy engines, one DMA a contiguous run")
      .value("SmCopy", Strategy::SmCopy, "a kernel straight between the two sides")
      .value("StagedDma", Strategy::StagedDma, "a kernel and a ring in HBM, DMA does the rest")
      .value("PinnedStaging", Strategy::PinnedStaging,
             "pageable memory to or from a GPU through pinned staging memory")
      .value("DirectFile", Strategy::DirectFile, "file I/O straight from or into memory")
      .value("StagedFile", Strategy::StagedFile, "file I/O through pinned staging memory")
      .value("DirectStorage", Strategy::DirectStorage,
             "GPUDirect Storage: file I/O straight from and into a GPU's memory")
      .value("DirectRemote", Strategy::DirectRemote,
             "NIXL straight between this worker's memory and the peer's")
      .value("StagedRemote", Strategy::StagedRemote,
             "NIXL between the peer's memory and staging memory here in its order")
      .value("PackedRemote", Strategy::PackedRemote,
             "NIXL between dense images on both sides: the peer helps");
  nb::class_<CopyPlan>(m, "CopyPlan", nb::is_final(),
                       "What is copied: runs of bytes, the same for every block.")
      .def_prop_ro(
          "run_bytes", [](CopyPlan const& self) { return self.shape.run_bytes; },
          "Bytes of one contiguous run.")
      .def_prop_ro("runs_per_block", &CopyPlan::runs_per_block)
      .def_prop_ro("num_segments", &CopyPlan::num_segments)
      .def_ro("bytes_per_block", &CopyPlan::bytes_per_block)
      .def("__str__", &CopyPlan::to_string);
  nb::class_<Candidate>(m, "Candidate", nb::is_final(), "A strategy that was considered.")
      .def_ro("strategy", &Candidate::strategy)
      .def_ro("estimated_seconds", &Candidate::estimated_seconds, "None if refused.")
      .def_ro("reason", &Candidate::reason, "Why refused, or what it does.");
}

void bind_explanation(nb::module_& m) {
  nb::class_<TransferExplanation>(m, "TransferExplanation", nb::is_final(),
                                  "What a transfer would do, and why. str() gives a few lines for "
                                  "people.")
      .def_ro("plan", &TransferExplanation::plan)
      .def_prop_ro("strategy",
                   [](TransferExplanation const& self) { return self.decision.strategy; })
      .def_prop_ro("estimated_seconds",
                   [](TransferExplanation const& self) { return self.decision.estimated_seconds; })
      .def_prop_ro("reason", [](TransferExplanation const& self) { return self.decision.reason; })
      .def_prop_ro("candidates",
                   [](TransferExplanation const& self) { return self.decision.candidates; })
      .def_prop_ro("notes", [](TransferExplanation const& self) { return self.decision.notes; })
      .def_prop_ro("hops", [](TransferExplanation const& self) { return self.hops; })
      .def_ro("num_blocks", &TransferExplanation::num_blocks)
      .def_ro("total_bytes", &TransferExplanation::total_bytes)
      .def("__str__", &TransferExplanation::to_string);
}

void bind_prepared(nb::module_& m) {
  nb::class_<PyPrepared>(m, "PreparedTransfer", nb::is_final(),
                         "A transfer of which only the block ids are missing. Keeps its layouts "
                         "alive; may be submitted from any thread, any number of times.")
      .def(
          "submit",
          [](PyPrepared const& self, nb::handle src_blocks, nb::handle dst_blocks) {
            BlockIds const src(src_blocks, "src_blocks");
            BlockIds const dst(dst_blocks, "dst_blocks");
            GilRelease const unlocked;
            return self->submit(src.span(), dst.span());
          },
          nb::sig("def submit(self, src_blocks: kvbm_cpp._types.BlockIds, dst_blocks: "
                  "kvbm_cpp._types.BlockIds) -> "
                  "TransferCompleteNotification"),
          nb::arg("src_blocks"), nb::arg("dst_blocks"), "Moves src_blocks[i] to dst_blocks[i].")
      .def(
          "explain",
          [](PyPrepared const& self, nb::handle src_blocks, nb::handle dst_blocks) {
            BlockIds const src(src_blocks, "src_blocks");
            BlockIds const dst(dst_blocks, "dst_blocks");
            GilRelease const unlocked;
            return self->explain(src.span(), dst.span());
          },
          nb::sig("def explain(self, src_blocks: kvbm_cpp._types.BlockIds, dst_blocks: "
                  "kvbm_cpp._types.BlockIds) -> "
                  "TransferExplanation"),
          nb::arg("src_blocks"), nb::arg("dst_blocks"), "What submit() would do.")
      .def_prop_ro("plan", [](PyPrepared const& self) { return self->plan(); });
  nb::class_<manager::PlanCacheStats>(
      m, "PlanCacheStats", nb::is_final(),
      "How often execute_transfer and prepare_transfer found their plan ready.")
      .def_ro("hits", &manager::PlanCacheStats::hits)
      .def_ro("misses", &manager::PlanCacheStats::misses)
      .def_ro("entries", &manager::PlanCacheStats::entries, "Kept now.")
      .def_ro("capacity", &manager::PlanCacheStats::capacity, "Kept at most.");
}

void bind_event_system(nb::module_& m) {
  nb::class_<PyEventSystem>(m, "EventSystem", nb::is_final(),
                            "Makes events and runs callbacks on one thread; managers may share it.")
      .def("__init__", [](PyEventSystem* self) { new (self) PyEventSystem(EventSystem::create()); })
      .def_prop_ro(
          "worker_id", [](PyEventSystem const& self) { return (*self)->worker_id(); },
          "Random, unique per event system and process instance.")
      .def(
          "num_pending", [](PyEventSystem const& self) { return (*self)->num_pending(); },
          "Events that are pending.");
}

}  // namespace

void bind_transfer(nb::module_& m) {
  bind_plan(m);
  bind_explanation(m);
  bind_prepared(m);
  bind_event_system(m);
}

}  // namespace kvbm::python
