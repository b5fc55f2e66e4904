// SPDX-License-Identifier: Apache-2.0
#include "memory/file_handle.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/statvfs.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <system_error>
#include <vector>

#include "kvbm/core/error.hpp"

namespace kvbm::memory {

void throw_io(std::filesystem::path const& path, std::string_view what, int error) {
  throw_error(ErrorCode::Io, fmt::format("{}: {}: {}", path.string(), what, describe_errno(error)),
              error);
}

std::filesystem::path with_suffix(std::filesystem::path path, std::string_view suffix) {
  path += suffix;
  return path;
}

FileHandle FileHandle::try_open(std::filesystem::path const& path, int flags, int& error) {
  constexpr mode_t kMode = 0644;
  FileHandle handle;
  do {
    handle.fd_.reset(::open(path.c_str(), flags | O_CLOEXEC, kMode));
    error = handle ? 0 : errno;
  } while (error == EINTR);
  return handle;
}

FileHandle FileHandle::open(std::filesystem::path const& path, int flags) {
  int error = 0;
  FileHandle handle = try_open(path, flags, error);
  if (error == ENOENT && (flags & O_CREAT) == 0) {
    throw_error(ErrorCode::NotFound, fmt::format("{}: no such file", path.string()), error);
  }
  if (error == EEXIST) {
    throw_error(ErrorCode::AlreadyExists,
                fmt::format("{}: exists already; open it, or remove it first", path.string()),
                error);
  }
  if (error != 0) { throw_io(path, (flags & O_CREAT) == 0 ? "open" : "create", error); }
  return handle;
}

struct stat FileHandle::status(std::filesystem::path const& path) const {
  struct stat result{};
  if (fstat(fd_.get(), &result) != 0) { throw_io(path, "fstat", errno); }
  return result;
}

int FileHandle::read_at(std::span<std::byte> bytes, std::uint64_t offset) const noexcept {
  while (!bytes.empty()) {
    ssize_t const moved = pread(fd_.get(), bytes.data(), bytes.size(), static_cast<off_t>(offset));
    if (moved < 0 && errno == EINTR) { continue; }
    if (moved < 0) { return errno; }
    if (moved == 0) { return ENODATA; }
    bytes = bytes.subspan(static_cast<std::size_t>(moved));
    offset += static_cast<std::uint64_t>(moved);
  }
  return 0;
}

int FileHandle::write_at(std::span<std::byte const> bytes, std::uint64_t offset) const noexcept {
  while (!bytes.empty()) {
    ssize_t const moved = pwrite(fd_.get(), bytes.data(), bytes.size(), static_cast<off_t>(offset));
    if (moved < 0 && errno == EINTR) { continue; }
    if (moved < 0) { return errno; }
    if (moved == 0) { return EIO; }
    bytes = bytes.subspan(static_cast<std::size_t>(moved));
    offset += static_cast<std::uint64_t>(moved);
  }
  return 0;
}

int FileHandle::preallocate(std::uint64_t bytes) const {
  int error = 0;
  do {
    error = fallocate(fd_.get(), 0, 0, static_cast<off_t>(bytes)) == 0 ? 0 : errno;
  } while (error == EINTR);
  if (error != EOPNOTSUPP && error != ENOSYS) { return error; }
  // Written zeros reserve the space just as well; a hole would defer ENOSPC to a later write.
  std::vector<std::byte> const zeros(std::min<std::uint64_t>(bytes, std::uint64_t{1} << 20));
  for (std::uint64_t at = 0; at < bytes; at += zeros.size()) {
    error = write_at(std::span(zeros).first(std::min<std::uint64_t>(zeros.size(), bytes - at)), at);
    if (error != 0) { return error; }
  }
  return 0;
}

FileSystemRoom room_of(FileHandle const& file, std::filesystem::path const& path) {
  struct statvfs status{};
  int error = 0;
  do {
    error = fstatvfs(file.fd(), &status) == 0 ? 0 : errno;
  } while (error == EINTR);
  if (error == ENOSYS) { return {}; }
  if (error != 0) { throw_io(path, "fstatvfs", error); }
  return {std::uint64_t{status.f_bavail} * status.f_frsize,
          std::uint64_t{status.f_blocks} * status.f_frsize};
}

bool leads_to(std::filesystem::path const& path, FileHandle const& file) noexcept {
  struct stat ours{};
  struct stat named{};
  return fstat(file.fd(), &ours) == 0 && lstat(path.c_str(), &named) == 0 &&
         ours.st_ino == named.st_ino && ours.st_dev == named.st_dev;
}

FileRemover::~FileRemover() {
  if (!path_.empty()) { ::unlink(path_.c_str()); }
}

int sync_folder_of(std::filesystem::path const& path) {
  std::filesystem::path const parent = path.parent_path();
  int error = 0;
  FileHandle const folder =
      FileHandle::try_open(parent.empty() ? "." : parent, O_RDONLY | O_DIRECTORY, error);
  if (error != 0) { return error; }
  // Some network file systems cannot sync a folder and say EINVAL: there is nothing to do then.
  if (fsync(folder.fd()) != 0 && errno != EINVAL) { return errno; }
  return 0;
}

std::optional<long> find_lock_holder(std::string_view locks, struct stat const& status) {
  // "1: FLOCK  ADVISORY  WRITE 4242 fe:00:131090 0 EOF"; waiters have "->" behind the number.
  std::string const file =
      fmt::format("{:02x}:{:02x}:{}", major(status.st_dev), minor(status.st_dev), status.st_ino);
  while (!locks.empty()) {
    std::string_view line = locks.substr(0, locks.find('\n'));
    locks.remove_prefix(std::min(locks.size(), line.size() + 1));
    std::array<std::string_view, 6> words{};
    for (auto& word : words) {
      line.remove_prefix(std::min(line.size(), line.find_first_not_of(' ')));
      word = line.substr(0, line.find(' '));
      line.remove_prefix(word.size());
    }
    if (words[1] != "FLOCK" || words[5] != file) { continue; }
    long pid = 0;
    auto const [end, error] =
        std::from_chars(words[4].data(), words[4].data() + words[4].size(), pid);
    if (error == std::errc{} && end == words[4].data() + words[4].size() && pid > 0) { return pid; }
  }
  return std::nullopt;
}

}  // namespace kvbm::memory
