// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sys/types.h>

#include <map>
#include <string>
#include <vector>

#include "kvbm/core/unique_fd.hpp"

namespace kvbm::cli {

/// Another program while it runs; killed where it still does at the end.
class ChildProcess {
 public:
  using Environment = std::map<std::string, std::string>;
  /// What its standard streams are; negative: ours. They stay the caller's.
  struct Streams {
    int in = -1;
    int out = -1;
    int err = -1;
  };

  /// None.
  ChildProcess() = default;
  /// Starts it. @param arguments  the program, looked up in PATH, first
  /// @param environment  what its environment has beside or instead of ours
  /// @throws Error(NotFound) no such program; Error(Io)
  explicit ChildProcess(std::vector<std::string> arguments, Streams streams,
                        Environment const& environment = {});
  ~ChildProcess() { kill(); }
  ChildProcess(ChildProcess&& other) noexcept;
  ChildProcess& operator=(ChildProcess&& other) noexcept;
  ChildProcess(ChildProcess const&) = delete;
  ChildProcess& operator=(ChildProcess const&) = delete;

  /// Negative: none, or it has ended and somebody here knows.
  [[nodiscard]] pid_t pid() const noexcept { return pid_; }
  /// Whether it still runs.
  [[nodiscard]] bool is_running() noexcept;
  /// Until it ends. @return its exit code; 128 + signal where one killed it  @pre pid() > 0
  int wait() noexcept;
  /// kill -9; returns when it has ended.
  void kill() noexcept;

 private:
  pid_t pid_ = -1;
};

/// pipe(2), closed in children.
struct Pipe {
  UniqueFd from;
  UniqueFd to;
};
/// @throws Error(Io)
Pipe make_pipe();

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
