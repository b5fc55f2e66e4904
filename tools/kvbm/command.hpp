// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <CLI/CLI.hpp>

#include <functional>
#include <string>
#include <utility>
#include <vector>

namespace kvbm::cli {

/// The verbs, each with what it does once the command line is read.
class Commands {
 public:
  explicit Commands(CLI::App& app) : app_(&app) {}

  /// A verb under `parent` (default: the program) that runs `body` and returns its exit code.
  CLI::App& add(std::string const& name, std::string const& what, std::function<int()> body,
                CLI::App* parent = nullptr) {
    CLI::App* const verb = (parent != nullptr ? parent : app_)->add_subcommand(name, what);
    bodies_.emplace_back(verb, std::move(body));
    return *verb;
  }

  /// Runs the verb that was named; of a verb and its own sub-verb, the latter.
  [[nodiscard]] int run() const {
    for (auto i = bodies_.rbegin(); i != bodies_.rend(); ++i) {
      if (i->first->parsed()) { return i->second(); }
    }
    return -1;
  }

 private:
  CLI::App* app_;
  std::vector<std::pair<CLI::App*, std::function<int()>>> bodies_;
};

void add_demo(Commands& commands);
void add_demo_onboard(Commands& commands);
void add_info(Commands& commands);
void add_doctor(Commands& commands);
void add_bench(Commands& commands);
void add_figures(Commands& commands, CLI::App& bench);
void add_gpu_bench(Commands& commands, CLI::App& bench);
void add_remote_bench(Commands& commands, CLI::App& bench);
void add_object_bench(Commands& commands, CLI::App& bench);
void add_disk_bench(Commands& commands, CLI::App& bench);
void add_prefix_bench(Commands& commands, CLI::App& bench);
void add_remote_worker(Commands& commands);
void add_tune(Commands& commands);
void add_explain(Commands& commands);
void add_verify(Commands& commands);

}  // namespace kvbm::cli
