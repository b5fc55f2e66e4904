// SPDX-License-Identifier: Apache-2.0
#include "memory/manifest_file.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <fstream>
#include <iterator>
#include <random>
#include <span>
#include <system_error>

#include "kvbm/core/error.hpp"
#include "kvbm/core/log.hpp"
#include "memory/manifest.hpp"

namespace kvbm::memory {
namespace {

std::string describe_holder(FileHandle const& file, std::filesystem::path const& path) {
  std::ifstream locks("/proc/locks");
  std::string const text{std::istreambuf_iterator<char>(locks), std::istreambuf_iterator<char>()};
  auto const pid = find_lock_holder(text, file.status(path));
  return pid ? fmt::format("process {}{}", *pid, *pid == getpid() ? " (this one)" : "")
             : "another process";
}

}  // namespace

std::uint64_t random_number() {
  std::random_device device;
  return std::uint64_t{device()} << 32U | device();
}

void lock_file(FileHandle const& file, std::filesystem::path const& path, bool exclusive) {
  int const how = exclusive ? LOCK_EX : LOCK_SH;
  int error = 0;
  do {
    error = flock(file.fd(), how | LOCK_NB) == 0 ? 0 : errno;
  } while (error == EINTR);
  if (error == EWOULDBLOCK) {
    throw_error(ErrorCode::Busy,
                fmt::format("{}: in use by {}; close it there or choose another path",
                            path.string(), describe_holder(file, path)),
                error);
  }
  if (error == ENOLCK || error == ENOSYS || error == EOPNOTSUPP) {
    log::write(log::Level::Warning,
               fmt::format("{}: the file system has no locks ({}): nothing keeps a second process "
                           "from writing",
                           path.string(), describe_errno(error)));
    return;
  }
  if (error != 0) { throw_io(path, "flock", error); }
}

std::string read_manifest_text(std::filesystem::path const& path) {
  FileHandle const file = FileHandle::open(path, O_RDONLY);
  auto const bytes = static_cast<std::uint64_t>(file.status(path).st_size);
  if (bytes > kMaxManifestBytes) {
    throw CorruptError(fmt::format("{}: damaged manifest: {} bytes, at most {} are read",
                                   path.string(), bytes, kMaxManifestBytes));
  }
  std::string text(bytes, '\0');
  int const error = file.read_at(std::as_writable_bytes(std::span(text)), 0);
  if (error != 0) { throw_io(path, "read", error); }
  return text;
}

int rename_new(std::filesystem::path const& from, std::filesystem::path const& to) {
  if (renameat2(AT_FDCWD, from.c_str(), AT_FDCWD, to.c_str(), RENAME_NOREPLACE) == 0) { return 0; }
  if (errno != EINVAL && errno != ENOSYS) { return errno; }
  return std::rename(from.c_str(), to.c_str()) == 0 ? 0 : errno;
}

void write_manifest(std::filesystem::path const& path, std::string const& text, bool durable) {
  std::filesystem::path const temporary = with_suffix(path, ".creating");
  FileHandle const file = FileHandle::open(temporary, O_CREAT | O_TRUNC | O_WRONLY);
  FileRemover undo(temporary);
  int error = file.write_at(std::as_bytes(std::span(text)), 0);
  if (error == 0 && durable && fsync(file.fd()) != 0) { error = errno; }
  if (error != 0) { throw_io(temporary, "write", error); }
  error = rename_new(temporary, path);
  if (error != 0) { throw_io(path, "rename", error); }
  undo.keep();
}

bool is_taken(std::filesystem::path const& path) {
  std::error_code unknown;  // where not even a look is possible, creating will say why
  auto const type = std::filesystem::symlink_status(path, unknown).type();
  return type != std::filesystem::file_type::not_found && type != std::filesystem::file_type::none;
}

}  // namespace kvbm::memory
