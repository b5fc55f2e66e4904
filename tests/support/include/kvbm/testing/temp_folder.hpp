// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

namespace kvbm::testing {

/// A new empty folder below TMPDIR or /tmp, removed with its content at the end.
class TempFolder {
 public:
  TempFolder();
  ~TempFolder();
  TempFolder(TempFolder const&) = delete;
  TempFolder& operator=(TempFolder const&) = delete;

  [[nodiscard]] std::filesystem::path const& path() const noexcept { return path_; }
  [[nodiscard]] std::filesystem::path operator/(std::string const& name) const {
    return path_ / name;
  }
  /// Names of what is in it, sorted.
  [[nodiscard]] std::vector<std::string> list() const;

 private:
  std::filesystem::path path_;
};

/// A file system in memory: a tmpfs of a few bytes, for full disks, or a ramfs, which has neither a
/// size nor fallocate. Needs the right to mount.
class SmallFileSystem {
 public:
  /// @param read_only  nothing can be created in it
  explicit SmallFileSystem(std::uint64_t bytes, bool read_only = false, char const* type = "tmpfs");
  ~SmallFileSystem();
  SmallFileSystem(SmallFileSystem const&) = delete;
  SmallFileSystem& operator=(SmallFileSystem const&) = delete;

  /// Why it is not there; empty: it is.
  [[nodiscard]] std::string const& refusal() const noexcept { return refusal_; }
  [[nodiscard]] std::filesystem::path const& path() const noexcept { return folder_.path(); }

 private:
  TempFolder folder_;
  std::string refusal_;
};

}  // namespace kvbm::testing
