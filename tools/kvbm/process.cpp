// SPDX-License-Identifier: Apache-2.0
#include "process.hpp"

#include <fmt/format.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdlib>
#include <filesystem>
#include <sstream>

#include "kvbm/core/error.hpp"

namespace kvbm::cli {

ProcessResult run_process(std::vector<std::string> const& arguments) {
  std::array<int, 2> ends{};
  KVBM_EXPECTS(::pipe(ends.data()) == 0, Io, "pipe: " + describe_errno(errno));
  std::vector<char*> argv;
  argv.reserve(arguments.size() + 1);
  for (auto const& argument : arguments) {
    argv.push_back(const_cast<char*>(argument.c_str()));
  }
  argv.push_back(nullptr);

  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, ends[1], STDOUT_FILENO);
  posix_spawn_file_actions_addclose(&actions, ends[0]);
  posix_spawn_file_actions_addclose(&actions, ends[1]);
  pid_t child = -1;
  int const error = ::posix_spawnp(&child, argv[0], &actions, nullptr, argv.data(), environ);
  posix_spawn_file_actions_destroy(&actions);
  ::close(ends[1]);
  if (error != 0) {
    ::close(ends[0]);
    throw Error(error == ENOENT ? ErrorCode::NotFound : ErrorCode::Io,
                fmt::format("cannot run {}: {}", arguments.front(), describe_errno(error)), error);
  }

  ProcessResult result;
  std::array<char, 65536> buffer{};
  for (;;) {
    ssize_t const got = ::read(ends[0], buffer.data(), buffer.size());
    if (got > 0) { result.output.append(buffer.data(), static_cast<std::size_t>(got)); }
    if (got == 0 || (got < 0 && errno != EINTR)) { break; }
  }
  ::close(ends[0]);
  int status = 0;
  while (::waitpid(child, &status, 0) < 0 && errno == EINTR) {}
  result.exit_code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  return result;
}

std::string own_path() { return std::filesystem::read_symlink("/proc/self/exe").string(); }

bool has_program(std::string const& name) { return !find_program(name).empty(); }

std::string find_program(std::string const& name) {
  char const* const path = std::getenv("PATH");
  std::istringstream folders(path != nullptr ? path : "");
  for (std::string folder; std::getline(folders, folder, ':');) {
    folder += '/';
    folder += name;
    if (::access(folder.c_str(), X_OK) == 0) { return folder; }
  }
  return {};
}

}  // namespace kvbm::cli
