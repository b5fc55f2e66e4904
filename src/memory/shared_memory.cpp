// SPDX-License-Identifier: Apache-2.0
#include "kvbm/memory/shared_memory.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>

#include <cerrno>
#include <limits>
#include <string>
#include <utility>

#include "kvbm/core/checked.hpp"
#include "kvbm/core/error.hpp"
#include "memory/mapping.hpp"
#include "memory/process.hpp"
#include "memory/shared_file.hpp"

namespace kvbm::memory {
namespace {

class Opener {
 public:
  Opener(ProcessName const& owner, SharedMemoryName const& name, std::uint64_t bytes)
      : owner_(owner), name_(name), bytes_(bytes) {}

  [[nodiscard]] FileHandle open() const {
    // First only a reference: opening could do something, were it another file than the one meant.
    auto const reference = open_path(fmt::format("/proc/{}/fd/{}", owner_.pid, name_.fd), O_PATH);
    expect_owner();
    expect_status(reference);
    auto file = open_path(fmt::format("/proc/self/fd/{}", reference.fd()), O_RDWR | O_NONBLOCK);
    if (!is_shared_file(file)) {
      throw UnsupportedError(describe(
          "its length can change, or it cannot be written: only files in memory that are sealed "
          "against shrinking, growing and other seals can be mapped without danger"));
    }
    // The length that counts is the one after the seals were seen.
    expect_status(file);
    return file;
  }

  [[nodiscard]] std::string describe(std::string const& what) const {
    return fmt::format("{} bytes at offset {} of the memory {} of process {}: {}", bytes_,
                       name_.offset, name_.fd, owner_.pid, what);
  }

 private:
  [[nodiscard]] FileHandle open_path(std::string const& path, int flags) const {
    int error = 0;
    auto file = FileHandle::try_open(path, flags, error);
    if (error == 0) { return file; }
    if (error == EACCES || error == EPERM) {
      throw_error(ErrorCode::Unsupported,
                  describe(fmt::format("no permission to open {} ({}): both processes must run as "
                                       "the same user, undisturbed by security modules, or this "
                                       "one with CAP_SYS_PTRACE",
                                       path, describe_errno(error))),
                  error);
    }
    if (error == ENOENT || error == ESRCH || error == ENXIO) {
      expect_owner();
      throw_error(ErrorCode::NotFound, describe("the process has freed it"), error);
    }
    ErrorCode const code = error == EMFILE || error == ENFILE || error == ENOMEM
                               ? ErrorCode::OutOfMemory
                               : ErrorCode::Io;
    throw_error(code, describe(fmt::format("{}: {}", path, describe_errno(error))), error);
  }

  void expect_owner() const {
    KVBM_EXPECTS(is_alive_by_stat(owner_), NotFound,
                 describe("the process has ended, or is not the one that was meant"));
  }

  void expect_status(FileHandle const& file) const {
    auto const status = file.status("shared memory");
    KVBM_EXPECTS(
        status.st_dev == name_.device && status.st_ino == name_.inode && S_ISREG(status.st_mode),
        NotFound,
        describe(fmt::format("it is inode {} of device {}, not inode {} of device {}: the "
                             "process has freed it and uses the number otherwise",
                             status.st_ino, status.st_dev, name_.inode, name_.device)));
    auto const file_bytes = static_cast<std::uint64_t>(status.st_size);
    KVBM_EXPECTS(file_bytes == name_.file_bytes, OutOfRange,
                 describe(fmt::format("it has {} bytes, not {}", file_bytes, name_.file_bytes)));
  }

  ProcessName const& owner_;
  SharedMemoryName const& name_;
  std::uint64_t const bytes_;
};

}  // namespace

Region map_shared(ProcessName const& owner, SharedMemoryName const& name, std::uint64_t bytes,
                  StorageKind kind, DeviceId device_id) {
  Opener const opener(owner, name, bytes);
  if (name.kind != SharedMemoryName::Kind::File) {
    throw UnsupportedError(opener.describe("memory of a GPU can be opened by its device only"));
  }
  KVBM_EXPECTS(is_memory(kind), InvalidArgument,
               opener.describe(fmt::format("{} storage is not memory", to_string(kind))));
  KVBM_EXPECTS(bytes > 0, InvalidArgument, opener.describe("there is nothing to map"));
  KVBM_EXPECTS(name.fd <= static_cast<std::uint64_t>(std::numeric_limits<int>::max()),
               InvalidArgument, opener.describe("no descriptor has that number"));
  KVBM_EXPECTS(name.file_bytes <= kMaxBytes && name.offset <= name.file_bytes &&
                   bytes <= name.file_bytes - name.offset,
               OutOfRange, opener.describe(fmt::format("it has {} bytes", name.file_bytes)));
  expect_same_machine(owner);
  auto const file = opener.open();

  std::uint64_t const first = name.offset / page_bytes() * page_bytes();
  std::uint64_t const mapped = checked_align_up(name.offset + bytes, page_bytes()) - first;
  // As far from a huge page's begin as it is in the file: else none could be mapped.
  std::uint64_t const alignment = mapped >= kHugePageBytes ? kHugePageBytes : page_bytes();
  int error = 0;
  auto mapping = Mapping::try_make(mapped, alignment, first % alignment, error);
  if (error == 0) { error = mapping.replace(file, first); }
  if (error != 0) {
    throw_error(ErrorCode::OutOfMemory,
                opener.describe(fmt::format("it cannot be mapped: {}", describe_errno(error))),
                error);
  }
  mapping.advise_huge_pages();
  auto keep_alive = std::make_shared<Mapping const>(std::move(mapping));
  void* const data = keep_alive->data() + (name.offset - first);
  return Region::of_memory(kind, data, bytes, device_id, true, std::move(keep_alive));
}

}  // namespace kvbm::memory
