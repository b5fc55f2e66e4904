// SPDX-License-Identifier: Apache-2.0
//
// kvbm bench disk: memory to files and back, beside fio and raw I/O; two hops beside one; GPUDirect
// Storage beside staging; what verifying costs.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <memory>
#include <string>
#include <vector>

#include "command.hpp"
#include "disk_tables.hpp"
#include "exit_code.hpp"
#include "fio.hpp"
#include "kvbm/core/error.hpp"
#include "machine.hpp"
#include "raw_disk.hpp"
#include "report.hpp"
#include "shape.hpp"

namespace kvbm::cli {
namespace {

constexpr std::uint64_t kQuickMib = 8;

struct Flags {
  std::vector<std::string> workloads{"llama3-8b", "smollm2-135m"};
  std::vector<std::string> sections{"rates", "hops", "gds", "verify"};
  std::vector<std::string> engines;
  std::vector<std::string> paths;
  std::vector<unsigned> depths{64};
  unsigned io_threads = 8;
  unsigned copy_threads = 0;
  std::string device = "host";
  std::uint64_t mib = 256;
  std::size_t repeat = 3;
  bool no_fio = false;
  bool keep = false;
  bool quick = false;
  Output output;
};

struct Section {
  char const* name;
  Table (*run)(DiskPlan const&);
};
constexpr std::array<Section, 4> kSections{
    {{"rates", disk_rates}, {"hops", disk_hops}, {"gds", disk_gds}, {"verify", disk_verify}}};

DiskPlan make_plan(Flags const& flags) {
  DiskPlan plan;
  for (auto const& path : flags.paths) {
    plan.folders.emplace_back(path);
  }
  if (plan.folders.empty()) { plan.folders = {std::filesystem::temp_directory_path()}; }
  for (auto const& workload : flags.workloads) {
    plan.shapes.push_back(disk_shape(workload));
  }
  for (auto const& engine : flags.engines) {
    plan.engines.push_back(memory::make_disk_io({parse_engine(engine)})->engine());
  }
  KVBM_EXPECTS(flags.device == "host" || flags.device == "cuda", InvalidArgument,
               fmt::format("--device {}: say host or cuda", flags.device));
  KVBM_EXPECTS(!plan.shapes.empty() && !flags.depths.empty(), InvalidArgument,
               "--workload and --depth: at least one");
  for (auto const depth : flags.depths) {
    KVBM_EXPECTS(depth >= 1 && depth <= 4096, InvalidArgument,
                 fmt::format("--depth {}: say 1 to 4096", depth));
  }
  plan.depths = flags.depths;
  plan.io_threads = flags.io_threads;
  plan.copy_threads = flags.copy_threads;
  plan.bytes = (flags.quick ? kQuickMib : flags.mib) << 20U;
  plan.repeat = flags.quick ? 1 : flags.repeat;
  plan.fio = !flags.no_fio;
  plan.gpu = flags.device == "cuda";
  plan.keep = flags.keep;
  return plan;
}

int run(Flags const& flags) {
  for (auto const& name : flags.sections) {
    KVBM_EXPECTS(std::any_of(kSections.begin(), kSections.end(),
                             [&name](Section const& section) { return name == section.name; }),
                 InvalidArgument,
                 fmt::format("--sections {}: say rates, hops, gds or verify", name));
  }
  DiskPlan plan = make_plan(flags);
  auto const machine = fmt::format("{}, {} usable CPUs, {}; {}", cpu_model(), usable_cpus(),
                                   kernel_name(), probe_folder(plan.folders.front()).file_system);
  flags.output.text(machine + "\n");
  nlohmann::json result{{"machine", machine}, {"fio", plan.fio && has_fio()}};
  for (auto const& section : kSections) {
    if (std::find(flags.sections.begin(), flags.sections.end(), section.name) ==
        flags.sections.end()) {
      continue;
    }
    Progress progress(section.name, disk_steps(plan), flags.output.json);
    plan.progress = &progress;
    Table const table = section.run(plan);
    progress.clear();
    flags.output.table(table);
    result[table.key()] = table.to_json();
  }
  flags.output.result(result);
  return ExitOk;
}

}  // namespace

void add_disk_bench(Commands& commands, CLI::App& bench) {
  auto const flags = std::make_shared<Flags>();
  auto& verb = commands.add(
      "disk", "blocks to and from files, beside fio and raw I/O; two hops; the cost of the verify",
      [flags] { return run(*flags); }, &bench);
  verb.add_option("--workload", flags->workloads,
                  workload_names() + "; any with -fp8; or the bytes of a block; several allowed")
      ->delimiter(',')
      ->capture_default_str();
  verb.add_option("--sections", flags->sections, "rates, hops, gds, verify")
      ->delimiter(',')
      ->capture_default_str();
  verb.add_option("--engine", flags->engines,
                  "auto, io_uring, threads; several allowed (default: all that there are)")
      ->delimiter(',');
  verb.add_option("--depth", flags->depths, "io_uring: requests in flight; several allowed")
      ->delimiter(',')
      ->capture_default_str();
  verb.add_option("--io-threads", flags->io_threads, "threads: how many of them")
      ->capture_default_str();
  verb.add_option("--threads", flags->copy_threads, "copy threads; 0 = one per usable CPU")
      ->capture_default_str();
  verb.add_option("--path,--paths", flags->paths,
                  "folder for files; of several, blocks go to one file in the first, then in turn "
                  "to a file in each (default: the folder for temporary files)")
      ->delimiter(',');
  verb.add_option("--device", flags->device, "where G1 is: host (emulated) or cuda")
      ->capture_default_str();
  verb.add_option("--mib", flags->mib, "a transfer")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  verb.add_option("--repeat", flags->repeat, "rounds in turns, of which the median counts")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  verb.add_flag("--no-fio", flags->no_fio, "compare with raw I/O of the same engine only");
  verb.add_flag("--keep", flags->keep,
                "rates: leave the stores in the folders, e.g. for `kvbm verify`");
  verb.add_flag("--quick", flags->quick, "little of everything, to try it");
  flags->output.add_save_to(verb);
  flags->output.add_to(verb, true);
}

}  // namespace kvbm::cli
