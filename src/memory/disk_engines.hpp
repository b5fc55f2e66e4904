// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "kvbm/memory/disk_io.hpp"

namespace kvbm::memory {

/// Whether io_uring can be used here.
struct UringProbe {
  bool usable = false;
  std::string reason;  ///< what was found, or the call that failed with its errno
};

/// Makes a ring, asks for the operations it knows, and runs one no-op through it: a sandbox may let
/// the first call pass and refuse the second.
UringProbe probe_uring();

/// What `options` and the machine lead to.
struct EngineChoice {
  DiskEngine engine = DiskEngine::Threads;
  std::string reason;
};

/// @param probe  called at most once, and only if it matters
/// @throws UnsupportedError if IoUring was asked for and the probe says no
EngineChoice choose_engine(DiskEngine asked, std::function<UringProbe()> const& probe);

/// @pre probe_uring() said usable
std::shared_ptr<DiskIo> make_uring_disk_io(DiskIoOptions const& options, std::string reason);

/// pread and pwrite.
std::shared_ptr<DiskIo> make_threads_disk_io(DiskIoOptions const& options, std::string reason);

std::shared_ptr<DiskIo> make_threads_disk_io(DiskIoOptions const& options, DiskCalls calls,
                                             std::string reason);

}  // namespace kvbm::memory
