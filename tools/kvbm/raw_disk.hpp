// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "kvbm/memory/disk_io.hpp"
#include "kvbm/memory/memory_source.hpp"
#include "kvbm/memory/region.hpp"

namespace kvbm::cli {

/// The disk without checksums, manifest or layouts: one O_DIRECT file (page-cached where the file
/// system has none), read or written from end to end in pieces of one size by the same I/O engine.
class RawDisk {
 public:
  /// @param piece_bytes  rounded up to whole file alignments
  /// @throws Error(Io) the file cannot be made in `folder`
  RawDisk(std::shared_ptr<memory::DiskIo> io, memory::MemorySource& source,
          std::filesystem::path const& folder, std::uint64_t piece_bytes, std::uint64_t pieces);
  ~RawDisk();
  RawDisk(RawDisk const&) = delete;
  RawDisk& operator=(RawDisk const&) = delete;

  [[nodiscard]] std::uint64_t bytes() const noexcept { return piece_bytes_ * pieces_; }
  [[nodiscard]] bool is_direct() const noexcept { return direct_; }
  /// Why is_direct() is what it is.
  [[nodiscard]] std::string const& reason() const noexcept { return reason_; }
  /// @return seconds  @throws Error(Io)
  double write() { return move(memory::DiskRequest::Op::Write); }
  double read();

 private:
  double move(memory::DiskRequest::Op op);
  std::shared_ptr<memory::DiskIo> io_;
  std::filesystem::path path_;
  std::uint64_t piece_bytes_;
  std::uint64_t pieces_;
  memory::Region memory_;
  std::unique_ptr<memory::DiskQueue> queue_;
  int fd_ = -1;
  bool direct_ = false;
  bool written_ = false;
  std::string reason_ = "O_DIRECT";
};

}  // namespace kvbm::cli
