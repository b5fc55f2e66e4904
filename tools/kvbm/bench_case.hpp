// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>

#include "kvbm/manager/transfer_manager.hpp"
#include "measure.hpp"
#include "report.hpp"
#include "shape.hpp"

namespace kvbm::cli {

/// One combination to measure.
struct BenchCase {
  std::string direction;
  std::string workload;
  Workload shape{};
  Side src;
  Side dst;
  std::uint64_t num_blocks = 0;
  IdOrder ids = IdOrder::Random;
  std::size_t repeat = 9;
  double budget_seconds = 5;
};

/// What came out, beside the limit measured in turns with it.
struct BenchResult {
  std::uint64_t bytes = 0;
  double p50 = 0;  ///< seconds from submitting to done
  double p99 = 0;
  double submit = 0;  ///< seconds of the submitting call, median; of host copies all of it
  double share = 0;   ///< of the limit
  std::string limit;
  std::string strategy;
  std::size_t rounds = 0;
};

/// @param folder  for disk layouts and the raw file
BenchResult run_case(manager::TransferManager& manager, BenchCase const& bench,
                     std::filesystem::path const& folder);

/// "LayerSeparate Second OperationalNHD" in short: "ls2 NHD".
std::string describe(Side const& side);

}  // namespace kvbm::cli
