// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <vector>

namespace kvbm::cli {

/// How another program ended.
struct ProcessResult {
  int exit_code = -1;  ///< 128 + signal where one killed it
  std::string output;  ///< its standard output
};

/// Runs a program (looked up in PATH) and waits for it; its standard error is ours.
/// @throws Error(NotFound) no such program; Error(Io)
ProcessResult run_process(std::vector<std::string> const& arguments);

/// The path of this very program.
std::string own_path();

/// Whether a program is in PATH.
bool has_program(std::string const& name);
/// Its path; empty where it is not.
std::string find_program(std::string const& name);

}  // namespace kvbm::cli
