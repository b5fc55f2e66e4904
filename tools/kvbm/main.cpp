// SPDX-License-Identifier: Apache-2.0
//
// kvbm: the library's main jobs from a shell. One file per verb; this one reads the command line
// and turns every outcome into an exit code.

#include <fmt/format.h>

#include <cstdio>
#include <exception>
#include <new>
#include <string>

#include "command.hpp"
#include "exit_code.hpp"
#include "kvbm/core/error.hpp"
#include "kvbm/core/version.hpp"

namespace {

using namespace kvbm::cli;

constexpr char const* kFooter =
    "Exit codes: 0 done; 1 data differs or is corrupt (doctor --strict: warnings); 2 doctor found "
    "something that keeps kvbm from working; 3 the operation failed; 64 wrong command line.\n"
    "Figures and options: docs/reference/cli.md";

int fail(ExitCode code, std::string const& message) {
  fmt::print(stderr, "kvbm: {}\n", message);
  return code;
}

ExitCode exit_code_of(kvbm::ErrorCode code) {
  switch (code) {
    case kvbm::ErrorCode::InvalidArgument:
    case kvbm::ErrorCode::OutOfRange:
    case kvbm::ErrorCode::Overflow: return ExitUsage;
    case kvbm::ErrorCode::Corrupt: return ExitFinding;
    default: return ExitError;
  }
}

int run(int argc, char** argv) {
  CLI::App app("Moves KV-cache blocks of language models between memory tiers and layouts.",
               "kvbm");
  app.set_version_flag("--version", std::string("kvbm ") + kvbm::version());
  app.set_help_all_flag("--help-all", "help of every command");
  app.require_subcommand(1);
  app.footer(kFooter);

  Commands commands(app);
  add_demo(commands);
  add_info(commands);
  add_doctor(commands);
  add_bench(commands);
  add_tune(commands);
  add_explain(commands);
  add_verify(commands);
  add_demo_onboard(commands);
  add_remote_worker(commands);
  for (CLI::App* const verb : app.get_subcommands({})) {
    verb->footer(kFooter);
  }

  try {
    app.parse(argc, argv);
  } catch (CLI::ParseError const& error) {
    if (error.get_exit_code() == 0) { return app.exit(error); }  // --help, --version
    return fail(ExitUsage,
                fmt::format("{}; `kvbm --help` and `kvbm COMMAND --help` list what there is",
                            error.what()));
  }
  return commands.run();
}

}  // namespace

int main(int argc, char** argv) {
  try {
    return run(argc, argv);
  } catch (kvbm::Error const& error) {
    return fail(exit_code_of(error.code()), error.what());
  } catch (std::bad_alloc const&) {
    return fail(ExitError,
                "out of memory; ask for fewer blocks (--blocks) or a smaller --workload");
  } catch (std::exception const& error) { return fail(ExitError, error.what()); }
}
