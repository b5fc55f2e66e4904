// SPDX-License-Identifier: Apache-2.0
#include "process.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>

#include <array>
#include <cerrno>
#include <cstdlib>
#include <filesystem>
#include <sstream>
#include <utility>

#include "kvbm/core/error.hpp"

namespace kvbm::cli {
namespace {

std::vector<std::string> merged(ChildProcess::Environment const& extra) {
  std::vector<std::string> result;
  for (char** entry = environ; *entry != nullptr; ++entry) {
    std::string text = *entry;
    if (!extra.contains(text.substr(0, text.find('=')))) { result.push_back(std::move(text)); }
  }
  for (auto const& [name, value] : extra) {
    result.push_back(fmt::format("{}={}", name, value));
  }
  return result;
}

std::vector<char*> pointers(std::vector<std::string>& texts) {
  std::vector<char*> result;
  result.reserve(texts.size() + 1);
  for (auto& text : texts) {
    result.push_back(text.data());
  }
  result.push_back(nullptr);
  return result;
}

}  // namespace

ChildProcess::ChildProcess(std::vector<std::string> arguments, Streams streams,
                           Environment const& environment) {
  auto variables = merged(environment);
  auto const argv = pointers(arguments);
  auto const envp = pointers(variables);
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  for (auto const& [theirs, number] :
       {std::pair(streams.in, STDIN_FILENO), std::pair(streams.out, STDOUT_FILENO),
        std::pair(streams.err, STDERR_FILENO)}) {
    if (theirs >= 0) { posix_spawn_file_actions_adddup2(&actions, theirs, number); }
  }
  int const error =
      ::posix_spawnp(&pid_, argv.front(), &actions, nullptr, argv.data(), envp.data());
  posix_spawn_file_actions_destroy(&actions);
  if (error != 0) {
    throw Error(error == ENOENT ? ErrorCode::NotFound : ErrorCode::Io,
                fmt::format("cannot run {}: {}", arguments.front(), describe_errno(error)), error);
  }
}

ChildProcess::ChildProcess(ChildProcess&& other) noexcept : pid_(std::exchange(other.pid_, -1)) {}

ChildProcess& ChildProcess::operator=(ChildProcess&& other) noexcept {
  if (this != &other) {
    kill();
    pid_ = std::exchange(other.pid_, -1);
  }
  return *this;
}

bool ChildProcess::is_running() noexcept {
  if (pid_ > 0 && ::waitpid(pid_, nullptr, WNOHANG) != 0) { pid_ = -1; }
  return pid_ > 0;
}

int ChildProcess::wait() noexcept {
  int status = 0;
  while (::waitpid(pid_, &status, 0) < 0 && errno == EINTR) {}
  pid_ = -1;
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

void ChildProcess::kill() noexcept {
  if (pid_ <= 0) { return; }
  ::kill(pid_, SIGKILL);
  wait();
}

Pipe make_pipe() {
  std::array<int, 2> ends{};
  KVBM_EXPECTS(::pipe2(ends.data(), O_CLOEXEC) == 0, Io, "pipe: " + describe_errno(errno));
  return {UniqueFd(ends[0]), UniqueFd(ends[1])};
}

ProcessResult run_process(std::vector<std::string> const& arguments) {
  auto pipe = make_pipe();
  ChildProcess child(arguments, {-1, pipe.to.get(), -1});
  pipe.to.reset();
  ProcessResult result;
  std::array<char, 65536> buffer{};
  for (;;) {
    ssize_t const got = ::read(pipe.from.get(), buffer.data(), buffer.size());
    if (got > 0) { result.output.append(buffer.data(), static_cast<std::size_t>(got)); }
    if (got == 0 || (got < 0 && errno != EINTR)) { break; }
  }
  result.exit_code = child.wait();
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
