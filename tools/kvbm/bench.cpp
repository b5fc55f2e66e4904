// SPDX-License-Identifier: Apache-2.0
//
// kvbm bench: sweeps over directions, shapes, numbers of blocks and orders of ids, every figure
// beside the limit that was measured in turns with it.

#include <fmt/format.h>

#include <algorithm>
#include <fstream>
#include <memory>
#include <optional>

#include "bench_case.hpp"
#include "command.hpp"
#include "exit_code.hpp"
#include "kvbm/core/checked.hpp"
#include "kvbm/core/error.hpp"
#include "kvbm/metrics/exporter.hpp"
#include "progress.hpp"
#include "raw_disk.hpp"
#include "report.hpp"

namespace kvbm::cli {
namespace {

struct BenchOptions {
  std::vector<std::string> directions{"system-system", "g1-g2", "g2-g1", "g2-g3", "g3-g2"};
  std::vector<std::string> workloads{"llama3-8b"};
  std::vector<std::uint64_t> blocks{64};
  std::vector<std::string> ids{"random"};
  ShapeFlags shape;
  SideFlags src;
  SideFlags dst;
  unsigned threads = 0;
  std::size_t repeat = 9;
  double time_limit = 5;
  std::string engine = "auto";
  std::string path;
  std::string metrics;
  Output output;
};

std::pair<Side, Side> parse_direction(std::string const& text) {
  auto const dash = text.find('-');
  KVBM_EXPECTS(dash != std::string::npos, InvalidArgument,
               fmt::format("--direction {}: say FROM-TO, each of g1, g2, g3, system, pinned "
                           "(g1-g2, system-system)",
                           text));
  std::pair sides{side_of_tier(text.substr(0, dash)), side_of_tier(text.substr(dash + 1))};
  bool const has_objects = sides.first.storage == memory::StorageKind::Object ||
                           sides.second.storage == memory::StorageKind::Object;
  KVBM_EXPECTS(
      !has_objects, InvalidArgument,
      fmt::format("--direction {}: `kvbm bench object` and `kvbm bench prefix` measure g4", text));
  return sides;
}

std::vector<BenchCase> make_cases(BenchOptions const& options) {
  std::vector<BenchCase> cases;
  for (auto const& direction : options.directions) {
    auto const [from, to] = parse_direction(direction);
    for (auto const& workload : options.workloads) {
      for (auto const blocks : options.blocks) {
        for (auto const& ids : options.ids) {
          BenchCase bench;
          bench.direction = direction;
          bench.workload = workload;
          auto shape = options.shape;
          shape.workload = workload;
          bench.shape = shape.resolve();
          bench.src = options.src.apply(from);
          bench.dst = options.dst.apply(to);
          bench.num_blocks = blocks;
          bench.ids = parse_id_order(ids);
          bench.repeat = options.repeat;
          bench.budget_seconds = options.time_limit;
          static_cast<void>(make_config(bench.shape, blocks, 1));
          cases.push_back(bench);
        }
      }
    }
  }
  return cases;
}

std::uint64_t device_bytes(std::vector<BenchCase> const& cases) {
  std::uint64_t most = 0;
  for (auto const& bench : cases) {
    auto const config = make_config(bench.shape, bench.num_blocks, 1);
    most = std::max(most, checked_mul(config.block_bytes(), bench.num_blocks));
  }
  return checked_add(checked_mul(most, std::uint64_t{3}), std::uint64_t{1} << 30U);
}

/// @throws Error(Io)
void write_metrics(metrics::Exporter const& exporter, std::string const& path) {
  std::ofstream file(path);
  file << exporter.text() << std::flush;
  KVBM_EXPECTS(file.good(), Io, fmt::format("--metrics {}: cannot be written", path));
}

int run(BenchOptions const& options) {
  auto const cases = make_cases(options);
  std::optional<metrics::Exporter> exporter;
  if (!options.metrics.empty()) { exporter.emplace(); }
  memory::DiskIoOptions io;
  io.engine = parse_engine(options.engine);
  auto manager = manager::TransferManager::builder()
                     .host_device(1, device_bytes(cases))
                     .copy_threads(options.threads)
                     .disk_io(memory::make_disk_io(io))
                     .build();
  if (exporter) { exporter->add(manager); }
  Table table(
      "cases",
      fmt::format("{} copy threads, disk engine {}", manager.context().copy_engine().num_threads(),
                  memory::to_string(manager.memory_source()->disk_io()->engine())),
      {{"direction", "direction", false},
       {"workload", "workload", false},
       {"src", "from", false},
       {"dst", "to", false},
       {"ids", "ids", false},
       {"blocks", "blocks"},
       {"bytes", "bytes"},
       {"bytes_per_second", "GB/s"},
       {"share_of_limit", "share"},
       {"limit", "of", false},
       {"p50_seconds", "p50"},
       {"p99_seconds", "p99"},
       {"submit_seconds", "submit"},
       {"rounds", "rounds"},
       {"strategy", "strategy", false}});
  TempFolder const folder(options.path);
  Progress progress("bench", cases.size(), options.output.json);
  for (std::size_t i = 0; i < cases.size(); ++i) {
    auto const& bench = cases[i];
    progress.update(i,
                    fmt::format("{} {} x {}", bench.direction, bench.num_blocks, bench.workload));
    auto const result = run_case(manager, bench, folder.path());
    static constexpr char const* kOrders[] = {"contiguous", "runs", "random"};
    table.add({bench.direction, bench.workload, describe(bench.src), describe(bench.dst),
               kOrders[static_cast<int>(bench.ids)], count_cell(bench.num_blocks),
               bytes_cell(result.bytes), rate_cell(static_cast<double>(result.bytes) / result.p50),
               share_cell(result.share), result.limit, time_cell(result.p50), time_cell(result.p99),
               time_cell(result.submit), count_cell(result.rounds), result.strategy});
  }
  progress.clear();
  if (exporter) { write_metrics(*exporter, options.metrics); }
  options.output.table(table);
  options.output.result(
      {{"threads", manager.context().copy_engine().num_threads()}, {"cases", table.to_json()}});
  return ExitOk;
}

}  // namespace

void add_bench(Commands& commands) {
  auto const options = std::make_shared<BenchOptions>();
  auto& verb =
      commands.add("bench", "measure transfers beside what memory and disk allow in the same run",
                   [options] { return run(*options); });
  verb.require_subcommand(0, 1);
  verb.add_option("--direction", options->directions,
                  "FROM-TO, each of g1, g2, g3, system, pinned; several allowed")
      ->delimiter(',')
      ->capture_default_str();
  verb.add_option("--workload", options->workloads,
                  workload_names() + "; any with -fp8; several allowed")
      ->delimiter(',')
      ->capture_default_str();
  verb.add_option("--blocks", options->blocks, "blocks a transfer; several allowed")
      ->delimiter(',')
      ->capture_default_str();
  verb.add_option("--ids", options->ids, "order of block ids: random, runs, contiguous")
      ->delimiter(',')
      ->capture_default_str();
  verb.add_option("--page-size", options->shape.page_size, "tokens in a block, not the workload's");
  options->src.add_to(verb, "src", "");
  options->dst.add_to(verb, "dst", "");
  verb.add_option("--threads", options->threads, "copy threads; 0 = one per usable CPU")
      ->capture_default_str();
  verb.add_option("--engine", options->engine, "disk engine: auto, io_uring, threads")
      ->capture_default_str();
  verb.add_option("--repeat", options->repeat, "rounds of limit and transfer in turns")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  verb.add_option("--time-limit", options->time_limit, "seconds a case, one round at least")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  verb.add_option("--path", options->path,
                  "folder for files, removed afterwards (default: the folder for temporary files)");
  verb.add_option("--metrics", options->metrics,
                  "write the manager's metrics to this file, as Prometheus reads them");
  options->output.add_to(verb, true);
  add_figures(commands, verb);
  add_gpu_bench(commands, verb);
  add_remote_bench(commands, verb);
  add_disk_bench(commands, verb);
  add_prefix_bench(commands, verb);
  add_object_bench(commands, verb);
}

}  // namespace kvbm::cli
