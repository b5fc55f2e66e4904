// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <CLI/CLI.hpp>

#include <cstdint>
#include <string>
#include <vector>

#include "kvbm/core/types.hpp"
#include "report.hpp"

namespace kvbm::cli {

/// What `bench gpu` and `bench figures --gpu` take.
struct GpuBenchOptions {
  DeviceId device = 0;
  bool emulate = false;
  bool quick = false;
  double minutes = 4;
  std::uint64_t mib = 256;
  std::uint64_t area_mib = 1536;
  std::size_t repeat = 7;
  std::vector<std::string> sections{"rates",   "model",    "latency", "submit",
                                    "permute", "pageable", "sweep",   "grid"};
  std::string only;  ///< cases whose name contains it
  std::string cublas;
  std::string torch;  ///< JSON of bench/transfer/torch_baseline.py
  std::string save;
  std::string csv;
  std::string grid_csv;
  std::string plot;

  void add_to(CLI::App& app);
};

/// Measures and prints; tables at the end, a line a case meanwhile.
int run_gpu_bench(GpuBenchOptions const& options, Output const& output, std::string const& command);

}  // namespace kvbm::cli
