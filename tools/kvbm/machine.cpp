// SPDX-License-Identifier: Apache-2.0
#include "machine.hpp"

#include <dlfcn.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <sched.h>
#include <sys/resource.h>
#include <sys/statfs.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <fstream>
#include <sstream>
#include <utility>

#include "kvbm/core/error.hpp"
#include "kvbm/core/unique_fd.hpp"

namespace kvbm::cli {
namespace {

std::uint64_t meminfo_bytes(std::string const& key) {
  std::istringstream lines(read_text("/proc/meminfo").value_or(""));
  for (std::string line; std::getline(lines, line);) {
    if (line.rfind(key + ":", 0) == 0) {
      return std::strtoull(line.c_str() + key.size() + 1, nullptr, 10) << 10U;
    }
  }
  return 0;
}

std::string file_system_name(std::uint64_t magic) {
  static constexpr std::array<std::pair<std::uint64_t, char const*>, 9> kNames{{
      {0xEF53, "ext4"},
      {0x58465342, "xfs"},
      {0x9123683E, "btrfs"},
      {0x01021994, "tmpfs"},
      {0x794C7630, "overlayfs"},
      {0x6969, "nfs"},
      {0x2FC12FC1, "zfs"},
      {0x65735546, "fuse"},
      {0x01021997, "9p"},
  }};
  for (auto const& [number, name] : kNames) {
    if (number == magic) { return name; }
  }
  return fmt::format("file system {:#x}", magic);
}

}  // namespace

std::optional<std::string> read_text(std::filesystem::path const& path) {
  std::ifstream file(path);
  if (!file) { return std::nullopt; }
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

std::string trim(std::string const& text) {
  auto const begin = text.find_first_not_of(" \t\n");
  if (begin == std::string::npos) { return {}; }
  return text.substr(begin, text.find_last_not_of(" \t\n") - begin + 1);
}

std::string kernel_name() {
  utsname name{};
  return ::uname(&name) == 0 ? fmt::format("{} {}", name.sysname, name.release) : "unknown kernel";
}

std::string cpu_model() {
  std::istringstream lines(read_text("/proc/cpuinfo").value_or(""));
  for (std::string line; std::getline(lines, line);) {
    if (line.rfind("model name", 0) == 0) { return trim(line.substr(line.find(':') + 1)); }
  }
  return "unknown processor";
}

unsigned online_cpus() {
  return static_cast<unsigned>(std::max<long>(1, ::sysconf(_SC_NPROCESSORS_ONLN)));
}

unsigned usable_cpus() {
  cpu_set_t set;
  CPU_ZERO(&set);
  return ::sched_getaffinity(0, sizeof set, &set) == 0 ? static_cast<unsigned>(CPU_COUNT(&set))
                                                       : online_cpus();
}

std::optional<double> cgroup_cpus() {
  std::istringstream text(read_text("/sys/fs/cgroup/cpu.max").value_or("max"));
  std::string quota;
  double period = 0;
  text >> quota >> period;
  if (quota == "max" || quota.empty() || period <= 0) { return std::nullopt; }
  return std::strtod(quota.c_str(), nullptr) / period;
}

bool has_avx2() {
#if defined(__x86_64__)
  return __builtin_cpu_supports("avx2") != 0;
#else
  return false;
#endif
}

std::uint64_t total_memory() { return meminfo_bytes("MemTotal"); }
std::uint64_t available_memory() { return meminfo_bytes("MemAvailable"); }

std::optional<std::uint64_t> memlock_limit() {
  rlimit limit{};
  if (::getrlimit(RLIMIT_MEMLOCK, &limit) != 0 || limit.rlim_cur == RLIM_INFINITY) {
    return std::nullopt;
  }
  return limit.rlim_cur;
}

std::vector<std::string> numa_distances() {
  std::vector<std::string> rows;
  for (int node = 0;; ++node) {
    auto const row = read_text(fmt::format("/sys/devices/system/node/node{}/distance", node));
    if (!row) { return rows; }
    rows.push_back(trim(*row));
  }
}

bool has_module(std::string const& name) {
  std::istringstream lines(read_text("/proc/modules").value_or(""));
  for (std::string line; std::getline(lines, line);) {
    if (line.rfind(name + " ", 0) == 0) { return true; }
  }
  return std::filesystem::exists("/sys/module/" + name);
}

LibraryProbe probe_library(char const* name) {
  void* const library = ::dlopen(name, RTLD_LAZY | RTLD_LOCAL);
  if (library == nullptr) {
    char const* const why = ::dlerror();
    return {false, why != nullptr ? why : "cannot be loaded"};
  }
  ::dlclose(library);
  return {true, name};
}

FolderProbe probe_folder(std::filesystem::path const& folder) {
  FolderProbe probe;
  struct statfs info{};
  if (::statfs(folder.c_str(), &info) != 0) {
    probe.reason = describe_errno(errno);
    return probe;
  }
  probe.file_system = file_system_name(static_cast<std::uint64_t>(info.f_type) & 0xFFFFFFFFU);
  probe.free_bytes =
      static_cast<std::uint64_t>(info.f_bavail) * static_cast<std::uint64_t>(info.f_bsize);
  std::string name = (folder / "kvbm-probe-XXXXXX").string();
  UniqueFd file(::mkstemp(name.data()));
  if (!file) {
    probe.reason = describe_errno(errno);
    return probe;
  }
  probe.writable = true;
  file.reset(::open(name.c_str(), O_RDWR | O_DIRECT | O_CLOEXEC));
  probe.direct = static_cast<bool>(file);
  probe.reason = probe.direct ? "O_DIRECT" : "open with O_DIRECT: " + describe_errno(errno);
  ::unlink(name.c_str());
  return probe;
}

}  // namespace kvbm::cli
