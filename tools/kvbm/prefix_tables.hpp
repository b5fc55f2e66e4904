// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "disk_tables.hpp"
#include "object_server.hpp"
#include "progress.hpp"
#include "report.hpp"

namespace kvbm::cli {

/// What the tables of the prefix store are measured with.
struct PrefixPlan {
  DiskShape shape;
  std::vector<std::string> tiers;        ///< "g1" to "g4"
  std::vector<std::uint64_t> counts;     ///< blocks of one request
  std::filesystem::path folder;          ///< for G3
  ObjectServer const* server = nullptr;  ///< for G4; null: leave it out
  std::uint64_t offload_bytes = std::uint64_t{256} << 20U;
  std::size_t repeat = 200;  ///< requests a case
  double time_limit = 2;     ///< seconds a case
  bool gpu = false;          ///< the engine's blocks are on CUDA device 0, else emulated
  Progress* progress = nullptr;

  void step(std::string const& detail) const {
    if (progress != nullptr) { progress->advance(detail); }
  }
};

/// Onboarding blocks that lie in one tier, in turns with the transfer alone.
Table prefix_hits(PrefixPlan const& plan);
/// Making keys of tokens and looking them up.
Table prefix_lookups(PrefixPlan const& plan);
/// Storing new blocks, write-through and write-back, in turns with the transfer to disk alone.
Table prefix_offloads(PrefixPlan const& plan);

}  // namespace kvbm::cli
