// SPDX-License-Identifier: Apache-2.0
//
// Figures that are rates: copies, disk, checksums.

#include <fmt/format.h>

#include <algorithm>

#include "bench_case.hpp"
#include "disk_tables.hpp"
#include "figures.hpp"
#include "limits.hpp"

namespace kvbm::cli {
namespace {

using layout::KvBlockLayout;

constexpr double kEnoughSeconds = 30;

manager::TransferManager make_manager(FigureOptions const& options, memory::DiskEngine engine) {
  memory::DiskIoOptions io;
  io.engine = engine;
  return manager::TransferManager::builder()
      .copy_threads(options.threads)
      .disk_io(memory::make_disk_io(io))
      .build();
}

DiskPlan disk_plan(FigureOptions const& options) {
  DiskPlan plan;
  plan.folders = {options.folder};
  plan.shapes = {disk_shape("llama3-8b"), disk_shape("smollm2-135m")};
  plan.copy_threads = options.threads;
  plan.bytes = options.disk_bytes;
  plan.repeat = options.disk_repeat;
  plan.fio = options.fio;
  plan.progress = options.progress;
  return plan;
}

std::uint64_t blocks_for(Workload const& workload, std::uint64_t bytes) {
  return std::max<std::uint64_t>(1, bytes / make_config(workload, 1, 1).block_bytes());
}

}  // namespace

Table figure_copy(FigureOptions const& options) {
  auto manager = make_manager(options, memory::DiskEngine::Auto);
  Table table(
      "copy",
      fmt::format("Host to host against a STREAM-style copy, {} threads, {} a transfer, "
                  "random block ids",
                  manager.context().copy_engine().num_threads(), format_bytes(options.bytes)),
      {{"workload", "workload", false},
       {"what", "what", false},
       {"run_bytes", "shortest run"},
       {"bytes_per_second", "GB/s"},
       {"stream_bytes_per_second", "STREAM GB/s"},
       {"share", "share"},
       {"goal", "goal"}});
  struct Pair {
    KvBlockLayout src;
    KvBlockLayout dst;
    char const* goal;
  };
  std::array<Pair, 4> const pairs{{
      {KvBlockLayout::OperationalNHD, KvBlockLayout::OperationalNHD, "95%"},
      {KvBlockLayout::OperationalNHD, KvBlockLayout::UniversalTP, "80%"},
      {KvBlockLayout::UniversalTP, KvBlockLayout::OperationalNHD, "80%"},
      {KvBlockLayout::OperationalNHD, KvBlockLayout::OperationalHND, "80%"},
  }};
  for (char const* const name :
       {"llama3-8b", "llama3-70b-tp8", "qwen3-32b-tp4", "deepseek-v3-mla", "smollm2-135m"}) {
    for (auto const& pair : pairs) {
      BenchCase bench;
      bench.shape = find_workload(name);
      bool const one_head = bench.shape.heads == 1;
      if (one_head && pair.src != pair.dst) { continue; }  // all formats are the same bytes
      bench.src.format = pair.src;
      bench.dst.format = pair.dst;
      bench.num_blocks = blocks_for(bench.shape, options.bytes);
      bench.repeat = options.repeat;
      bench.budget_seconds = kEnoughSeconds;
      auto const what = fmt::format("{} -> {}", describe(bench.src), describe(bench.dst));
      options.step(fmt::format("{} {}", name, what));
      auto const result = run_case(manager, bench, options.folder);
      double const rate = static_cast<double>(result.bytes) / result.p50;
      auto const config = make_config(bench.shape, 1, 1);
      std::uint64_t const run = pair.src == pair.dst
                                    ? config.block_bytes()
                                    : config.head_dim() * config.dtype_width_bytes();
      table.add({name, what, bytes_cell(run), rate_cell(rate), rate_cell(rate / result.share),
                 share_cell(result.share), pair.goal});
    }
  }
  return table;
}

Table figure_disk(FigureOptions const& options) { return disk_rates(disk_plan(options)); }
Table figure_hops(FigureOptions const& options) { return disk_hops(disk_plan(options)); }
Table figure_verify(FigureOptions const& options) { return disk_verify(disk_plan(options)); }

Table figure_checksum(FigureOptions const& options) {
  auto manager = make_manager(options, memory::DiskEngine::Auto);
  auto const shape = find_workload("llama3-8b");
  auto const num_blocks = blocks_for(shape, options.bytes);
  Table table(
      "checksum",
      fmt::format("Block checksums against a plain read of as much memory, {} threads, {}",
                  manager.context().copy_engine().num_threads(), format_bytes(options.bytes)),
      {{"what", "what", false},
       {"bytes_per_second", "GB/s"},
       {"read_bytes_per_second", "plain read GB/s"},
       {"share", "share"},
       {"goal", "goal"}});
  MemoryLimits limits(manager.context().copy_engine(), *manager.memory_source(), options.bytes);
  for (char const* const tier : {"system", "g2", "g1"}) {
    auto const side = side_of_tier(tier);
    auto const layout =
        manager.register_layout(make_layout(manager, make_config(shape, num_blocks, 1), side));
    auto const ids = make_ids(IdOrder::Contiguous, num_blocks, num_blocks, 0);
    manager.fill_blocks(layout, ids, {transfer::FillPattern::Kind::Hashed, 3});
    options.step(describe(side));
    auto const bytes = manager.layout(layout).config().block_bytes() * num_blocks;
    auto const rounds = in_turns(
        options.repeat, kEnoughSeconds,
        [&] { return seconds([&] { static_cast<void>(manager.block_checksums(layout, ids)); }); },
        [&] {
          return limits.plain_read() * static_cast<double>(bytes) /
                 static_cast<double>(limits.bytes());
        });
    table.add({fmt::format("{} {}", memory::to_string(side.storage), describe(side)),
               rate_cell(static_cast<double>(bytes) / rounds.candidate.median()),
               rate_cell(static_cast<double>(bytes) / rounds.limit.median()),
               share_cell(rounds.share()), "80%"});
    manager.unregister_layout(layout);
  }
  return table;
}

}  // namespace kvbm::cli
