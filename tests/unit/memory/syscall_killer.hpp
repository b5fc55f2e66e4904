// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

namespace kvbm::memory::test {

/// How a traced program ended.
struct TracedEnd {
  std::string refusal;          ///< why it could not be traced; empty: it was
  bool killed = false;          ///< at the step asked for
  int exit_code = -1;           ///< where it ended by itself; -1: by a signal
  std::uint64_t num_steps = 0;  ///< while counts() was true
};

/// Runs `command` under ptrace with all its threads and kills all of it at the n-th step for which
/// `counts` returned true. A step is a thread that enters a system call, which is then not done any
/// more, or one that leaves it, which then has been done and nobody learns it. Returns when the
/// process is gone.
/// @param n  0: never
TracedEnd run_and_kill_at(std::vector<std::string> const& command, std::uint64_t n,
                          std::function<bool()> const& counts);

}  // namespace kvbm::memory::test
