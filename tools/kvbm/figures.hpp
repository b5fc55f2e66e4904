// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "kvbm/manager/transfer_manager.hpp"
#include "progress.hpp"
#include "report.hpp"

namespace kvbm::cli {

/// What all figures are measured with.
struct FigureOptions {
  std::filesystem::path folder;                     ///< for files; exists
  std::uint64_t bytes = std::uint64_t{256} << 20U;  ///< moved by one transfer
  std::uint64_t disk_bytes = std::uint64_t{512} << 20U;
  std::uint64_t max_blocks = 1'000'000;  ///< of the submission sweep
  std::size_t repeat = 9;
  std::size_t disk_repeat = 3;
  unsigned threads = 0;
  bool fio = true;
  Progress* progress = nullptr;

  void step(std::string const& detail) const {
    if (progress != nullptr) { progress->advance(detail); }
  }
};

/// Host copies and permutations against a STREAM-style copy with the same threads.
Table figure_copy(FigureOptions const& options);
/// The tables of `kvbm bench disk`: rates, two hops, the cost of the verify.
Table figure_disk(FigureOptions const& options);
Table figure_hops(FigureOptions const& options);
Table figure_verify(FigureOptions const& options);
/// What submitting costs the caller, by the number of blocks.
Table figure_submit(FigureOptions const& options);
/// Bytes of bookkeeping a block.
Table figure_bookkeeping(FigureOptions const& options);
/// One 32 KiB block, from submitting to seen complete, against a memcpy on another thread.
Table figure_latency(FigureOptions const& options);
/// Checksums against a plain read with the same threads.
Table figure_checksum(FigureOptions const& options);

}  // namespace kvbm::cli
