// SPDX-License-Identifier: Apache-2.0
#include "memory/process.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <charconv>
#include <fstream>
#include <limits>
#include <string>
#include <utility>

#include "kvbm/core/error.hpp"
#include "memory/file_handle.hpp"

namespace kvbm::memory {
namespace {

// Empty if it cannot be read, also because its process went meanwhile.
std::string read_text(std::string const& path) {
  std::ifstream file(path);
  std::string text;
  std::getline(file, text, '\0');
  return text;
}

// "01234567-89ab-cdef-0123-456789abcdef"
std::optional<std::array<std::uint64_t, 2>> parse_boot_id(std::string_view text) {
  std::string digits;
  for (char const letter : text) {
    if (letter != '-' && letter != '\n') { digits += letter; }
  }
  constexpr std::size_t kDigits = 16;
  if (digits.size() != 2 * kDigits) { return std::nullopt; }
  std::array<std::uint64_t, 2> id{};
  for (std::size_t i = 0; i < id.size(); ++i) {
    char const* const first = digits.data() + i * kDigits;
    auto const [end, error] = std::from_chars(first, first + kDigits, id.at(i), 16);
    if (error != std::errc{} || end != first + kDigits) { return std::nullopt; }
  }
  return id;
}

struct Machine {
  std::array<std::uint64_t, 2> boot_id{};
  std::uint64_t pid_namespace = 0;
};

Machine this_machine() {
  auto const boot_id = parse_boot_id(read_text("/proc/sys/kernel/random/boot_id"));
  struct stat pid_namespace{};
  std::error_code error;
  auto const self = std::filesystem::read_symlink("/proc/self", error);
  if (!boot_id || error || stat("/proc/self/ns/pid", &pid_namespace) != 0) {
    throw UnsupportedError("/proc is needed to share memory with other processes; mount it");
  }
  if (self.string() != std::to_string(getpid())) {
    throw UnsupportedError(
        fmt::format("/proc shows another PID namespace, in which this process is {} and not {}: "
                    "mount the one that belongs to it",
                    self.string(), getpid()));
  }
  return {*boot_id, pid_namespace.st_ino};
}

std::optional<ProcessStat> read_stat(std::int64_t pid) {
  return parse_process_stat(read_text(fmt::format("/proc/{}/stat", pid)));
}

bool is_running(ProcessStat const& found, ProcessName const& process) {
  return found.start_time == process.start_time && found.state != 'Z' && found.state != 'X';
}

}  // namespace

std::optional<ProcessStat> parse_process_stat(std::string_view text) {
  auto const name_end = text.rfind(") ");
  if (name_end == std::string_view::npos) { return std::nullopt; }
  text.remove_prefix(name_end + 2);
  if (text.empty()) { return std::nullopt; }
  ProcessStat found;
  found.state = text.front();
  // The state is field 3, the start time field 22.
  for (int field = 3; field < 22; ++field) {
    auto const space = text.find(' ');
    if (space == std::string_view::npos) { return std::nullopt; }
    text.remove_prefix(space + 1);
  }
  auto const [end, error] =
      std::from_chars(text.data(), text.data() + text.size(), found.start_time);
  if (error != std::errc{}) { return std::nullopt; }
  return found;
}

ProcessName ProcessName::current() {
  auto const [boot_id, pid_namespace] = this_machine();
  std::int64_t const pid = getpid();
  auto const found = read_stat(pid);
  if (!found) { throw UnsupportedError("/proc/self/stat says no start time"); }
  return {boot_id, pid_namespace, pid, found->start_time};
}

bool is_same_machine(ProcessName const& process) {
  auto const [boot_id, pid_namespace] = this_machine();
  return process.boot_id == boot_id && process.pid_namespace == pid_namespace;
}

void expect_same_machine(ProcessName const& process) {
  if (!is_same_machine(process)) {
    throw UnsupportedError(
        fmt::format("process {} is of another machine, another boot of it, or another PID "
                    "namespace: it cannot be looked up in /proc",
                    process.pid));
  }
  KVBM_EXPECTS(process.pid > 0 && process.pid <= std::numeric_limits<pid_t>::max(), InvalidArgument,
               fmt::format("{} is no pid", process.pid));
}

bool is_alive_by_stat(ProcessName const& process) {
  auto const found = read_stat(process.pid);
  return found && is_running(*found, process);
}

class ProcessWatch::Impl {
 public:
  explicit Impl(ProcessName const& process) : process_(process) {
    expect_same_machine(process);
#ifdef SYS_pidfd_open
    pidfd_ = FileHandle::adopt(
        static_cast<int>(syscall(SYS_pidfd_open, static_cast<pid_t>(process.pid), 0U)));
#endif
    // Whose pid it is must be asked after the kernel has tied us to one process.
    if (pidfd_ && !is_alive_by_stat(process_)) { pidfd_.close(); }
  }

  [[nodiscard]] bool ends_within(std::chrono::milliseconds timeout) const {
    if (!pidfd_) { return !is_alive_by_stat(process_); }
    pollfd ended{pidfd_.fd(), POLLIN, 0};
    int ready = 0;
    do {
      ready = poll(&ended, 1, static_cast<int>(timeout.count()));
    } while (ready < 0 && errno == EINTR);
    return ready < 0 ? !is_alive_by_stat(process_) : ready != 0;
  }

 private:
  ProcessName process_;
  FileHandle pidfd_;
};

ProcessWatch::ProcessWatch(ProcessName const& process)
    : impl_(std::make_unique<Impl const>(process)) {}
ProcessWatch::~ProcessWatch() = default;
ProcessWatch::ProcessWatch(ProcessWatch&& other) noexcept = default;
ProcessWatch& ProcessWatch::operator=(ProcessWatch&& other) noexcept = default;

bool ProcessWatch::is_alive() const { return !ends_within(std::chrono::milliseconds(0)); }

bool ProcessWatch::ends_within(std::chrono::milliseconds timeout) const {
  return impl_->ends_within(timeout);
}

}  // namespace kvbm::memory
