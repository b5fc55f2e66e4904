// SPDX-License-Identifier: Apache-2.0
#include "remote/process_identity.hpp"

#include <signal.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <charconv>
#include <filesystem>
#include <fstream>
#include <limits>
#include <optional>
#include <sstream>
#include <string_view>

#include "kvbm/core/error.hpp"

namespace kvbm::remote {
namespace {

std::string first_line(std::string const& path) {
  std::ifstream file(path);
  std::string line;
  std::getline(file, line);
  return line;
}

struct ProcessState {
  char state;
  std::uint64_t start_time;
};

/// From /proc/<pid>/stat; nullopt when there is no such process.
std::optional<ProcessState> process_state(std::string const& pid) {
  std::string const line = first_line("/proc/" + pid + "/stat");
  // The program's name is in parentheses and may hold anything, parentheses and spaces too.
  auto const end_of_name = line.rfind(") ");
  if (end_of_name == std::string::npos) { return std::nullopt; }
  std::istringstream fields(line.substr(end_of_name + 2));
  constexpr int kStartTimeField = 22;
  constexpr int kFirstField = 3;
  ProcessState result{};
  std::string field;
  for (int i = kFirstField; i <= kStartTimeField; ++i) {
    if (!(fields >> field)) { return std::nullopt; }
    if (i == kFirstField) { result.state = field.front(); }
  }
  auto const parsed = std::from_chars(field.data(), field.data() + field.size(), result.start_time);
  if (parsed.ec != std::errc{}) { return std::nullopt; }
  return result;
}

std::string host_name() {
  std::array<char, 256> name{};
  if (gethostname(name.data(), name.size() - 1) != 0) { return {}; }
  return name.data();
}

}  // namespace

ProcessIdentity this_process() {
  ProcessIdentity self;
  self.host = host_name();
  self.machine_id = first_line("/etc/machine-id");
  self.boot_id = first_line("/proc/sys/kernel/random/boot_id");
  std::error_code error;
  self.pid_namespace = std::filesystem::read_symlink("/proc/self/ns/pid", error).string();
  self.pid = getpid();
  auto const state = process_state("self");
  KVBM_EXPECTS(state.has_value() && !self.boot_id.empty(), Io,
               "/proc cannot be read, which tells whether a process still runs; mount it");
  self.start_time = state->start_time;
  return self;
}

bool is_certainly_gone(ProcessIdentity const& other, ProcessIdentity const& self) {
  if (other.boot_id != self.boot_id) {
    // This machine, before its last boot. Both ids: machines cloned from one image may share one.
    return !self.machine_id.empty() && other.machine_id == self.machine_id && !self.host.empty() &&
           other.host == self.host;
  }
  if (other.pid_namespace != self.pid_namespace) { return false; }
  if (other.pid <= 0 || other.pid > std::numeric_limits<pid_t>::max()) { return true; }
  if (kill(static_cast<pid_t>(other.pid), 0) != 0 && errno == ESRCH) { return true; }
  // Unreadable (/proc with hidepid, no file descriptors left): nothing is certain then.
  auto const state = process_state(std::to_string(other.pid));
  // A zombie runs no code any more; its parent has not looked yet.
  return state &&
         (state->start_time != other.start_time || state->state == 'Z' || state->state == 'X');
}

}  // namespace kvbm::remote
