// SPDX-License-Identifier: Apache-2.0
//
// A library that loads like cuFile and moves bytes between files and host memory. The environment
// says how it fails, in words of KVBM_FAKE_CUFILE, separated by commas:
//   hang      the driver's start never returns         refuse    nor does it start
//   direct    nvidia_fs is there                       peer      the kernel's own peer-to-peer DMA
//   closed    no file can be registered (5027)         memory    no buffer can be registered (5013)
//   short     reads and writes move half of the bytes  eof       reads end before their first byte
//   eio       reads and writes fail with EIO           broken    reads and writes fail with 5011
//   open      the driver is started already            flip      reads change a bit
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <string>
#include <thread>

#include "device/storage/cufile_api.hpp"

namespace {

using namespace kvbm::device::cufile;

bool told(char const* word) {
  char const* const value = std::getenv("KVBM_FAKE_CUFILE");
  if (value == nullptr) { return false; }
  return ("," + std::string(value) + ",").find("," + std::string(word) + ",") != std::string::npos;
}

// Files are known by their descriptor, one registration at a time, as the real one wants it.
constexpr int kMaxFiles = 1024;
int registered_files[kMaxFiles];

template <typename Call>
ssize_t move(File file, std::size_t bytes, Call const& call) {
  auto const fd = static_cast<int*>(file) - registered_files;
  if (fd < 0 || fd >= kMaxFiles || registered_files[fd] == 0) { return -5027; }
  if (told("broken")) { return -kCudaError; }
  if (told("eio")) {
    errno = EIO;
    return -1;
  }
  // Whole pages, which O_DIRECT can go on from.
  bool const halves = told("short") && bytes >= 8192;
  return call(static_cast<int>(fd), halves ? bytes / 2 / 4096 * 4096 : bytes);
}

}  // namespace

#define KVBM_FAKE extern "C" __attribute__((visibility("default")))

// NOLINTBEGIN(readability-identifier-naming): the names are the library's.
KVBM_FAKE Status cuFileDriverOpen() {
  if (told("hang")) {
    for (;;) {
      std::this_thread::sleep_for(std::chrono::hours(1));
    }
  }
  if (told("open")) { return {kDriverAlreadyOpen, 0}; }
  return {told("refuse") ? 5001 : 0, 0};
}

KVBM_FAKE Status cuFileGetVersion(int* version) {
  *version = 1130;
  return {};
}

KVBM_FAKE Status cuFileDriverGetProperties(Properties* properties) {
  properties->nvfs_major = told("direct") ? 2 : 0;
  properties->nvfs_minor = told("direct") ? 25 : 0;
  properties->control = kAllowsCompatible;
  properties->features = told("peer") ? kPeerToPeer : 0;
  return {};
}

KVBM_FAKE Status cuFileHandleRegister(File* file, FileDescription* description) {
  if (told("closed")) { return {5027, 0}; }
  if (description->type != 1 || description->fd < 0 || description->fd >= kMaxFiles) {
    return {5022, 0};
  }
  int& known = registered_files[description->fd];
  if (known != 0) { return {5028, 0}; }
  known = 1;
  *file = &known;
  return {};
}

KVBM_FAKE void cuFileHandleDeregister(File file) { *static_cast<int*>(file) = 0; }

KVBM_FAKE Status cuFileBufRegister(void const* memory, std::size_t bytes, int flags) {
  if (told("memory")) { return {5013, 0}; }
  return {memory == nullptr || bytes == 0 || flags != 0 ? 5022 : 0, 0};
}

KVBM_FAKE Status cuFileBufDeregister(void const* /*memory*/) { return {}; }

KVBM_FAKE ssize_t cuFileRead(File file, void* base, std::size_t bytes, off_t offset,
                             off_t memory_offset) {
  return move(file, bytes, [&](int fd, std::size_t some) -> ssize_t {
    if (told("eof")) { return 0; }
    auto* const to = static_cast<std::byte*>(base) + memory_offset;
    ssize_t const moved = pread(fd, to, some, offset);
    if (moved > 0 && told("flip")) { to[0] ^= std::byte{1}; }
    return moved;
  });
}

KVBM_FAKE ssize_t cuFileWrite(File file, void const* base, std::size_t bytes, off_t offset,
                              off_t memory_offset) {
  return move(file, bytes, [&](int fd, std::size_t some) {
    return pwrite(fd, static_cast<std::byte const*>(base) + memory_offset, some, offset);
  });
}
// NOLINTEND(readability-identifier-naming)
