// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <exception>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "kvbm/core/types.hpp"
#include "kvbm/memory/storage_kind.hpp"

namespace kvbm::memory {

/// A run of equal extents in a store: extent i covers
/// [file_offset + i * extent_stride, + extent_bytes). An extent is the unit of I/O and checksum.
struct ExtentGroup {
  std::uint64_t file_offset = 0;    ///< multiple of kFileAlignment
  std::uint64_t extent_bytes = 0;   ///< >= 1
  std::uint64_t extent_stride = 0;  ///< multiple of kFileAlignment, >= extent_bytes
  std::uint64_t count = 0;          ///< >= 1
  friend bool operator==(ExtentGroup const&, ExtentGroup const&) = default;
};

/// Extents start at multiples of this many bytes, the largest sector and page size in use.
inline constexpr std::uint64_t kFileAlignment = 4096;

/// One extent to move.
struct ExtentIo {
  std::uint32_t group = 0;
  std::uint64_t extent = 0;
  std::byte* memory = nullptr;  ///< extent_bytes readable/writable
  /// Bytes of `memory` that may be touched, >= extent_bytes. Where it reaches the next multiple
  /// of kFileAlignment and memory is aligned to it, direct I/O needs no copy.
  std::uint64_t memory_bytes = 0;
};

/// What a store knows of an extent without reading it.
enum class ExtentStatus {
  Unknown,  ///< the store would have to ask another machine, or to read it
  Empty,    ///< never written, or forgotten
  Torn,     ///< a write was begun and has not ended: under way, or cut short
  Written,  ///< with a checksum
  Damaged,  ///< what the store keeps about it fails its own check
};

/// "Unknown", "Empty", "Torn", "Written" or "Damaged".
std::string_view to_string(ExtentStatus status) noexcept;

/// Room that a store takes and has.
struct StoreSpace {
  std::uint64_t bytes_allocated = 0;  ///< on its storage, its bookkeeping included; 0: unknown
  std::uint64_t extents_total = 0;
  std::uint64_t extents_written = 0;
  std::uint64_t extents_torn = 0;
  /// Those with status Damaged; extents whose bytes no longer fit their checksum show only when
  /// they are read (Scrubber).
  std::uint64_t extents_damaged = 0;
  /// Bytes that other files may still take, and all there are, each file system counted once; 0 and
  /// 0: unknown.
  std::uint64_t file_system_free = 0;
  std::uint64_t file_system_total = 0;
};

class BlockStore;

/// Extents under way between stores of one family and memory; used by one thread at a time.
/// The destructor waits for what is under way.
class ExtentQueue {
 public:
  ExtentQueue() = default;
  virtual ~ExtentQueue() = default;
  ExtentQueue(ExtentQueue const&) = delete;
  ExtentQueue& operator=(ExtentQueue const&) = delete;

  /// Computes the checksums and starts the writes. Memory must stay as it is until finish().
  /// Nothing is started where it throws.
  /// @throws Error(InvalidArgument) a store of another family or not writable, null memory,
  ///         memory_bytes too small; Error(OutOfRange) bad group or extent
  virtual void start_write(std::shared_ptr<BlockStore> const& store,
                           std::span<ExtentIo const> extents) = 0;

  /// Starts the reads. Nothing is started where it throws. @throws as start_write
  virtual void start_read(std::shared_ptr<BlockStore> const& store,
                          std::span<ExtentIo const> extents) = 0;

  /// Waits for all started since the last finish(). Read extents are verified, and memory of one
  /// that fails is zeroed.
  /// @return one entry an extent in the order of the starts: null, or Error(NotFound) never
  ///         written, CorruptError, Error(Io) and whatever else the store says it reports, each
  ///         naming store, group and extent
  virtual std::vector<std::exception_ptr> finish() = 0;

  /// Memory that extents will often be moved from and to; a hint, never fails. Empty: undoes it.
  virtual void register_buffer(std::span<std::byte> buffer) = 0;

  /// Extents started since the last finish().
  [[nodiscard]] virtual std::size_t num_started() const noexcept = 0;
};

/// Where blocks lie that have no address: files, or an object store. What a Region of kind Disk or
/// Object refers to. Every extent has a checksum, so that what is read can be trusted.
///
/// Threads  methods are thread-safe; two writers of one extent at a time are the caller's bug and
///          leave that extent with one of the two contents or reported corrupt.
class BlockStore {
 public:
  BlockStore() = default;
  virtual ~BlockStore() = default;
  BlockStore(BlockStore const&) = delete;
  BlockStore& operator=(BlockStore const&) = delete;

  /// Disk or Object.
  [[nodiscard]] virtual StorageKind kind() const noexcept = 0;
  /// The path or URL that messages name. Never holds credentials.
  [[nodiscard]] virtual std::string name() const = 0;
  /// Opaque bytes kept with the store (the layout's descriptor); untrusted.
  [[nodiscard]] virtual std::string const& metadata() const noexcept = 0;
  [[nodiscard]] virtual std::vector<ExtentGroup> const& groups() const noexcept = 0;
  [[nodiscard]] virtual bool is_writable() const noexcept = 0;

  /// The checksum of an extent as far as it is known without reading it; nullopt if it was never
  /// (completely) written, its record is damaged, or the store would have to ask another machine.
  /// @throws Error(OutOfRange)
  [[nodiscard]] virtual std::optional<Checksum> checksum(std::uint32_t group,
                                                         std::uint64_t extent) const = 0;

  /// @throws Error(OutOfRange)
  [[nodiscard]] virtual ExtentStatus status(std::uint32_t group, std::uint64_t extent) const;

  /// Counts extents by status(). @throws Error(Io)
  [[nodiscard]] virtual StoreSpace space() const;

  /// Forgets an extent: later reads report it as never written.
  /// @throws Error(InvalidArgument) not writable; Error(OutOfRange); Error(Io)
  virtual void invalidate(std::uint32_t group, std::uint64_t extent) = 0;

  /// Makes everything reported written so far survive power loss. @throws Error(Io)
  virtual void sync() = 0;

  /// A queue for this store and all others with the same family().
  [[nodiscard]] virtual std::unique_ptr<ExtentQueue> make_queue() = 0;
  /// Identity of what queues are made from (an I/O engine, a connection pool).
  [[nodiscard]] virtual void const* family() const noexcept = 0;
};

}  // namespace kvbm::memory
