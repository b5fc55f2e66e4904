// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <signal.h>
#include <spawn.h>
#include <sys/socket.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

extern char** environ;

namespace kvbm::testing {

/// One end of a socket pair on which a test and its child say fixed-size things to each other.
class ChildChannel {
 public:
  /// The number that the child's end has in the child.
  static constexpr int kFdInChild = 200;

  explicit ChildChannel(int fd) : fd_(fd) {}
  ~ChildChannel() { close_now(); }
  ChildChannel(ChildChannel const&) = delete;
  ChildChannel& operator=(ChildChannel const&) = delete;
  void close_now() {
    if (fd_ >= 0) { ::close(std::exchange(fd_, -1)); }
  }

  template <typename T>
  void send(T const& value) const {
    static_assert(std::is_trivially_copyable_v<T>);
    if (::send(fd_, &value, sizeof value, MSG_NOSIGNAL) != static_cast<ssize_t>(sizeof value)) {
      throw std::runtime_error("the other process has gone");
    }
  }
  /// @return whether something came before the other end was closed
  template <typename T>
  [[nodiscard]] bool receive(T& value) const {
    static_assert(std::is_trivially_copyable_v<T>);
    ssize_t got = 0;
    do {
      got = ::recv(fd_, &value, sizeof value, MSG_WAITALL);
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
  int fd_;
};

/// A program that a test started; killed and reaped at the end.
class ChildProcess {
 public:
  ChildProcess(std::string const& program, std::vector<std::string> const& arguments)
      : ChildProcess(program, arguments, make_ends()) {}
  ~ChildProcess() { stop(); }
  ChildProcess(ChildProcess const&) = delete;
  ChildProcess& operator=(ChildProcess const&) = delete;

  [[nodiscard]] pid_t pid() const { return pid_; }
  [[nodiscard]] ChildChannel const& channel() const { return channel_; }

  /// Sends `signal` and waits for nothing.
  void send_signal(int signal) const { ::kill(pid_, signal); }
  /// Kills the process and waits until it is gone, its pid too.
  void stop() {
    if (pid_ <= 0) { return; }
    ::kill(pid_, SIGKILL);
    static_cast<void>(wait());
  }
  /// Waits for its end. @return status of waitpid
  int wait() {
    int status = 0;
    while (::waitpid(pid_, &status, 0) < 0 && errno == EINTR) {}
    pid_ = -1;
    return status;
  }
  /// Lets the child see that nobody talks to it any more.
  void hang_up() { channel_.close_now(); }

 private:
  static std::array<int, 2> make_ends() {
    std::array<int, 2> ends{};
    if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends.data()) != 0) {
      throw std::runtime_error("socketpair");
    }
    return ends;
  }

  ChildProcess(std::string const& program, std::vector<std::string> const& arguments,
               std::array<int, 2> ends)
      : channel_(ends[0]) {
    std::vector<char*> words{const_cast<char*>(program.c_str())};
    for (auto const& argument : arguments) {
      words.push_back(const_cast<char*>(argument.c_str()));
    }
    words.push_back(nullptr);
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, ends[1], ChildChannel::kFdInChild);
    int const error = posix_spawn(&pid_, program.c_str(), &actions, nullptr, words.data(), environ);
    posix_spawn_file_actions_destroy(&actions);
    ::close(ends[1]);
    if (error != 0) {
      throw std::runtime_error("posix_spawn " + program + ": " + std::to_string(error));
    }
  }

  ChildChannel channel_;
  pid_t pid_ = -1;
};

}  // namespace kvbm::testing
