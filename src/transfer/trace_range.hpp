// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "transfer/prepared_state.hpp"

namespace kvbm::transfer {

/// A range on this thread's line of a profiler's timeline, named "<what> <strategy> <route>", in
/// the domain kvbm. NVTX in a build with CUDA, where it costs a comparison while no tool is
/// attached; nothing in others.
#if KVBM_HAVE_CUDA
class TraceRange {
 public:
  /// @param what  "submit", ...
  TraceRange(char const* what, Strategy strategy, PreparedTransfer::State const& state) noexcept;
  ~TraceRange();
  TraceRange(TraceRange const&) = delete;
  TraceRange& operator=(TraceRange const&) = delete;

 private:
  bool is_open_ = false;
};
#else
class TraceRange {
 public:
  TraceRange(char const* /*what*/, Strategy /*strategy*/,
             PreparedTransfer::State const& /*state*/) noexcept {}
  ~TraceRange() {}  // not trivial, so that no compiler calls it unused
  TraceRange(TraceRange const&) = delete;
  TraceRange& operator=(TraceRange const&) = delete;
};
#endif

}  // namespace kvbm::transfer
