// SPDX-License-Identifier: Apache-2.0
#include "syscall_killer.hpp"

#include <signal.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <stdexcept>

#include "kvbm/core/error.hpp"

namespace kvbm::memory::test {
namespace {

// The child waits for its tracer at a pipe and then becomes the program. Between fork and exec only
// calls that are safe in a child of a process with threads.
pid_t start(std::vector<std::string> const& command, int gate) {
  std::vector<char*> arguments;
  for (auto const& word : command) {
    arguments.push_back(const_cast<char*>(word.c_str()));
  }
  arguments.push_back(nullptr);
  pid_t const child = fork();
  if (child != 0) { return child; }
  setpgid(0, 0);
  char go = 0;
  while (read(gate, &go, 1) < 0 && errno == EINTR) {}
  if (go == 'g') { execv(arguments[0], arguments.data()); }
  _exit(127);
}

void resume(pid_t thread, int signal) {
  // One that was killed in the meantime is not there to be resumed, which is as well.
  ptrace(PTRACE_SYSCALL, thread, nullptr, static_cast<long>(signal));
}

}  // namespace

TracedEnd run_and_kill_at(std::vector<std::string> const& command, std::uint64_t n,
                          std::function<bool()> const& counts) {
  std::array<int, 2> gate{};
  if (pipe(gate.data()) != 0) { throw std::runtime_error("pipe"); }
  pid_t const child = start(command, gate[0]);
  ::close(gate[0]);
  TracedEnd end;
  if (child < 0) {
    end.refusal = "fork: " + describe_errno(errno);
    ::close(gate[1]);
    return end;
  }
  setpgid(child, child);
  constexpr long kOptions = PTRACE_O_TRACESYSGOOD | PTRACE_O_TRACECLONE | PTRACE_O_TRACEFORK |
                            PTRACE_O_TRACEVFORK | PTRACE_O_EXITKILL;
  if (ptrace(PTRACE_SEIZE, child, nullptr, kOptions) != 0 ||
      ptrace(PTRACE_INTERRUPT, child, nullptr, nullptr) != 0) {
    end.refusal = "ptrace: " + describe_errno(errno);
    kill(child, SIGKILL);
  } else if (::write(gate[1], "g", 1) != 1) {
    kill(child, SIGKILL);
  }
  ::close(gate[1]);

  int status = 0;
  pid_t thread = 0;
  // Threads are in the group of their process; the leader is reported after all of them.
  while ((thread = waitpid(-child, &status, __WALL)) > 0 || errno == EINTR) {
    if (thread == child && (WIFEXITED(status) || WIFSIGNALED(status))) {
      end.exit_code = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
      continue;
    }
    if (thread <= 0 || !WIFSTOPPED(status)) { continue; }
    int const signal = WSTOPSIG(status);
    if (signal == (SIGTRAP | 0x80)) {
      if (!end.killed && counts()) {
        ++end.num_steps;
        if (end.num_steps == n) {
          end.killed = true;
          kill(child, SIGKILL);
          continue;
        }
      }
      resume(thread, 0);
    } else {
      bool const is_event = status >> 16 != 0;
      resume(thread, is_event ? 0 : signal);
    }
  }
  return end;
}

}  // namespace kvbm::memory::test
