// SPDX-License-Identifier: Apache-2.0
//
// The original's grids, with the library's own columns beside.

#include <fmt/format.h>

#include <algorithm>

#include "gpu_sections.hpp"
#include "kvbm/core/error.hpp"

namespace kvbm::cli {

Table gpu_grid(GpuSections const& sections, Deadline const& deadline, std::string& csv) {
  Table table(
      "gpu_grid",
      "llama3-70b-tp1, 16, 32 and 64 tokens a block: fully contiguous host blocks with fully "
      "contiguous (fc_to_fc) and layer-separate (lw_to_fc) ones on the GPU",
      {{"tokens_per_block", "tokens"},
       {"num_blocks", "blocks"},
       {"direction", "direction", false},
       {"pattern", "pattern", false},
       {"ids", "ids", false},
       {"bytes", "bytes"},
       {"bytes_per_second", "GB/s"},
       {"share", "share"},
       {"p50_seconds", "p50"},
       {"p99_seconds", "p99"},
       {"strategy", "chosen", false}});
  csv =
      "model,tokens_per_block,num_blocks,direction,pattern,ids,bytes,iterations,min_us,median_us,"
      "p99_us,gbps,limit_gbps,strategy\n";
  auto options = sections.options;
  options.candidates = false;
  options.repeat = sections.quick ? 3 : 5;
  options.verified_blocks = 8;
  bool all = true;
  for (auto const ids : {IdOrder::Contiguous, IdOrder::Random}) {
    for (std::uint64_t const tokens : {16U, 32U, 64U}) {
      for (char const* const kind : {"fc", "ls2"}) {
        for (auto const route : {GpuRoute::H2D, GpuRoute::D2H, GpuRoute::D2D}) {
          for (std::uint64_t const blocks : {1U, 4U, 16U, 64U, 256U}) {
            GpuCase what;
            what.route = route;
            what.workload = "llama3-70b-tp1";
            what.shape = find_workload(what.workload);
            what.shape.page_size = tokens;
            what.gpu_kind = kind;
            what.ids = ids;
            what.blocks = blocks;
            what.baselines = false;
            if (deadline.over() || !fits(sections.lab, what)) {
              all = false;
              continue;
            }
            auto const result = run_gpu_case(sections.lab, what, options);
            auto const& way = *result.automatic(false);
            bool const random = ids == IdOrder::Random;
            bool const fc = std::string(kind) == "fc";
            table.add({count_cell(tokens), count_cell(blocks), to_string(route),
                       fc ? "fc_to_fc" : "lw_to_fc", random ? "random" : "contiguous",
                       bytes_cell(result.bytes), rate_cell(way.rate()),
                       share_cell(way.rate() / result.limit_rate()), time_cell(way.wall.median()),
                       time_cell(way.wall.percentile(0.99)), way.strategy});
            csv += fmt::format(
                "llama3-70b-tp1,{},{},{},{},{},{},{},{:.2f},{:.2f},{:.2f},{:.3f},"
                "{:.3f},{}\n",
                tokens, blocks, to_string(route), fc ? "fc_to_fc" : "lw_to_fc",
                random ? "random" : "contiguous", result.bytes, way.wall.size(),
                way.wall.best() * 1e6, way.wall.median() * 1e6, way.wall.percentile(0.99) * 1e6,
                way.rate() / 1e9, result.limit_rate() / 1e9, way.strategy);
          }
        }
      }
    }
  }
  if (!all) { table.note("cases beyond the time limit or --area-mib are left out"); }
  return table;
}

Table gpu_pageable(GpuSections const& sections, Deadline const& deadline) {
  auto& lab = sections.lab;
  auto& manager = lab.manager();
  Table table("gpu_pageable",
              "System (pageable) and pinned memory with the GPU, llama3-8b, 64 random blocks",
              {{"memory", "memory", false},
               {"direction", "direction", false},
               {"way", "way", false},
               {"bytes_per_second", "GB/s"},
               {"p50_seconds", "p50"},
               {"strategy", "strategy", false}});
  constexpr std::uint64_t kBlocks = 64;
  auto const config = make_config(find_workload("llama3-8b"), kBlocks, 1);
  if (!lab.fits(config, Side{})) {
    table.note("skipped: --area-mib is too small");
    return table;
  }
  auto const ids = make_ids(IdOrder::Random, kBlocks, kBlocks, 1);
  auto const bytes = static_cast<double>(config.block_bytes() * kBlocks);
  Side near;
  set_kind(near, "ls2");
  auto const gpu = lab.add(Area::Device0, config, near);
  for (char const* const tier : {"system", "pinned"}) {
    auto const host = manager.register_layout(make_layout(manager, config, side_of_tier(tier)));
    manager.fill_blocks(host, ids, {transfer::FillPattern::Kind::Hashed, 5});
    for (bool const up : {true, false}) {
      for (auto const strategy :
           {std::optional<transfer::Strategy>{}, std::optional{transfer::Strategy::DmaCopy},
            std::optional{transfer::Strategy::PinnedStaging}}) {
        if (deadline.over()) { break; }
        auto builder = transfer::TransferOptions::builder();
        if (strategy) { builder.strategy(*strategy); }
        auto const src = up ? host : gpu;
        auto const dst = up ? gpu : host;
        try {
          auto const prepared = manager.prepare_transfer(src, dst, builder.build());
          prepared.submit(ids, ids).wait();
          Samples wall;
          for (int i = 0; i < 5; ++i) {
            wall.add(seconds([&] { prepared.submit(ids, ids).wait(); }));
          }
          table.add(
              {tier, up ? "H2D" : "D2H", strategy ? "forced" : "automatic",
               rate_cell(bytes / wall.median()), time_cell(wall.median()),
               std::string(transfer::to_string(prepared.explain(ids, ids).decision.strategy))});
        } catch (Error const& refused) {
          if (refused.code() != ErrorCode::Unsupported) { throw; }
        }
      }
    }
    manager.unregister_layout(host);
  }
  lab.remove(gpu);
  return table;
}

}  // namespace kvbm::cli
