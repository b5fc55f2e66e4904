// SPDX-License-Identifier: Apache-2.0
#include "memory/shared_file.hpp"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>

namespace kvbm::memory {
namespace {

constexpr int kSeals = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL;
#ifdef MFD_NOEXEC_SEAL
constexpr unsigned kNoExec = MFD_NOEXEC_SEAL;
#else
constexpr unsigned kNoExec = 8;  // from Linux 6.3 on, which may insist on it
#endif
#ifdef F_SEAL_FUTURE_WRITE
constexpr int kWriteSeals = F_SEAL_WRITE | F_SEAL_FUTURE_WRITE;
#else
constexpr int kWriteSeals = F_SEAL_WRITE | 0x10;
#endif

}  // namespace

FileHandle try_make_shared_file(std::uint64_t bytes, int& error) {
  constexpr unsigned kFlags = MFD_CLOEXEC | MFD_ALLOW_SEALING;
  auto file = FileHandle::adopt(memfd_create("kvbm", kFlags | kNoExec));
  if (!file && errno == EINVAL) { file = FileHandle::adopt(memfd_create("kvbm", kFlags)); }
  bool const made = file && fchmod(file.fd(), S_IRUSR | S_IWUSR) == 0 &&
                    ftruncate(file.fd(), static_cast<off_t>(bytes)) == 0 &&
                    fcntl(file.fd(), F_ADD_SEALS, kSeals) == 0;
  error = made ? 0 : errno;
  return made ? std::move(file) : FileHandle{};
}

SharedMemoryName name_shared_file(FileHandle const& file, std::uint64_t file_bytes) {
  auto const status = file.status("shared memory");
  SharedMemoryName name;
  name.kind = SharedMemoryName::Kind::File;
  name.fd = static_cast<std::uint64_t>(file.fd());
  name.device = status.st_dev;
  name.inode = status.st_ino;
  name.file_bytes = file_bytes;
  return name;
}

bool is_shared_file(FileHandle const& file) noexcept {
  int const seals = fcntl(file.fd(), F_GET_SEALS);
  return seals >= 0 && (seals & kSeals) == kSeals && (seals & kWriteSeals) == 0;
}

}  // namespace kvbm::memory
