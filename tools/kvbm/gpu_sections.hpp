// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "gpu_case.hpp"
#include "report.hpp"

namespace kvbm::cli {

/// What all sections of the GPU benchmark take.
struct GpuSections {
  GpuLab& lab;
  GpuCaseOptions options;
  std::uint64_t bytes = std::uint64_t{256} << 20U;  ///< moved by one transfer of a rate row
  bool quick = false;
  std::string cublas;                                     ///< path, empty: looked for
  std::function<void(std::string const& line)> progress;  ///< may be empty

  void say(std::string const& line) const {
    if (progress) { progress(line); }
  }
};

/// The cases of goals.md, most important first.
std::vector<GpuCase> core_cases(GpuSections const& sections);
/// Numbers of blocks, orders of ids, page sizes, block-first caches, fp8: after the core ones.
std::vector<GpuCase> sweep_cases(GpuSections const& sections);

/// A row a case: what was chosen, beside the limit and the plain ways.
Table rate_table(std::vector<GpuResult> const& results);
/// Where the choice was not the best candidate, and the share of cases within 5 %.
Table regret_table(std::vector<GpuResult> const& results);
/// A line a way, for spreadsheets.
std::string to_csv(std::vector<GpuResult> const& results);
/// One line about a case as soon as it is measured.
std::string summary_line(GpuResult const& result);

/// One block, from submitting to seen complete, against one plain copy (B3).
Table gpu_latency(GpuSections const& sections, Deadline const& deadline);
/// What submitting costs, against the batch API's own.
Table gpu_submit(GpuSections const& sections, Deadline const& deadline);
/// A GEMM loop beside transfers back to back (B5).
Table gpu_model(GpuSections const& sections, Deadline const& deadline);
/// The permute kernels by name, all widths, against a contiguous copy (B4).
Table gpu_permute(GpuSections const& sections, Deadline const& deadline);
/// Pageable host memory (B2).
Table gpu_pageable(GpuSections const& sections, Deadline const& deadline);
/// The original's grid (B1). @param csv  receives it with a header
Table gpu_grid(GpuSections const& sections, Deadline const& deadline, std::string& csv);

}  // namespace kvbm::cli
