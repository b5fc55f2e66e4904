// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

namespace kvbm::cli {

/// The text of a small file; nullopt where it cannot be read.
std::optional<std::string> read_text(std::filesystem::path const& path);
/// Without white space at both ends.
std::string trim(std::string const& text);

/// "Linux 6.1.0".
std::string kernel_name();
/// The processor's name; "unknown processor" where the kernel does not say.
std::string cpu_model();
/// Processors that are switched on, and those this process may use.
unsigned online_cpus();
unsigned usable_cpus();
/// CPU time a second that the control group allows, in processors; nullopt without a limit.
std::optional<double> cgroup_cpus();
bool has_avx2();
/// Bytes of memory, and those that are free or can be freed.
std::uint64_t total_memory();
std::uint64_t available_memory();

/// Bytes this process may lock; nullopt without a limit.
std::optional<std::uint64_t> memlock_limit();
/// Rows of the distance table, nodes in order; empty where the kernel has no NUMA.
std::vector<std::string> numa_distances();
/// Whether a kernel module is loaded.
bool has_module(std::string const& name);
/// Whether a shared library can be loaded, and why not.
struct LibraryProbe {
  bool found = false;
  std::string reason;
};
LibraryProbe probe_library(char const* name);

/// What a folder allows.
struct FolderProbe {
  bool writable = false;
  bool direct = false;      ///< O_DIRECT can be opened there
  std::string reason;       ///< why not writable, or why not direct
  std::string file_system;  ///< "ext4"; "0x794c7630" where we know no name
  std::uint64_t free_bytes = 0;
};
/// Makes a small file there and removes it again.
FolderProbe probe_folder(std::filesystem::path const& folder);

}  // namespace kvbm::cli
