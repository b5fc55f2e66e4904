// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cstdio>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

extern char** environ;

namespace kvbm::remote::test {

/// A process that is told what to do line by line and answers with a line each. Killed at the end.
class LineProcess {
 public:
  /// @param arguments  the program's path first, or its name to be looked for in PATH
  explicit LineProcess(std::vector<std::string> arguments) {
    std::vector<char*> pointers;
    for (auto& argument : arguments) {
      pointers.push_back(argument.data());
    }
    pointers.push_back(nullptr);
    std::array<int, 2> in{};
    std::array<int, 2> out{};
    if (pipe2(in.data(), O_CLOEXEC) != 0) { throw std::runtime_error("pipe2"); }
    if (pipe2(out.data(), O_CLOEXEC) != 0) { throw std::runtime_error("pipe2"); }
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, in[0], STDIN_FILENO);
    posix_spawn_file_actions_adddup2(&actions, out[1], STDOUT_FILENO);
    int const error =
        posix_spawnp(&pid_, pointers.front(), &actions, nullptr, pointers.data(), environ);
    posix_spawn_file_actions_destroy(&actions);
    close(in[0]);
    close(out[1]);
    to_.reset(fdopen(in[1], "w"));
    from_.reset(fdopen(out[0], "r"));
    if (error != 0) {
      pid_ = -1;
      throw std::runtime_error("posix_spawn of " + arguments.front());
    }
  }
  ~LineProcess() {
    kill_now();
    reap();
  }
  LineProcess(LineProcess const&) = delete;
  LineProcess& operator=(LineProcess const&) = delete;

  /// Sends a line and gives the answer; empty when the process is gone.
  std::string ask(std::string const& line) {
    std::fputs((line + "\n").c_str(), to_.get());
    std::fflush(to_.get());
    return answer();
  }
  std::string answer() {
    std::string line;
    for (int c = std::fgetc(from_.get()); c != EOF && c != '\n'; c = std::fgetc(from_.get())) {
      line += static_cast<char>(c);
    }
    return line;
  }
  [[nodiscard]] pid_t pid() const { return pid_; }
  void kill_now() const {
    if (pid_ > 0) { ::kill(pid_, SIGKILL); }
  }
  [[nodiscard]] bool is_running() const {
    siginfo_t info{};
    return pid_ > 0 &&
           waitid(P_PID, static_cast<id_t>(pid_), &info, WEXITED | WNOWAIT | WNOHANG) == 0 &&
           info.si_pid == 0;
  }
  /// Its wait status, after it ended.
  int reap() {
    int status = 0;
    if (pid_ > 0) { waitpid(pid_, &status, 0); }
    pid_ = -1;
    return status;
  }
  /// Ends its input, after which it ends by itself.
  int finish() {
    to_.reset();
    return reap();
  }

 private:
  struct Close {
    void operator()(std::FILE* file) const { std::fclose(file); }
  };
  pid_t pid_ = -1;
  std::unique_ptr<std::FILE, Close> to_;
  std::unique_ptr<std::FILE, Close> from_;
};

}  // namespace kvbm::remote::test
