// SPDX-License-Identifier: Apache-2.0
//
// kvbm doctor: what decides speed and correctness on this machine, and what to do about it.

#include <fmt/format.h>

#include <algorithm>
#include <memory>

#include "command.hpp"
#include "doctor_checks.hpp"
#include "exit_code.hpp"
#include "report.hpp"

namespace kvbm::cli {
namespace {

struct DoctorOptions {
  std::string path;
  std::string bucket;
  double needed_gib = 1;
  bool strict = false;
  Output output;
};

int run(DoctorOptions const& options) {
  std::filesystem::path const folder = options.path.empty() ? std::filesystem::temp_directory_path()
                                                            : std::filesystem::path(options.path);
  auto const checks = run_checks(
      folder, static_cast<std::uint64_t>(options.needed_gib * (1ULL << 30U)), options.bucket);
  Table table("checks", "",
              {{"health", "", false}, {"check", "check", false}, {"found", "found", false}});
  for (auto const& check : checks) {
    table.add({to_string(check.health), check.name, check.found});
  }
  options.output.table(table);
  for (auto const& check : checks) {
    if (check.health == Health::Warn || check.health == Health::Fail) {
      options.output.text(
          fmt::format("{}: {}: {}", to_string(check.health), check.name, check.advice));
    }
  }
  auto const count = [&checks](Health health) {
    return std::count_if(checks.begin(), checks.end(),
                         [health](auto const& check) { return check.health == health; });
  };
  auto const warnings = count(Health::Warn);
  auto const fails = count(Health::Fail);
  options.output.text(fails == 0 && warnings == 0
                          ? std::string("all is well")
                          : fmt::format("{} warning(s), {} failure(s)", warnings, fails));
  nlohmann::json list = nlohmann::json::array();
  for (auto const& check : checks) {
    list.push_back({{"key", check.key},
                    {"name", check.name},
                    {"health", to_string(check.health)},
                    {"found", check.found},
                    {"advice", check.advice}});
  }
  options.output.result({{"checks", list}, {"warnings", warnings}, {"failures", fails}});
  if (fails > 0) { return ExitFail; }
  return options.strict && warnings > 0 ? ExitFinding : ExitOk;
}

}  // namespace

void add_doctor(Commands& commands) {
  auto const options = std::make_shared<DoctorOptions>();
  auto& verb = commands.add("doctor", "check what decides speed and correctness on this machine",
                            [options] { return run(*options); });
  verb.add_option("--path", options->path,
                  "folder of the disk tier (default: the folder for temporary files)");
  verb.add_option("--needed-gib", options->needed_gib, "room that the disk tier needs there, GiB")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  verb.add_option("--bucket", options->bucket,
                  "bucket of the object tier, on the server of AWS_ENDPOINT_URL, else AWS itself");
  verb.add_flag("--strict", options->strict, "exit with 1 if there are warnings");
  options->output.add_to(verb);
}

}  // namespace kvbm::cli
