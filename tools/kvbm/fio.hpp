// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "kvbm/memory/disk_io.hpp"

namespace kvbm::cli {

/// One run of fio that does what a transfer does: files from end to end with direct I/O, several of
/// them in turns.
struct FioJob {
  memory::DiskEngine engine = memory::DiskEngine::IoUring;
  bool write = false;
  bool direct = true;
  std::uint64_t block_bytes = 0;  ///< multiple of 4096
  std::uint64_t blocks = 0;       ///< of all files together
  unsigned depth = 64;            ///< requests in flight (io_uring)
  unsigned threads = 8;           ///< threads with one request each (psync)
  bool fixed_buffers = true;      ///< registered with the kernel (io_uring), where it allows
  std::vector<std::filesystem::path> files;
};

[[nodiscard]] bool has_fio();
[[nodiscard]] std::vector<std::string> fio_command(FioJob const& job);
/// @return bytes a second  @throws Error(Io) fio failed or printed something else than we know
double run_fio(FioJob const& job);

}  // namespace kvbm::cli
