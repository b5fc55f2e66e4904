// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <string>

#include "kvbm/memory/block_file.hpp"
#include "kvbm/memory/disk_io.hpp"
#include "memory/extent_table.hpp"
#include "memory/file_handle.hpp"
#include "memory/manifest.hpp"

namespace kvbm::memory {

/// The names of a block file's three files, and that of the data file until all three are there.
struct BlockFilePaths {
  explicit BlockFilePaths(std::filesystem::path const& path)
      : data(path),
        table(with_suffix(path, ".blocks")),
        manifest(with_suffix(path, ".manifest")),
        creating(with_suffix(path, ".creating")) {}
  std::filesystem::path data;
  std::filesystem::path table;
  std::filesystem::path manifest;
  std::filesystem::path creating;
};

/// Removes all three. Killed half way, it leaves what looks like a creation that was cut short,
/// which the next one at that path clears away.
void remove_block_file(BlockFilePaths const& paths) noexcept;

/// The descriptors of a data file: one through the page cache, one around it where there is such.
/// The latter holds the lock where it is there, else the former.
struct DataFile {
  FileHandle buffered;
  FileHandle direct;  ///< empty: no direct I/O
  std::string direct_reason;
};

class BlockFile::Impl {
 public:
  Impl(BlockFilePaths paths, OpenMode mode, Manifest manifest, DataFile data, ExtentTable table,
       std::shared_ptr<DiskIo> io, bool remove_on_close)
      : paths_(std::move(paths)),
        mode_(mode),
        manifest_(std::move(manifest)),
        geometry_(check_groups(manifest_.groups)),
        data_(std::move(data)),
        table_(std::move(table)),
        io_(std::move(io)),
        remove_on_close_(remove_on_close) {}
  ~Impl();
  Impl(Impl const&) = delete;
  Impl& operator=(Impl const&) = delete;

  /// Index of an extent's record. @throws Error(OutOfRange)
  [[nodiscard]] std::uint64_t record_of(std::uint32_t group, std::uint64_t extent) const;

  /// The request that moves one extent: direct where memory and room allow it.
  [[nodiscard]] DiskRequest make_request(DiskRequest::Op op, ExtentIo const& io) const;

  /// "<path>: extent 5 of group 0".
  [[nodiscard]] std::string name_of(std::uint32_t group, std::uint64_t extent) const;

  BlockFilePaths paths_;
  OpenMode mode_;
  Manifest manifest_;
  FileGeometry geometry_;
  DataFile data_;
  ExtentTable table_;
  std::shared_ptr<DiskIo> io_;
  bool remove_on_close_;
};

}  // namespace kvbm::memory
