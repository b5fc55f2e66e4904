// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "kvbm/core/types.hpp"
#include "kvbm/prefix/block_key.hpp"
#include "memory/file_handle.hpp"

namespace kvbm::prefix {

/// The file that remembers which key lies in which block of a disk tier: a header of 128 bytes and
/// a record of 64 bytes a block, little endian.
///
/// A record binds a key to a digest of the block's stored checksums, so that it is believed only as
/// long as the block holds exactly the data that was written under that key; whatever order key and
/// data reach the disk in, a kill leaves records that fit and records that are dropped. Record and
/// header carry checks of their own, a record's over its position and the file's id too.
///
/// Threads  load() before anything else; put() and clear() of different blocks may run
/// concurrently.
class SlotIndex {
 public:
  /// What an index belongs to.
  struct Identity {
    Checksum model;   ///< the root key: model and page size
    Checksum layout;  ///< fingerprint of the layout
    std::uint64_t num_slots = 0;
    friend bool operator==(Identity const&, Identity const&) = default;
  };
  struct Entry {
    std::uint64_t slot = 0;
    BlockKey key;
    Checksum digest;
    std::uint64_t generation = 0;  ///< grows with every put() of the file's life
  };
  struct Loaded {
    std::vector<Entry> entries;
    std::uint64_t num_damaged = 0;  ///< records, and 1 for a header or size that is not right
  };

  /// Opens or makes the file and locks it. One with a damaged header or of the wrong size starts
  /// anew.
  /// @throws Error(InvalidArgument) of another model or layout; Error(VersionMismatch);
  ///         Error(Busy) locked by another store; Error(Io)
  SlotIndex(std::filesystem::path path, Identity const& identity);

  /// What it remembers; nothing in it is trusted.
  [[nodiscard]] Loaded load();

  /// @throws Error(Io)
  void put(std::uint64_t slot, BlockKey const& key, Checksum const& digest,
           std::uint64_t generation);
  void clear(std::uint64_t slot);
  void sync();

 private:
  struct Header;
  struct Record;
  [[nodiscard]] std::uint64_t check_of(Record const& record, std::uint64_t slot) const noexcept;
  void make_anew();
  void write(std::uint64_t slot, Record const& record);

  std::filesystem::path path_;
  Identity identity_;
  memory::FileHandle file_;
  std::uint64_t id_ = 0;
  std::uint64_t num_damaged_ = 0;
};

}  // namespace kvbm::prefix
