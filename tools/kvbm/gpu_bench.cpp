// SPDX-License-Identifier: Apache-2.0
//
// kvbm bench gpu: every way of the GPU beside the plain ones, most important rows first, within a
// bound.

#include "gpu_bench.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <fstream>
#include <memory>

#include "command.hpp"
#include "exit_code.hpp"
#include "gpu_sections.hpp"
#include "kvbm/core/error.hpp"
#include "machine.hpp"
#include "plot.hpp"

namespace kvbm::cli {
namespace {

constexpr std::array<char const*, 8> kSections{"rates",   "model",    "latency", "submit",
                                               "permute", "pageable", "sweep",   "grid"};

void write_file(std::string const& path, std::string const& text) {
  std::ofstream file(path, std::ios::binary | std::ios::trunc);
  file << text;
  file.flush();
  KVBM_EXPECTS(file.good(), Io, fmt::format("cannot write {}", path));
}

/// Everything that was measured so far; can be stored at any moment.
class Report {
 public:
  Report(GpuBenchOptions const& options, Output const& output)
      : options_(options), output_(output) {}

  nlohmann::json json = nlohmann::json::object();
  std::vector<GpuResult> results;

  void add(Table const& table) {
    tables_.push_back(table);
    json[table.key()] = table.to_json();
    store();
  }
  void add(GpuResult result) {
    if (!output_.markdown) { output_.text(summary_line(result)); }
    json["cases"].push_back(to_json(result));
    results.push_back(std::move(result));
    if (results.size() % 8 == 0) { store(); }
  }
  void store() const {
    if (!options_.save.empty()) { write_file(options_.save, json.dump(1) + "\n"); }
    if (!options_.csv.empty()) { write_file(options_.csv, to_csv(results)); }
  }
  void print() {
    if (!results.empty()) {
      auto const rates = rate_table(results);
      auto const regret = regret_table(results);
      json[rates.key()] = rates.to_json();
      json[regret.key()] = regret.to_json();
      output_.table(rates);
      output_.table(regret);
    }
    for (auto const& table : tables_) {
      output_.table(table);
    }
    store();
    if (!options_.plot.empty()) {
      auto const files = write_plots(options_.plot, json);
      output_.text(fmt::format("plots: {}, {}", files.first, files.second));
    }
  }

 private:
  GpuBenchOptions const& options_;
  Output const& output_;
  std::vector<Table> tables_;
};

/// torch's own ways, measured by the script, beside the rows of the same shape.
Table torch_table(std::string const& path, std::vector<GpuResult> const& results) {
  Table table("torch", "torch on the same shapes (bench/transfer/torch_baseline.py)",
              {{"workload", "workload", false},
               {"direction", "direction", false},
               {"far_side", "other side", false},
               {"blocks", "blocks"},
               {"way", "way", false},
               {"bytes_per_second", "torch"},
               {"kvbm", "kvbm"},
               {"limit", "limit"}});
  std::ifstream file(path);
  auto const json = nlohmann::json::parse(file, nullptr, false);
  KVBM_EXPECTS(json.is_object() && json.contains("rows") && json["rows"].is_array(),
               InvalidArgument, fmt::format("--torch {}: not what torch_baseline.py writes", path));
  for (auto const& row : json["rows"]) {
    auto const workload = row.value("workload", "");
    auto const direction = row.value("direction", "");
    auto const far = row.value("far_side", "");
    auto const found = std::find_if(results.begin(), results.end(), [&](GpuResult const& result) {
      return result.what.workload == workload && direction == to_string(result.what.route) &&
             far == to_string(result.what.far) && result.what.ids == IdOrder::Random;
    });
    auto const* const way = found == results.end() ? nullptr : found->automatic(false);
    table.add({workload, direction, far, count_cell(row.value("blocks", std::uint64_t{0})),
               row.value("way", ""), rate_cell(row.value("bytes_per_second", 0.0)),
               way == nullptr ? none_cell() : rate_cell(way->rate()),
               way == nullptr ? none_cell() : rate_cell(found->limit_rate())});
  }
  return table;
}

/// Cases until the section's time is over.
void run_cases(std::vector<GpuCase> const& cases, GpuSections& sections, Report& report,
               std::string const& only, Deadline const& deadline) {
  std::size_t left = 0;
  for (auto const& what : cases) {
    if (!only.empty() && what.name().find(only) == std::string::npos) { continue; }
    if (!fits(sections.lab, what)) { continue; }
    if (deadline.over()) {
      ++left;
      continue;
    }
    report.add(run_gpu_case(sections.lab, what, sections.options));
  }
  if (left > 0) { sections.say(fmt::format("time is over: {} cases left out", left)); }
}

void check(GpuBenchOptions const& options) {
  for (auto const& section : options.sections) {
    KVBM_EXPECTS(std::find(kSections.begin(), kSections.end(), section) != kSections.end(),
                 InvalidArgument,
                 fmt::format("--sections {}: say rates, model, latency, submit, permute, pageable, "
                             "sweep or grid",
                             section));
  }
}

}  // namespace

void GpuBenchOptions::add_to(CLI::App& app) {
  app.add_option("--device", device, "CUDA device")->capture_default_str();
  app.add_flag("--emulate", emulate,
               "on an emulated device, to try the benchmark; its figures mean nothing");
  app.add_flag("--quick", quick, "less than a minute: fewer rounds, the main rows");
  app.add_option("--minutes", minutes, "stop at this bound; the most important rows come first")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  app.add_option("--mib", mib, "MiB that a transfer of a rate row moves")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  app.add_option("--area-mib", area_mib,
                 "MiB of each of the two areas in pinned memory; of the two in HBM 4096 at least")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  app.add_option("--sections", sections,
                 "rates, model, latency, submit, permute, pageable, sweep, grid; several allowed")
      ->delimiter(',')
      ->capture_default_str();
  app.add_option("--only", only, "rate and sweep cases whose name contains this");
  app.add_option("--cublas", cublas, "libcublas for the GEMM loops (default: looked for)");
  app.add_option("--torch", torch, "JSON of bench/transfer/torch_baseline.py to put beside");
  app.add_option("--save", save, "file for the JSON document, written as the run goes on");
  app.add_option("--csv", csv, "file for one line a way");
  app.add_option("--grid-csv", grid_csv, "file for the grid, one line a case");
  app.add_option("--plot", plot, "write NAME.png and NAME.html");
}

int run_gpu_bench(GpuBenchOptions const& options, Output const& output,
                  std::string const& command) {
  check(options);
  Deadline const deadline(options.quick ? std::min(52.0, options.minutes * 60)
                                        : options.minutes * 60);
  double const total = deadline.left();
  auto const area = options.area_mib << 20U;
  // HBM is quick: only large copies there tell its rate.
  auto const device_area = options.emulate ? area : std::max(area, std::uint64_t{4096} << 20U);
  GpuLab lab(options.device, area, device_area, options.emulate);
  GpuSections sections{lab, {}, options.mib << 20U, options.quick, options.cublas, {}};
  sections.options.repeat =
      options.quick ? std::min<std::size_t>(options.repeat, 5) : options.repeat;
  if (options.quick) {
    sections.options.way_seconds = 0.05;
    sections.options.verified_blocks = 16;
  }
  sections.progress = [&](std::string const& line) {
    if (!output.markdown) { output.text(line); }
  };
  Report report(options, output);
  report.json["gpu"] = lab.describe();
  report.json["command"] = command;
  report.json["cases"] = nlohmann::json::array();
  output.text(fmt::format("{}; {}, {} usable CPUs\n`{}`\n", lab.describe(), cpu_model(),
                          usable_cpus(), command));

  auto const wanted = [&](char const* section) {
    return std::find(options.sections.begin(), options.sections.end(), section) !=
           options.sections.end();
  };
  // What comes later keeps a part of the time; what is not used goes to the last ones.
  auto const until = [&](double share) {
    bool const alone = options.sections.size() == 1;
    return Deadline(std::max(0.0, deadline.left() - (alone ? 0 : (1 - share) * total)));
  };
  {
    GpuCaseOptions warm;
    warm.repeat = 1;
    GpuCase what = core_cases(sections).front();
    what.blocks = std::min<std::uint64_t>(what.blocks, 8);
    if (fits(lab, what)) { run_gpu_case(lab, what, warm); }
  }
  if (wanted("rates")) {
    run_cases(core_cases(sections), sections, report, options.only, until(0.5));
  }
  if (wanted("latency")) { report.add(gpu_latency(sections, until(0.55))); }
  if (wanted("model")) { report.add(gpu_model(sections, until(0.75))); }
  if (wanted("submit")) { report.add(gpu_submit(sections, until(0.8))); }
  if (wanted("permute")) { report.add(gpu_permute(sections, until(0.85))); }
  if (wanted("pageable")) { report.add(gpu_pageable(sections, until(0.87))); }
  if (wanted("sweep") && !options.quick) {
    run_cases(sweep_cases(sections), sections, report, options.only, until(0.95));
  }
  if (wanted("grid") && !options.quick) {
    std::string csv;
    report.add(gpu_grid(sections, deadline, csv));
    if (!options.grid_csv.empty()) { write_file(options.grid_csv, csv); }
  }
  if (!options.torch.empty()) { report.add(torch_table(options.torch, report.results)); }
  report.print();
  output.result(report.json);
  return ExitOk;
}

void add_gpu_bench(Commands& commands, CLI::App& bench) {
  auto const options = std::make_shared<GpuBenchOptions>();
  auto const output = std::make_shared<Output>();
  auto& verb = commands.add(
      "gpu", "every way of the GPU beside plain CUDA, within a time bound",
      [options, output] {
        return run_gpu_bench(
            *options, *output,
            fmt::format("kvbm bench gpu{} --minutes {} --mib {}", options->quick ? " --quick" : "",
                        options->minutes, options->mib));
      },
      &bench);
  options->add_to(verb);
  verb.add_option("--repeat", options->repeat, "rounds of all ways in turns")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  output->add_to(verb, true);
}

}  // namespace kvbm::cli
