// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <vector>

#include "kvbm/core/types.hpp"
#include "memory/file_handle.hpp"

namespace kvbm::memory {

/// What is known about one extent.
enum class ExtentState : std::uint32_t {
  Empty = 0,    ///< never written, or forgotten
  Writing = 1,  ///< a write was started and not reported done
  Valid = 2,    ///< written, with a checksum
  Damaged = 3,  ///< in memory only: the stored record fails its own check
};

/// The records of PATH.blocks, 32 bytes an extent, kept in memory. A record of zeros is Empty, so a
/// preallocated file is a valid table. Each record carries a check over itself, its position and
/// the file's id: a torn, moved or foreign record is Damaged and costs its own extent only.
///
/// Threads  all methods may run concurrently; the lock is a leaf.
class ExtentTable {
 public:
  struct Entry {
    ExtentState state = ExtentState::Empty;
    Checksum checksum;
  };
  struct Written {
    std::uint64_t index = 0;
    Checksum checksum;
  };

  /// A new table in `file`, which is preallocated. @throws Error(Io), Error(OutOfMemory)
  static ExtentTable create(FileHandle file, std::filesystem::path const& path, std::uint64_t id,
                            std::uint64_t count);
  /// An existing one. @throws CorruptError of another size; Error(Io), Error(OutOfMemory)
  static ExtentTable load(FileHandle file, std::filesystem::path const& path, std::uint64_t id,
                          std::uint64_t count);

  [[nodiscard]] Entry find(std::uint64_t index) const;

  /// How many records are in a state.
  struct Counts {
    std::uint64_t valid = 0;
    std::uint64_t writing = 0;
    std::uint64_t damaged = 0;
  };
  [[nodiscard]] Counts count() const;

  /// What its file takes on the disk; 0: unknown.
  [[nodiscard]] std::uint64_t allocated_bytes() const noexcept;

  /// Before data is overwritten: the extents are Writing on disk when this returns 0. Those that
  /// were not Valid there need no I/O. Indices may come in any order.
  /// @return 0 or an errno, with all of them as before
  [[nodiscard]] int mark_writing(std::span<std::uint64_t const> indices);

  /// After data was written. Sorts `written`. @return 0 or an errno, with all of them Writing
  [[nodiscard]] int mark_valid(std::span<Written> written);

  /// Forgets one. @return 0 or an errno
  [[nodiscard]] int clear(std::uint64_t index);

  /// fdatasync. @return 0 or an errno
  [[nodiscard]] int sync() const;

 private:
  struct Record {
    std::uint64_t low = 0;
    std::uint64_t high = 0;
    ExtentState state = ExtentState::Empty;
    std::uint32_t reserved = 0;
    std::uint64_t check = 0;
  };
  static_assert(sizeof(Record) == 32);

  ExtentTable(FileHandle file, std::filesystem::path const& path, std::uint64_t id,
              std::uint64_t count);
  [[nodiscard]] std::uint64_t check_of(Record const& record, std::uint64_t index) const noexcept;
  [[nodiscard]] Record make(ExtentState state, Checksum checksum, std::uint64_t index) const;
  [[nodiscard]] int write_range(std::uint64_t first, std::uint64_t end) const noexcept;

  FileHandle file_;
  std::uint64_t id_;
  // On the heap so that the table can be moved while it is being made.
  std::unique_ptr<std::mutex> mutex_ = std::make_unique<std::mutex>();
  std::vector<Record> records_;
  std::vector<std::uint64_t> touched_;  // of mark_writing, kept for its capacity
  std::vector<Record> undo_;            // likewise
};

}  // namespace kvbm::memory
