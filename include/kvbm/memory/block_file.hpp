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
#include "kvbm/memory/block_store.hpp"

namespace kvbm::memory {

class DiskIo;

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

/// What a queue has to do with memory that the CPU does not reach.
///
/// Threads  methods may be called concurrently.
class FarMemory {
 public:
  FarMemory() = default;
  virtual ~FarMemory() = default;
  FarMemory(FarMemory const&) = delete;
  FarMemory& operator=(FarMemory const&) = delete;

  /// The checksum of each range. @throws Error(Device), Error(OutOfMemory)
  [[nodiscard]] virtual std::vector<Checksum> checksums(
      std::span<std::span<std::byte const> const> ranges) = 0;
  /// Overwrites a range with zeros. @throws as checksums
  virtual void zero(std::span<std::byte> range) = 0;
};

/// A preallocated data file with a checksum per extent and a manifest, so that a later process can
/// reopen it and can trust every byte it gets.
///
/// Three files: PATH (the extents), PATH.blocks (one 32-byte record an extent: XXH3-128, state,
/// and the record's own check), PATH.manifest (JSON: version, groups, metadata, checksum of itself;
/// written to a temporary name, fsync'ed, renamed, directory fsync'ed). While they are being made
/// the first one is called PATH.creating: where PATH is, all of it is there.
///
/// Durability  an extent whose write was reported done survives the death of the process; it
///             survives the loss of power once sync() returned. An extent that was being written
///             when the process died is later reported missing or corrupt, never returned as data.
/// Threads     methods are thread-safe; two writers of one extent at a time are the caller's bug
///             and leave that extent with one of the two contents or reported corrupt.
class BlockFile final : public BlockStore {
 public:
  /// Creates and preallocates (fallocate; zeros are written once where the file system has none, so
  /// that a full disk shows here and not at a later write). On failure nothing is left behind, and
  /// what a killed process left of its creation is cleared away by the next one.
  /// @throws Error(AlreadyExists) path or its siblings exist; Error(Busy) somebody else creates it
  ///         right now; Error(Io) with errno (ENOSPC with the bytes needed and free, EACCES,
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

  ~BlockFile() override;

  [[nodiscard]] std::filesystem::path const& path() const noexcept;
  [[nodiscard]] OpenMode mode() const noexcept;
  /// Whether O_DIRECT is in use (else page-cached I/O).
  [[nodiscard]] bool is_direct() const noexcept;
  /// Why is_direct() is what it is ("O_DIRECT", "not asked for", "open: Invalid argument ...").
  [[nodiscard]] std::string const& direct_reason() const noexcept;
  /// The descriptor of the data file that O_DIRECT is set on, for engines that have to know it;
  /// -1 where is_direct() is false. It stays this file's own, and open as long as this lives.
  [[nodiscard]] int direct_fd() const noexcept;
  /// The I/O engine this file uses.
  [[nodiscard]] std::shared_ptr<DiskIo> const& io() const noexcept;

  [[nodiscard]] StorageKind kind() const noexcept override { return StorageKind::Disk; }
  /// The path.
  [[nodiscard]] std::string name() const override;
  [[nodiscard]] std::string const& metadata() const noexcept override;
  [[nodiscard]] std::vector<ExtentGroup> const& groups() const noexcept override;
  [[nodiscard]] bool is_writable() const noexcept override;
  [[nodiscard]] std::optional<Checksum> checksum(std::uint32_t group,
                                                 std::uint64_t extent) const override;
  [[nodiscard]] ExtentStatus status(std::uint32_t group, std::uint64_t extent) const override;
  [[nodiscard]] StoreSpace space() const override;
  void invalidate(std::uint32_t group, std::uint64_t extent) override;
  /// fdatasync of data and table.
  void sync() override;
  [[nodiscard]] std::unique_ptr<ExtentQueue> make_queue() override;
  /// The I/O engine.
  [[nodiscard]] void const* family() const noexcept override;

  /// Extents under way between files of one I/O engine and memory. Extents that fail report
  /// Error(Io) with errno, Error(NotFound) never written, CorruptError.
  class Queue final : public ExtentQueue {
   public:
    explicit Queue(std::shared_ptr<DiskIo> io);
    /// For memory that only `io` and `memory` reach.
    Queue(std::shared_ptr<DiskIo> io, std::shared_ptr<FarMemory> memory);
    ~Queue() override;

    /// Marks the extents as not written before their bytes change; finish() gives them their
    /// records.
    void start_write(std::shared_ptr<BlockStore> const& store,
                     std::span<ExtentIo const> extents) override;
    void start_read(std::shared_ptr<BlockStore> const& store,
                    std::span<ExtentIo const> extents) override;
    std::vector<std::exception_ptr> finish() override;
    /// See DiskQueue::register_buffer.
    void register_buffer(std::span<std::byte> buffer) override;
    [[nodiscard]] std::size_t num_started() const noexcept override;

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
