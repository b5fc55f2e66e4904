// SPDX-License-Identifier: Apache-2.0
#include "workload.hpp"

#include <fmt/format.h>

#include <array>

#include "kvbm/core/checked.hpp"
#include "kvbm/core/error.hpp"

namespace kvbm::cli {

std::span<Workload const> workloads() {
  static constexpr std::array<Workload, 10> kWorkloads{{
      {"llama3-8b", 32, 2, 16, 8, 128, 2},
      {"llama3-70b-tp1", 80, 2, 16, 8, 128, 2},
      {"llama3-70b-tp8", 80, 2, 16, 1, 128, 2},
      {"llama3.2-1b", 16, 2, 16, 8, 64, 2},
      {"qwen3-30b-a3b", 48, 2, 16, 4, 128, 2},
      {"gpt-oss-120b", 36, 2, 16, 8, 64, 2},
      {"qwen3-32b-tp4", 64, 2, 16, 2, 128, 2},
      {"deepseek-v3-mla", 61, 1, 64, 1, 576, 2},
      {"deepseek-v3-mla-fp8", 61, 1, 64, 1, 656, 1},
      {"smollm2-135m", 30, 2, 16, 3, 64, 2},
  }};
  return kWorkloads;
}

std::string workload_names() {
  std::string names;
  for (auto const& workload : workloads()) {
    names += (names.empty() ? "" : ", ") + std::string(workload.name);
  }
  return names;
}

Workload find_workload(std::string const& name) {
  for (auto const& workload : workloads()) {
    if (name == workload.name) { return workload; }
  }
  for (auto workload : workloads()) {
    if (name == fmt::format("{}-fp8", workload.name)) {
      workload.width = 1;
      return workload;
    }
  }
  throw Error(ErrorCode::InvalidArgument,
              fmt::format("unknown workload '{}': say one of {} (or one of them with -fp8)", name,
                          workload_names()));
}

layout::LayoutConfig make_config(Workload const& workload, std::uint64_t num_blocks,
                                 std::uint64_t alignment) {
  return layout::LayoutConfig::builder()
      .num_blocks(num_blocks)
      .num_layers(workload.layers)
      .outer_dim(workload.outer)
      .page_size(workload.page_size)
      .inner_dim(checked_mul(workload.heads, workload.head_dim))
      .num_heads(workload.heads)
      .dtype_width_bytes(workload.width)
      .alignment(alignment)
      .build();
}

}  // namespace kvbm::cli
