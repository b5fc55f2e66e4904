// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "kvbm/memory/disk_io.hpp"
#include "progress.hpp"
#include "report.hpp"
#include "workload.hpp"

namespace kvbm::cli {

/// Blocks of one shape.
struct DiskShape {
  std::string name;
  Workload shape{};
};

/// What the tables of the disk tier are measured with.
struct DiskPlan {
  std::vector<std::filesystem::path> folders;  ///< a file in the first one; several: also in all
  std::vector<DiskShape> shapes;
  std::vector<memory::DiskEngine> engines;          ///< empty: the default one, then threads
  std::vector<unsigned> depths{64};                 ///< requests in flight of io_uring
  unsigned io_threads = 8;                          ///< of the engine of threads
  unsigned copy_threads = 0;                        ///< 0: one per usable CPU
  std::uint64_t bytes = std::uint64_t{256} << 20U;  ///< moved by one transfer
  std::size_t repeat = 3;
  bool fio = true;    ///< where it is installed
  bool gpu = false;   ///< G1 is CUDA device 0, else an emulated device
  bool gds = false;   ///< GPUDirect Storage may be used
  bool keep = false;  ///< leaves the stores as "g3" in the folders
  Progress* progress = nullptr;

  void step(std::string const& detail) const {
    if (progress != nullptr) { progress->advance(detail); }
  }
};

/// "16384" bytes, or a workload's name. @throws Error(InvalidArgument)
DiskShape disk_shape(std::string const& name);
/// How often the tables below advance the progress bar.
std::uint64_t disk_steps(DiskPlan const& plan);

/// G2 to G3 and back, in turns with fio (same engine, block size, depth and files) and with raw I/O
/// of the same engine.
Table disk_rates(DiskPlan const& plan);
/// G1 to G3 and back, in turns with each of its two hops.
Table disk_hops(DiskPlan const& plan);
/// G1 to G3 and back by GPUDirect Storage, in turns with pinned staging; empty where there is none.
Table disk_gds(DiskPlan const& plan);
/// What verifying costs a read: against a raw read, and against the checksum alone.
Table disk_verify(DiskPlan const& plan);

}  // namespace kvbm::cli
