// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "kvbm/layout/config.hpp"

namespace kvbm::cli {

/// The shape of one model's KV blocks.
struct Workload {
  char const* name;
  std::uint64_t layers;
  std::uint64_t outer;
  std::uint64_t page_size;
  std::uint64_t heads;
  std::uint64_t head_dim;
  std::uint64_t width;  ///< bytes an element
};

/// All named shapes; the fp8 variant of any is its name with "-fp8".
std::span<Workload const> workloads();
/// @throws Error(InvalidArgument) listing the names
Workload find_workload(std::string const& name);
/// "llama3-8b, llama3-70b-tp1, ...".
std::string workload_names();

layout::LayoutConfig make_config(Workload const& workload, std::uint64_t num_blocks,
                                 std::uint64_t alignment);

}  // namespace kvbm::cli
