// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <exception>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "kvbm/core/types.hpp"

namespace kvbm::memory {

class DiskIo;

/// A run of equal extents in a file: extent i covers
/// [file_offset + i * extent_stride, + extent_bytes). An extent is the unit of I/O and checksum.
struct ExtentGroup {
  std::uint64_t file_offset = 0;    ///< multiple of kFileAlignment
  std::uint64_t extent_bytes = 0;   ///< >= 1
  std::uint64_t extent_stride = 0;  ///< multiple of kFileAlignment, >= extent_bytes
  std::uint64_t count = 0;          ///< >= 1
};

/// Extents start at multiples of this many bytes, the largest sector and page size in use.
inline constexpr std::uint64_t kFileAlignment = 4096;

/// How a file is opened.
enum class OpenMode {
  ReadWrite,  ///< exclusive: refused (Error(Busy)) while anybody else has it open
  ReadOnly,   ///< shared with other readers; writes are refused
};

/// What a new BlockFile is made from.
struct BlockFileSpec {
  std::filesystem::path path;       ///< the data file; must not exist
  std::vector<ExtentGroup> groups;  ///< non-overlapping, ascending
  std::string metadata;             ///< opaque bytes kept in the manifest (the layout's descriptor)
  bool remove_on_close = false;     ///< temporary: data, table and manifest vanish with the object
};

/// A preallocated data file with a checksum per extent and a manifest, so that a later process can
/// reopen it and can trust every byte it gets.
///
/// Three files: PATH (the extents), PATH.blocks (one 32-byte record an extent: XXH3-128, state,
/// and the record's own check), PATH.manifest (JSON: version, groups, metadata, checksum of itself;
/// written to a temporary name, fsync'ed, renamed, directory fsync'ed).
///
/// Durability  an extent whose write was reported done survives the death of the process; it
///             survives the loss of power once sync() returned. An extent that was being written
///             when the process died is later reported missing or corrupt, never returned as data.
/// Threads     methods are thread-safe; two writers of one extent at a time are the caller's bug
///             and leave that extent with one of the two contents or reported corrupt.
class BlockFile {
 public:
  /// Creates and preallocates (fallocate; zeros are written once where the file system has none, so
  /// that a full disk shows here and not at a later write). On failure nothing is left behind.
  /// @throws Error(AlreadyExists) path or its siblings exist; Error(Io) with errno (ENOSPC, EACCES,
  ///         ENOENT) naming the path; Error(InvalidArgument) or Error(Overflow) bad groups
  static std::shared_ptr<BlockFile> create(BlockFileSpec const& spec, std::shared_ptr<DiskIo> io);

  /// Opens what create() left. Nothing in the files is trusted.
  /// @throws Error(NotFound) no file or manifest; Error(Busy) opened elsewhere, naming the holder's
  ///         pid where known; Error(VersionMismatch) newer manifest; CorruptError manifest damaged,
  ///         table missing or of the wrong size, data file shorter than promised; Error(Io) with
  ///         errno. A damaged record of the table costs its own extent only, which reads as
  ///         CorruptError.
  static std::shared_ptr<BlockFile> open(std::filesystem::path const& path, OpenMode mode,
                                         std::shared_ptr<DiskIo> io);

  ~BlockFile();
  BlockFile(BlockFile const&) = delete;
  BlockFile& operator=(BlockFile const&) = delete;

  [[nodiscard]] std::filesystem::path const& path() const noexcept;
  [[nodiscard]] std::string const& metadata() const noexcept;
  [[nodiscard]] std::vector<ExtentGroup> const& groups() const noexcept;
  [[nodiscard]] OpenMode mode() const noexcept;
  /// Whether O_DIRECT is in use (else page-cached I/O).
  [[nodiscard]] bool is_direct() const noexcept;
  /// Why is_direct() is what it is ("O_DIRECT", "not asked for", "open: Invalid argument ...").
  [[nodiscard]] std::string const& direct_reason() const noexcept;
  /// The I/O engine this file uses.
  [[nodiscard]] std::shared_ptr<DiskIo> const& io() const noexcept;

  /// The stored checksum of an extent; nullopt if it was never (completely) written or its record
  /// is damaged. @throws Error(OutOfRange)
  [[nodiscard]] std::optional<Checksum> checksum(std::uint32_t group, std::uint64_t extent) const;

  /// Forgets an extent: later reads report it as never written.
  /// @throws Error(InvalidArgument) opened read-only; Error(OutOfRange); Error(Io)
  void invalidate(std::uint32_t group, std::uint64_t extent);

  /// Makes everything reported written so far survive power loss (fdatasync of data and table).
  /// @throws Error(Io)
  void sync();

  /// One extent to move.
  struct ExtentIo {
    std::uint32_t group = 0;
    std::uint64_t extent = 0;
    std::byte* memory = nullptr;  ///< extent_bytes readable/writable
    /// Bytes of `memory` that may be touched, >= extent_bytes. Where it reaches the next multiple
    /// of kFileAlignment and memory is aligned to it, direct I/O needs no copy.
    std::uint64_t memory_bytes = 0;
  };

  /// Extents under way between files and memory; used by one thread at a time, any file.
  class Queue {
   public:
    explicit Queue(std::shared_ptr<DiskIo> io);
    ~Queue();
    Queue(Queue const&) = delete;
    Queue& operator=(Queue const&) = delete;

    /// Computes the checksums, marks the extents as not written, starts the writes. Memory must
    /// stay as it is until finish(). Nothing is started where it throws.
    /// @throws Error(InvalidArgument) file opened read-only, null memory, memory_bytes too small;
    ///         Error(OutOfRange) bad group or extent
    void start_write(std::shared_ptr<BlockFile> const& file, std::span<ExtentIo const> extents);

    /// Starts the reads. Nothing is started where it throws.
    /// @throws Error(OutOfRange) bad group or extent; Error(InvalidArgument) null memory,
    ///         memory_bytes too small
    void start_read(std::shared_ptr<BlockFile> const& file, std::span<ExtentIo const> extents);

    /// Waits for all started since the last finish(). Written extents get their records; read
    /// extents are verified, and memory of one that fails is zeroed.
    /// @return one entry an extent in the order of the starts: null, or Error(Io) with errno,
    ///         Error(NotFound) never written, CorruptError, each naming file, group and extent
    std::vector<std::exception_ptr> finish();

    /// See DiskQueue::register_buffer.
    void register_buffer(std::span<std::byte> buffer);

    /// Extents started since the last finish().
    [[nodiscard]] std::size_t num_started() const noexcept;

   private:
    class Impl;
    std::unique_ptr<Impl> impl_;
  };

 private:
  class Impl;
  explicit BlockFile(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace kvbm::memory
