// SPDX-License-Identifier: Apache-2.0
//
// kvbm bench prefix: what a PrefixStore costs: hits in every tier, lookups, offloads.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "command.hpp"
#include "exit_code.hpp"
#include "kvbm/core/error.hpp"
#include "machine.hpp"
#include "prefix_tables.hpp"
#include "report.hpp"
#include "shape.hpp"

namespace kvbm::cli {
namespace {

struct Flags {
  ObjectServerFlags server;
  std::string workload = "smollm2-135m";
  std::vector<std::string> tiers{"g1", "g2", "g3", "g4"};
  std::vector<std::string> sections{"hits", "lookups", "offloads"};
  std::vector<std::uint64_t> counts{1, 16, 64};
  std::string path;
  std::string device = "host";
  std::uint64_t mib = 256;
  std::size_t repeat = 200;
  double time_limit = 2;
  bool quick = false;
  Output output;
};

bool has(std::vector<std::string> const& list, std::string const& name) {
  return std::find(list.begin(), list.end(), name) != list.end();
}

void check_names(char const* flag, std::vector<std::string> const& given,
                 std::vector<std::string> const& known) {
  for (auto const& name : given) {
    KVBM_EXPECTS(has(known, name), InvalidArgument,
                 fmt::format("{} {}: say one of {}", flag, name, fmt::join(known, ", ")));
  }
}

PrefixPlan make_plan(Flags const& flags) {
  check_names("--tiers", flags.tiers, {"g1", "g2", "g3", "g4"});
  check_names("--sections", flags.sections, {"hits", "lookups", "offloads"});
  check_names("--device", {flags.device}, {"host", "cuda"});
  PrefixPlan plan;
  plan.shape = disk_shape(flags.workload);
  plan.tiers = flags.tiers;
  plan.counts = flags.counts;
  for (auto const count : plan.counts) {
    KVBM_EXPECTS(count >= 1 && count <= 65536, InvalidArgument,
                 fmt::format("--blocks {}: say 1 to 65536", count));
  }
  plan.folder = flags.path.empty() ? std::filesystem::temp_directory_path()
                                   : std::filesystem::path(flags.path);
  plan.gpu = flags.device == "cuda";
  plan.offload_bytes = flags.mib << 20U;
  plan.repeat = flags.repeat;
  plan.time_limit = flags.time_limit;
  if (flags.quick) {
    plan.offload_bytes = std::uint64_t{8} << 20U;
    plan.repeat = 8;
    plan.time_limit = 0.2;
  }
  return plan;
}

int run(Flags const& flags) {
  PrefixPlan plan = make_plan(flags);
  std::optional<ObjectServer> server;
  std::string why_no_objects;
  if (has(plan.tiers, "g4") && has(flags.sections, "hits")) {
    try {
      server.emplace(flags.server);
      plan.server = &*server;
    } catch (Error const& error) {
      // Without a server that was asked for nothing is lost but one tier.
      if (!flags.server.endpoint.empty() || !flags.server.moto.empty()) { throw; }
      why_no_objects = error.what();
    }
  }
  auto const machine = fmt::format(
      "{}, {} usable CPUs, {}; G3 on {}; G4: {}", cpu_model(), usable_cpus(), kernel_name(),
      probe_folder(plan.folder).file_system, server ? server->name() : std::string("left out"));
  flags.output.text(machine + "\n");
  if (!why_no_objects.empty()) { flags.output.text("G4 is left out: " + why_no_objects + "\n"); }
  nlohmann::json result{{"machine", machine}};
  if (!why_no_objects.empty()) { result["g4_skipped"] = why_no_objects; }
  auto const show = [&](char const* name, std::uint64_t steps, Table (*make)(PrefixPlan const&)) {
    if (!has(flags.sections, name)) { return; }
    Progress progress(name, steps, flags.output.json);
    plan.progress = &progress;
    Table const table = make(plan);
    progress.clear();
    flags.output.table(table);
    result[table.key()] = table.to_json();
  };
  show("hits", plan.tiers.size() * plan.counts.size(), prefix_hits);
  show("lookups", 4, prefix_lookups);
  show("offloads", 4, prefix_offloads);
  flags.output.result(result);
  return ExitOk;
}

}  // namespace

void add_prefix_bench(Commands& commands, CLI::App& bench) {
  auto const flags = std::make_shared<Flags>();
  auto& verb = commands.add(
      "prefix", "a store of blocks by content: hits in every tier, lookups, offloads",
      [flags] { return run(*flags); }, &bench);
  verb.add_option("--workload", flags->workload,
                  workload_names() + "; any with -fp8; or the bytes of a block")
      ->capture_default_str();
  verb.add_option("--tiers", flags->tiers, "where hits are: g1, g2, g3, g4")
      ->delimiter(',')
      ->capture_default_str();
  verb.add_option("--blocks", flags->counts, "blocks of a request; several allowed")
      ->delimiter(',')
      ->capture_default_str();
  verb.add_option("--sections", flags->sections, "hits, lookups, offloads")
      ->delimiter(',')
      ->capture_default_str();
  verb.add_option("--device", flags->device, "where the engine is: host (emulated) or cuda")
      ->capture_default_str();
  verb.add_option("--mib", flags->mib, "that are offloaded")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  verb.add_option("--repeat", flags->repeat, "requests a case")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  verb.add_option("--time-limit", flags->time_limit, "seconds a case, four requests at least")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  verb.add_option("--path", flags->path,
                  "folder for files, removed afterwards (default: the folder for temporary files)");
  flags->server.add_to(verb);
  verb.add_flag("--quick", flags->quick, "little of everything, to try it");
  flags->output.add_save_to(verb);
  flags->output.add_to(verb, true);
}

}  // namespace kvbm::cli
