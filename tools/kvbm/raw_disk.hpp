// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "kvbm/core/unique_fd.hpp"
#include "kvbm/memory/disk_io.hpp"
#include "kvbm/memory/memory_source.hpp"
#include "kvbm/memory/region.hpp"

namespace kvbm::cli {

/// "auto", "io_uring", "threads". @throws Error(InvalidArgument) naming --engine
memory::DiskEngine parse_engine(std::string const& text);

/// The disk without checksums, manifest or layouts: one O_DIRECT file in each folder (page-cached
/// where the file system has none), read or written from end to end in pieces of one size, which go
/// round the files, by the same I/O engine.
class RawDisk {
 public:
  /// @param piece_bytes  rounded up to whole file alignments
  /// @throws Error(Io) a file cannot be made in its folder
  RawDisk(std::shared_ptr<memory::DiskIo> io, memory::MemorySource& source,
          std::vector<std::filesystem::path> const& folders, std::uint64_t piece_bytes,
          std::uint64_t pieces);
  ~RawDisk();
  RawDisk(RawDisk const&) = delete;
  RawDisk& operator=(RawDisk const&) = delete;

  [[nodiscard]] std::uint64_t bytes() const noexcept { return piece_bytes_ * pieces_; }
  [[nodiscard]] bool is_direct() const noexcept { return direct_; }
  /// Why is_direct(), which is true where all files are, is what it is.
  [[nodiscard]] std::string const& reason() const noexcept { return reason_; }
  /// @return seconds  @throws Error(Io)
  double write() { return move(memory::DiskRequest::Op::Write); }
  double read();

 private:
  struct File {
    std::filesystem::path path;
    UniqueFd fd;
  };
  void open(std::filesystem::path const& folder, std::uint64_t pieces);
  void close() noexcept;
  double move(memory::DiskRequest::Op op);
  std::shared_ptr<memory::DiskIo> io_;
  std::uint64_t piece_bytes_;
  std::uint64_t pieces_;
  memory::Region memory_;
  std::unique_ptr<memory::DiskQueue> queue_;
  std::vector<File> files_;
  bool direct_ = true;
  bool written_ = false;
  std::string reason_ = "O_DIRECT";
};

}  // namespace kvbm::cli
