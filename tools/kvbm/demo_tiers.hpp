// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <nlohmann/json.hpp>

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "kvbm/manager/transfer_manager.hpp"
#include "report.hpp"
#include "workload.hpp"

namespace kvbm::cli {

/// What the demo's two processes agree on.
struct DemoPlan {
  Workload workload{};
  std::uint64_t num_blocks = 0;
  std::filesystem::path file;  ///< the G3 layout
  std::uint64_t ranks = 1;     ///< tensor-parallel readers
  std::uint64_t rounds = 3;    ///< how often hops and limits are measured
  bool corrupt = false;
  bool gpu = false;  ///< G1 in the memory of CUDA device 0, else of emulated devices
};

/// One hop as it was measured, beside the limit of the same run.
struct Hop {
  std::string name;
  std::uint64_t blocks = 0;
  std::uint64_t bytes = 0;
  double seconds = 0;  ///< median
  double share = 0;    ///< of the limit
  std::string limit;   ///< what it was compared with
};
void to_json(nlohmann::json& json, Hop const& hop);
void from_json(nlohmann::json const& json, Hop& hop);

/// A manager with a device for each rank (a GPU is shared by all), and what the limits are measured
/// with.
class DemoTiers {
 public:
  explicit DemoTiers(DemoPlan const& plan);

  [[nodiscard]] manager::TransferManager& manager() noexcept { return manager_; }
  [[nodiscard]] std::vector<BlockId> const& ids() const noexcept { return ids_; }

  /// The engine's cache: layer separate, block second, NHD, on device 0.
  layout::LayoutHandle add_g1();
  /// Pinned, fully contiguous, UniversalTP.
  layout::LayoutHandle add_g2();
  /// The blocks of a layout where the CPU can look at them: itself, or a copy of the same kind and
  /// format in ordinary memory.
  layout::PhysicalLayout readable(layout::LayoutHandle handle, std::vector<BlockId> const& ids);
  /// Overwrites a layout, so that nothing that is found in it later can be old.
  void wipe(layout::LayoutHandle handle);

  /// Moves `ids` of src to the same ids of dst, `rounds` times in turns with the limit.
  /// @param disk  compare with raw disk I/O ("write" or "read"), else with a STREAM-style copy, of
  /// a
  ///              GPU with one contiguous copy over its link
  Hop measure(std::string const& name, layout::LayoutHandle src, layout::LayoutHandle dst,
              std::vector<BlockId> const& ids, std::string const& disk = {});

 private:
  DemoPlan plan_;
  manager::TransferManager manager_;
  std::vector<BlockId> ids_;
};

/// The process that finds only the file: onboards and proves it. Used by the hidden verb.
/// @return {hops, checksums, failed, tp}
nlohmann::json run_onboard(DemoPlan const& plan);

/// The demo with two workers, demo_workers.cpp. @return the exit code
int run_demo_workers(DemoPlan const& plan, std::string const& workload, std::string const& device,
                     Output const& output);

}  // namespace kvbm::cli
