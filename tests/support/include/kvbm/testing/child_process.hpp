// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <sys/socket.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdio>
#include <memory>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "kvbm/core/unique_fd.hpp"

extern char** environ;

namespace kvbm::testing {

/// A program that a test started; killed and reaped at the end.
class Process {
 public:
  /// A descriptor of the test, and the number that it has in the program.
  struct Given {
    int fd = -1;
    int number = -1;
  };

  /// @param program  its path, or its name to be looked for in PATH
  Process(std::string program, std::vector<std::string> arguments,
          std::vector<Given> const& given = {}) {
    std::vector<char*> words{program.data()};
    for (auto& argument : arguments) {
      words.push_back(argument.data());
    }
    words.push_back(nullptr);
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    for (Given const& one : given) {
      posix_spawn_file_actions_adddup2(&actions, one.fd, one.number);
    }
    int const error = posix_spawnp(&pid_, words.front(), &actions, nullptr, words.data(), environ);
    posix_spawn_file_actions_destroy(&actions);
    if (error != 0) {
      pid_ = -1;
      throw std::runtime_error("posix_spawn " + program + ": " + std::to_string(error));
    }
  }
  ~Process() { stop(); }
  Process(Process const&) = delete;
  Process& operator=(Process const&) = delete;

  [[nodiscard]] pid_t pid() const { return pid_; }
  [[nodiscard]] bool is_running() const {
    siginfo_t info{};
    return pid_ > 0 &&
           waitid(P_PID, static_cast<id_t>(pid_), &info, WEXITED | WNOWAIT | WNOHANG) == 0 &&
           info.si_pid == 0;
  }
  /// Sends `signal` and waits for nothing.
  void send_signal(int signal) const {
    if (pid_ > 0) { ::kill(pid_, signal); }
  }
  /// SIGSTOP; returns when none of its threads runs any more.
  void suspend() const {
    send_signal(SIGSTOP);
    int status = 0;
    if (::waitpid(pid_, &status, WUNTRACED) != pid_ || !WIFSTOPPED(status)) {
      throw std::runtime_error("a process does not stop");
    }
  }
  void resume() const { send_signal(SIGCONT); }
  /// Kills the process and waits until it is gone, its pid too.
  void stop() {
    send_signal(SIGKILL);
    static_cast<void>(wait());
  }
  /// Waits for its end. @return status of waitpid; 0 the second time
  int wait() {
    int status = 0;
    if (pid_ <= 0) { return status; }
    while (::waitpid(pid_, &status, 0) < 0 && errno == EINTR) {}
    pid_ = -1;
    return status;
  }

 private:
  pid_t pid_ = -1;
};

/// One end of a socket pair on which a test and its child say fixed-size things to each other.
class ChildChannel {
 public:
  /// The number that the child's end has in the child.
  static constexpr int kFdInChild = 200;

  explicit ChildChannel(int fd) : fd_(fd) {}
  void close_now() { fd_.reset(); }

  template <typename T>
  void send(T const& value) const {
    static_assert(std::is_trivially_copyable_v<T>);
    ssize_t const sent = ::send(fd_.get(), &value, sizeof value, MSG_NOSIGNAL);
    if (sent != static_cast<ssize_t>(sizeof value)) {
      throw std::runtime_error("the other process has gone");
    }
  }
  /// @return whether something came before the other end was closed
  template <typename T>
  [[nodiscard]] bool receive(T& value) const {
    static_assert(std::is_trivially_copyable_v<T>);
    ssize_t got = 0;
    do {
      got = ::recv(fd_.get(), &value, sizeof value, MSG_WAITALL);
    } while (got < 0 && errno == EINTR);
    return got == static_cast<ssize_t>(sizeof value);
  }
  template <typename T>
  [[nodiscard]] T receive() const {
    T value{};
    if (!receive(value)) { throw std::runtime_error("the other process has gone"); }
    return value;
  }

 private:
  UniqueFd fd_;
};

/// A program that talks to the test over a channel.
class ChildProcess : public Process {
 public:
  ChildProcess(std::string program, std::vector<std::string> arguments)
      : ChildProcess(std::move(program), std::move(arguments), make_ends()) {}

  [[nodiscard]] ChildChannel const& channel() const { return channel_; }
  /// Lets the child see that nobody talks to it any more.
  void hang_up() { channel_.close_now(); }

 private:
  static std::array<UniqueFd, 2> make_ends() {
    std::array<int, 2> ends{};
    if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends.data()) != 0) {
      throw std::runtime_error("socketpair");
    }
    return {UniqueFd(ends[0]), UniqueFd(ends[1])};
  }
  ChildProcess(std::string program, std::vector<std::string> arguments,
               std::array<UniqueFd, 2> ends)
      : Process(std::move(program), std::move(arguments),
                {{ends[1].get(), ChildChannel::kFdInChild}}),
        channel_(ends[0].release()) {}

  ChildChannel channel_;
};

/// A program that is told what to do line by line on its standard input, and whose standard output
/// the test reads.
class LineProcess : public Process {
 public:
  LineProcess(std::string program, std::vector<std::string> arguments)
      : LineProcess(std::move(program), std::move(arguments), Pipe(), Pipe()) {}

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
  /// The next byte of its output; 0 when it is gone.
  char next() {
    int const c = std::fgetc(from_.get());
    return c == EOF ? '\0' : static_cast<char>(c);
  }
  /// Ends its input, after which it ends by itself. @return status of waitpid
  int finish() {
    to_.reset();
    return wait();
  }

 private:
  struct Pipe {
    Pipe() {
      std::array<int, 2> ends{};
      if (::pipe2(ends.data(), O_CLOEXEC) != 0) { throw std::runtime_error("pipe2"); }
      read = UniqueFd(ends[0]);
      write = UniqueFd(ends[1]);
    }
    UniqueFd read;
    UniqueFd write;
  };
  struct Close {
    void operator()(std::FILE* file) const { std::fclose(file); }
  };

  LineProcess(std::string program, std::vector<std::string> arguments, Pipe in, Pipe out)
      : Process(std::move(program), std::move(arguments),
                {{in.read.get(), STDIN_FILENO}, {out.write.get(), STDOUT_FILENO}}),
        to_(::fdopen(in.write.release(), "w")),
        from_(::fdopen(out.read.release(), "r")) {}

  std::unique_ptr<std::FILE, Close> to_;
  std::unique_ptr<std::FILE, Close> from_;
};

}  // namespace kvbm::testing
