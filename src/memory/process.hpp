// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

#include "kvbm/memory/shared_memory.hpp"

namespace kvbm::memory {

/// What /proc/<pid>/stat says.
struct ProcessStat {
  char state = 0;
  std::uint64_t start_time = 0;
};

/// Reads state and start time out of the text of /proc/<pid>/stat. The name in it, which a process
/// chooses itself, may contain whatever it likes.
std::optional<ProcessStat> parse_process_stat(std::string_view text);

/// Whether `process` runs, by the files of /proc alone.
bool is_alive_by_stat(ProcessName const& process);

/// @throws Error(Unsupported), Error(InvalidArgument) unless `process` can be looked up in /proc
void expect_same_machine(ProcessName const& process);

}  // namespace kvbm::memory
