// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sys/types.h>

#include <cstddef>
#include <string>

/// The part of cuFile's C interface that is used here, in declarations of our own: nobody needs its
/// header to build kvbm. The shapes have been the same since cuFile 1.0.
namespace kvbm::device::cufile {

/// Returned by value: cuFile's own number, 0 for success, and the CUDA driver's beside it.
struct Status {
  int code = 0;
  int cuda_code = 0;
};

inline constexpr int kBaseError = 5000;
inline constexpr int kCudaError = 5011;
inline constexpr int kDriverAlreadyOpen = 5026;

/// Names a file by its descriptor.
struct FileDescription {
  int type = 1;  ///< a descriptor of Linux
  union {
    int fd;
    void* handle;
  };
  void const* operations = nullptr;
};
static_assert(sizeof(FileDescription) == 24);

/// What the started driver says of itself.
struct Properties {
  unsigned nvfs_major = 0;  ///< of the module nvidia_fs; 0: it is not there
  unsigned nvfs_minor = 0;
  std::size_t poll_threshold_kib = 0;
  std::size_t max_direct_io_kib = 0;
  unsigned file_systems = 0;  ///< bits: those that the driver serves
  unsigned control = 0;       ///< bits: kAllowsCompatible
  unsigned features = 0;      ///< bits: kPeerToPeer
  unsigned max_device_cache_kib = 0;
  unsigned buffer_cache_kib = 0;
  unsigned max_pinned_kib = 0;
  unsigned max_batch = 0;
  unsigned batch_timeout_ms = 0;
  std::byte reserved[256] = {};  ///< room for what later versions may add
};
inline constexpr unsigned kAllowsCompatible = 1U << 1U;
inline constexpr unsigned kPeerToPeer = 1U << 4U;

using File = void*;

/// name, result, parameters
#define KVBM_CUFILE_FUNCTIONS(X)                             \
  X(DriverOpen, Status, ())                                  \
  X(DriverGetProperties, Status, (Properties*))              \
  X(HandleRegister, Status, (File*, FileDescription*))       \
  X(HandleDeregister, void, (File))                          \
  X(BufRegister, Status, (void const*, std::size_t, int))    \
  X(BufDeregister, Status, (void const*))                    \
  X(Read, ssize_t, (File, void*, std::size_t, off_t, off_t)) \
  X(Write, ssize_t, (File, void const*, std::size_t, off_t, off_t))

// NOLINTBEGIN(bugprone-macro-parentheses,readability-identifier-naming): the library's names
struct Functions {
#define KVBM_CUFILE_DECLARE(name, result, parameters) result(*name) parameters = nullptr;
  KVBM_CUFILE_FUNCTIONS(KVBM_CUFILE_DECLARE)
#undef KVBM_CUFILE_DECLARE
  Status (*GetVersion)(int*) = nullptr;  ///< not in all versions
};
// NOLINTEND(bugprone-macro-parentheses,readability-identifier-naming)

/// The number in words: "5020 (the file was not opened with O_DIRECT)".
std::string describe(Status status);

}  // namespace kvbm::device::cufile
