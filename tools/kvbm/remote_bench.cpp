// SPDX-License-Identifier: Apache-2.0
//
// kvbm bench remote: two processes of this program move blocks between their memories in every way
// there is, beside a plain memcpy of the same runs, NIXL alone and UCX's own benchmark.
#include <fmt/format.h>

#include <algorithm>
#include <memory>

#include "command.hpp"
#include "exit_code.hpp"
#include "kvbm/core/error.hpp"
#include "kvbm/remote/nixl_library.hpp"
#include "machine.hpp"
#include "process.hpp"
#include "remote_pair.hpp"

namespace kvbm::cli {
namespace {

struct Flags {
  std::vector<std::uint64_t> runs{4096, 16384, 65536, 262144, 1048576, 4194304};
  std::vector<std::string> ids{"random", "contiguous"};
  std::vector<std::string> transports{"default", "tcp"};
  std::vector<std::string> sections{"sweep", "latency", "faults", "import", "ucx"};
  std::uint64_t mib = 64;
  std::uint64_t area_mib = 256;
  std::uint64_t max_blocks = 1'000'000;
  std::uint64_t rounds = 300;
  std::size_t repeat = 5;
  double time_limit = 4;
  bool quick = false;
  std::string perftest;
  Output output;
};

std::vector<std::string> const kSections{"sweep", "latency", "faults", "import", "ucx"};

RemoteOptions resolve(Flags const& flags) {
  RemoteOptions options;
  options.runs = flags.quick ? std::vector<std::uint64_t>{4096, 65536} : flags.runs;
  options.bytes = (flags.quick ? std::min<std::uint64_t>(flags.mib, 8) : flags.mib) << 20U;
  options.area_bytes = (flags.quick ? 32 : flags.area_mib) << 20U;
  options.repeat = flags.quick ? 2 : flags.repeat;
  options.rounds = flags.quick ? 20 : flags.rounds;
  options.max_blocks =
      flags.quick ? std::min<std::uint64_t>(flags.max_blocks, 10'000) : flags.max_blocks;
  options.budget = flags.time_limit;
  for (auto const& id : flags.ids) {
    options.orders.push_back(parse_id_order(id));
  }
  for (auto const& name : flags.transports) {
    options.transports.push_back({name});
  }
  KVBM_EXPECTS(
      options.area_bytes >= options.bytes, InvalidArgument,
      fmt::format("--area-mib {}: less than one transfer (--mib {})", flags.area_mib, flags.mib));
  for (auto const run : options.runs) {
    static_cast<void>(run_shape(run));
    KVBM_EXPECTS(run <= options.bytes, InvalidArgument,
                 fmt::format("--runs {}: longer than a transfer (--mib {})", run, flags.mib));
  }
  for (auto const& section : flags.sections) {
    KVBM_EXPECTS(std::find(kSections.begin(), kSections.end(), section) != kSections.end(),
                 InvalidArgument,
                 fmt::format("--sections {}: say sweep, latency, faults, import or ucx", section));
  }
  options.perftest = flags.perftest.empty() ? find_program("ucx_perftest") : flags.perftest;
  return options;
}

int run(Flags const& flags) {
  auto const options = resolve(flags);
  auto const nixl = remote::find_nixl();
  auto const wanted = [&flags](char const* section) {
    return std::find(flags.sections.begin(), flags.sections.end(), section) != flags.sections.end();
  };
  auto const machine =
      fmt::format("{}, {} usable CPUs, {}; NIXL {} ({})", cpu_model(), usable_cpus(), kernel_name(),
                  nixl.version.empty() ? "of unknown version" : nixl.version, nixl.path.string());
  flags.output.text(machine + "\n");
  nlohmann::json result{{"machine", machine}};
  auto const show = [&](Table const& table) {
    flags.output.table(table);
    result[table.key()] = table.to_json();
  };
  if (wanted("sweep")) {
    nlohmann::json cases = nlohmann::json::array();
    show(bench_sweep(options, flags.output, cases));
    result["cases"] = std::move(cases);
  }
  if (wanted("latency")) { show(bench_latency(options)); }
  if (wanted("faults")) { show(bench_faults(options)); }
  if (wanted("import")) { show(bench_import(options)); }
  if (wanted("ucx")) {
    if (options.perftest.empty()) {
      std::string const why =
          "ucx_perftest is not in PATH: the wheel libucx-cu13 has it; name it with --ucx-perftest";
      flags.output.text("UCX itself is left out: " + why);
      result["ucx_skipped"] = why;
    } else {
      show(bench_perftest(options));
    }
  }
  flags.output.result(result);
  return ExitOk;
}

}  // namespace

void add_remote_bench(Commands& commands, CLI::App& bench) {
  auto const flags = std::make_shared<Flags>();
  auto& verb = commands.add(
      "remote", "blocks between two processes, by mapped memory and by NIXL, beside the limits",
      [flags] { return run(*flags); }, &bench);
  verb.add_option("--runs", flags->runs, "bytes of a block, which is one run; several allowed")
      ->delimiter(',')
      ->capture_default_str();
  verb.add_option("--ids", flags->ids, "order of block ids: random, runs, contiguous")
      ->delimiter(',')
      ->capture_default_str();
  verb.add_option("--transports", flags->transports,
                  "default, or what UCX_TLS shall be in both processes (tcp); several allowed")
      ->delimiter(',')
      ->capture_default_str();
  verb.add_option("--sections", flags->sections, "sweep, latency, faults, import, ucx")
      ->delimiter(',')
      ->capture_default_str();
  verb.add_option("--mib", flags->mib, "a transfer")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  verb.add_option("--area-mib", flags->area_mib, "memory that blocks are picked from")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  verb.add_option("--max-blocks", flags->max_blocks, "blocks of an imported peer")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  verb.add_option("--rounds", flags->rounds, "transfers of one block for latencies")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  verb.add_option("--repeat", flags->repeat, "rounds of all ways in turns; the best one counts")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  verb.add_option("--time-limit", flags->time_limit, "seconds a case, one round at least")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  verb.add_flag("--quick", flags->quick, "little of everything, to try it");
  verb.add_option("--ucx-perftest", flags->perftest, "UCX's own benchmark (default: in PATH)");
  flags->output.add_save_to(verb);
  flags->output.add_to(verb, true);
}

}  // namespace kvbm::cli
