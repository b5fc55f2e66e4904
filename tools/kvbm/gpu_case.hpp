// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <nlohmann/json.hpp>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "gpu_lab.hpp"

namespace kvbm::cli {

/// What moves.
enum class GpuRoute {
  H2D,
  D2H,
  Both,  ///< the two at once
  D2D,
};
/// "h2d", "d2h", "both", "d2d".
char const* to_string(GpuRoute route) noexcept;

/// How the other side keeps the blocks that the GPU keeps layer separate, NHD.
enum class FarSide {
  Contiguous,  ///< fully contiguous NHD
  Universal,   ///< fully contiguous UniversalTP: every transfer permutes
  Scattered,   ///< layer separate too
};
/// "contiguous", "universal", "scattered".
char const* to_string(FarSide far) noexcept;

/// One combination to measure.
struct GpuCase {
  GpuRoute route = GpuRoute::D2H;
  std::string workload;
  Workload shape{};
  FarSide far = FarSide::Contiguous;
  /// Of the GPU's side; "fc" where it is fully contiguous (the original's benchmark).
  std::string gpu_kind = "ls2";
  IdOrder ids = IdOrder::Random;
  std::uint64_t blocks = 0;
  bool baselines = true;

  [[nodiscard]] std::string name() const;
};

/// One way to do it, measured.
struct GpuWay {
  std::string name;      ///< "kvbm", "cudaMemcpyAsync each", ...
  std::string strategy;  ///< of kvbm: forced, or chosen where automatic
  bool automatic = false;
  bool spare_sms = false;
  bool verified = false;  ///< the bytes were compared
  std::string skipped;    ///< why not measured
  std::uint64_t bytes = 0;
  Samples wall;             ///< seconds, submitting to seen complete
  Samples submit_prepared;  ///< seconds of PreparedTransfer::submit
  Samples submit_fresh;     ///< seconds of execute_transfer
  Samples cpu;              ///< CPU seconds of the process
  [[nodiscard]] bool is_kvbm() const { return name == "kvbm"; }
  [[nodiscard]] bool measured() const { return wall.size() > 0; }
  [[nodiscard]] double rate() const { return static_cast<double>(bytes) / wall.median(); }
  [[nodiscard]] double best_rate() const { return static_cast<double>(bytes) / wall.best(); }
};

/// All ways of one case, measured in turns.
struct GpuResult {
  GpuCase what;
  std::uint64_t bytes = 0;
  std::uint64_t run_bytes = 0;
  Samples limit;  ///< seconds of the contiguous copy of as many bytes
  std::vector<GpuWay> ways;

  [[nodiscard]] double limit_rate() const { return static_cast<double>(bytes) / limit.median(); }
  /// The automatic choice. @param spare_sms  with Spare::SpareSms
  [[nodiscard]] GpuWay const* automatic(bool spare_sms) const;
  /// The quickest forced strategy that was measured.
  [[nodiscard]] GpuWay const* best_candidate() const;
  [[nodiscard]] GpuWay const* named(std::string const& name) const;
  /// How much slower the automatic choice is than the best candidate: 0.05 = 5 %.
  [[nodiscard]] std::optional<double> regret() const;
};
nlohmann::json to_json(GpuResult const& result);

struct GpuCaseOptions {
  std::size_t repeat = 7;
  double way_seconds = 0.12;  ///< after this much, no further round of a way
  std::size_t verified_blocks = 32;
  bool candidates = true;  ///< false: only what is chosen, with Spare::Fastest
};

/// Blocks of this workload that make about `bytes` and fit into half an area; within HBM there is
/// more room, and more has to move for the fixed part not to count: half of what is there.
std::uint64_t blocks_for(GpuLab const& lab, Workload const& shape, GpuRoute route,
                         std::uint64_t bytes);
/// Whether the lab's areas are large enough.
bool fits(GpuLab const& lab, GpuCase const& what);
/// @throws Error(Corrupt) where bytes differ after a transfer
GpuResult run_gpu_case(GpuLab& lab, GpuCase const& what, GpuCaseOptions const& options);

}  // namespace kvbm::cli
