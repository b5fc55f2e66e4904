// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sys/stat.h>
#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "kvbm/core/unique_fd.hpp"

namespace kvbm::memory {

/// Throws Error(Io) "<path>: <what>: <errno in words>" with `error` as native code.
[[noreturn]] void throw_io(std::filesystem::path const& path, std::string_view what, int error);

/// `path` with `suffix` behind its last component.
std::filesystem::path with_suffix(std::filesystem::path path, std::string_view suffix);

/// An open file descriptor, closed at the end; always close-on-exec.
class FileHandle {
 public:
  FileHandle() = default;

  /// open(2); on failure an empty handle with errno in `error`.
  static FileHandle try_open(std::filesystem::path const& path, int flags, int& error);
  /// open(2). @throws Error(NotFound) ENOENT without O_CREAT; Error(AlreadyExists) EEXIST;
  /// Error(Io)
  static FileHandle open(std::filesystem::path const& path, int flags);

  /// Takes over `fd`, which the kernel just gave; -1 makes an empty handle.
  static FileHandle adopt(int fd) noexcept {
    FileHandle handle;
    handle.fd_.reset(fd);
    return handle;
  }

  [[nodiscard]] int fd() const noexcept { return fd_.get(); }
  [[nodiscard]] explicit operator bool() const noexcept { return static_cast<bool>(fd_); }
  void close() noexcept { fd_.reset(); }

  /// fstat(2). @throws Error(Io) naming path
  [[nodiscard]] struct stat status(std::filesystem::path const& path) const;

  /// All bytes or an errno (ENODATA: the file ended); 0 is success.
  [[nodiscard]] int read_at(std::span<std::byte> bytes, std::uint64_t offset) const noexcept;
  [[nodiscard]] int write_at(std::span<std::byte const> bytes, std::uint64_t offset) const noexcept;

  /// Reserves [0, bytes): fallocate, or zeros written once where the file system has none.
  /// @return 0 or an errno
  [[nodiscard]] int preallocate(std::uint64_t bytes) const;

 private:
  UniqueFd fd_;
};

/// Room of a file system in bytes; zeros where it does not say.
struct FileSystemRoom {
  std::uint64_t free = 0;  ///< for users without privileges
  std::uint64_t total = 0;
};

/// Of the file system that `file` is on. @throws Error(Io) naming path
FileSystemRoom room_of(FileHandle const& file, std::filesystem::path const& path);

/// Whether `path` leads to `file` (its last component is not followed if it is a link).
bool leads_to(std::filesystem::path const& path, FileHandle const& file) noexcept;

/// Files that go when this goes, unless keep() was called: the undo of a creation.
class FileRemover {
 public:
  explicit FileRemover(std::filesystem::path path) : path_(std::move(path)) {}
  ~FileRemover();
  FileRemover(FileRemover const&) = delete;
  FileRemover& operator=(FileRemover const&) = delete;
  void keep() noexcept { path_.clear(); }

 private:
  std::filesystem::path path_;
};

/// fsync of the folder that holds `path`, so that names in it survive power loss.
/// @return 0 or an errno
int sync_folder_of(std::filesystem::path const& path);

/// Pid of a process holding a flock on the file of `status`, read from the text of /proc/locks.
/// @return nullopt if none is listed (another PID namespace's holder shows as 0)
std::optional<long> find_lock_holder(std::string_view locks, struct stat const& status);

}  // namespace kvbm::memory
