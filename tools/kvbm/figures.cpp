// SPDX-License-Identifier: Apache-2.0
//
// kvbm bench figures: the figures of docs/performance.md, each with its comparison from the same
// run.

#include "figures.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <memory>

#include "command.hpp"
#include "exit_code.hpp"
#include "gpu_bench.hpp"
#include "kvbm/core/error.hpp"
#include "machine.hpp"
#include "shape.hpp"

namespace kvbm::cli {
namespace {

struct Figure {
  char const* name;
  Table (*run)(FigureOptions const&);
};

constexpr std::array<Figure, 8> kFigures{{{"copy", figure_copy},
                                          {"disk", figure_disk},
                                          {"hops", figure_hops},
                                          {"verify", figure_verify},
                                          {"submit", figure_submit},
                                          {"bookkeeping", figure_bookkeeping},
                                          {"latency", figure_latency},
                                          {"checksum", figure_checksum}}};

struct FiguresOptions {
  FigureOptions figures;
  std::vector<std::string> only;
  std::string path;
  std::uint64_t mib = 256;
  std::uint64_t disk_mib = 512;
  bool no_fio = false;
  bool gpu = false;
  bool gpu_quick = false;
  double gpu_minutes = 4;
  std::string gpu_save;
  std::string cublas;
  Output output;
};

/// The GPU's tables, as Markdown unless JSON is asked for.
int run_gpu(FiguresOptions const& options) {
  GpuBenchOptions gpu;
  gpu.quick = options.gpu_quick;
  gpu.minutes = options.gpu_minutes;
  gpu.save = options.gpu_save;
  gpu.cublas = options.cublas;
  gpu.sections = {"rates", "model", "latency", "submit", "permute", "pageable", "sweep"};
  Output output = options.output;
  output.markdown = !output.json;
  return run_gpu_bench(gpu, output,
                       fmt::format("kvbm bench figures --gpu{} --minutes {}",
                                   options.gpu_quick ? " --quick" : "", options.gpu_minutes));
}

int run(FiguresOptions& options) {
  if (options.gpu) { return run_gpu(options); }
  for (auto const& name : options.only) {
    KVBM_EXPECTS(
        std::any_of(kFigures.begin(), kFigures.end(),
                    [&](Figure const& figure) { return name == figure.name; }),
        InvalidArgument,
        fmt::format("--only {}: say copy, disk, hops, verify, submit, bookkeeping, latency or "
                    "checksum",
                    name));
  }
  TempFolder const folder(options.path);
  auto& figures = options.figures;
  figures.folder = folder.path();
  figures.bytes = options.mib << 20U;
  figures.disk_bytes = options.disk_mib << 20U;
  figures.fio = !options.no_fio;
  std::string const machine = fmt::format("{}, {} usable CPUs, {} memory, {}; kvbm built {} by {}",
                                          cpu_model(), usable_cpus(), format_bytes(total_memory()),
                                          kernel_name(), KVBM_CLI_BUILD, KVBM_CLI_COMPILER);
  options.output.text(machine + "\n");
  nlohmann::json json{{"machine", machine}};
  for (auto const& figure : kFigures) {
    if (!options.only.empty() &&
        std::find(options.only.begin(), options.only.end(), figure.name) == options.only.end()) {
      continue;
    }
    Progress progress(fmt::format("figure {}", figure.name), 24, options.output.json);
    figures.progress = &progress;
    auto table = figure.run(figures);
    progress.clear();
    table.note(fmt::format("`kvbm bench figures --only {}`", figure.name));
    options.output.table(table);
    json[figure.name] = table.to_json();
  }
  options.output.result(json);
  return ExitOk;
}

}  // namespace

void add_figures(Commands& commands, CLI::App& bench) {
  auto const options = std::make_shared<FiguresOptions>();
  auto& verb = commands.add(
      "figures", "the figures of docs/performance.md, a few minutes",
      [options] { return run(*options); }, &bench);
  verb.add_option("--only", options->only,
                  "copy, disk, hops, verify, submit, bookkeeping, latency, checksum; several "
                  "allowed")
      ->delimiter(',');
  verb.add_option("--threads", options->figures.threads, "copy threads; 0 = one per usable CPU")
      ->capture_default_str();
  verb.add_option("--mib", options->mib, "MiB that one transfer in memory moves")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  verb.add_option("--disk-mib", options->disk_mib, "MiB that one transfer to disk moves")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  verb.add_option("--max-blocks", options->figures.max_blocks, "end of the submission sweep")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  verb.add_option("--repeat", options->figures.repeat, "rounds in memory")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  verb.add_option("--disk-repeat", options->figures.disk_repeat, "rounds on disk")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  verb.add_option("--path", options->path,
                  "folder for files, removed afterwards (default: the folder for temporary files)");
  verb.add_flag("--no-fio", options->no_fio,
                "compare the disk with raw I/O of the same engine only");
  auto* const gpu = verb.add_flag("--gpu", options->gpu, "the GPU's tables instead, as Markdown");
  verb.add_flag("--quick", options->gpu_quick, "with --gpu: less than a minute")->needs(gpu);
  verb.add_option("--minutes", options->gpu_minutes, "with --gpu: stop at this bound")
      ->check(CLI::PositiveNumber)
      ->needs(gpu)
      ->capture_default_str();
  verb.add_option("--save", options->gpu_save, "with --gpu: file for the JSON document")
      ->needs(gpu);
  verb.add_option("--cublas", options->cublas, "with --gpu: libcublas for the GEMM loops")
      ->needs(gpu);
  options->output.add_to(verb, true);
}

}  // namespace kvbm::cli
