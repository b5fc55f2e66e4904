// SPDX-License-Identifier: Apache-2.0
#include "memory/extent_table.hpp"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cerrno>
#include <new>
#include <utility>

#include "kvbm/core/error.hpp"

namespace kvbm::memory {
namespace {

static_assert(std::endian::native == std::endian::little, "records are stored little-endian");

// Records between two touched ones are written again where that saves a system call: 2 KiB.
constexpr std::uint64_t kMaxGap = 64;

// Calls write(first, end) for the runs of a sorted list, small gaps included; stops at an errno.
template <typename Range, typename Index, typename Write>
int for_each_run(Range const& sorted, Index index_of, Write write) {
  for (std::size_t i = 0; i < sorted.size();) {
    std::uint64_t const first = index_of(sorted[i]);
    std::uint64_t last = first;
    for (++i; i < sorted.size() && index_of(sorted[i]) - last <= kMaxGap; ++i) {
      last = index_of(sorted[i]);
    }
    if (int const error = write(first, last + 1); error != 0) { return error; }
  }
  return 0;
}

}  // namespace

ExtentTable::ExtentTable(FileHandle file, std::filesystem::path const& path, std::uint64_t id,
                         std::uint64_t count)
    : file_(std::move(file)), id_(id) {
  try {
    records_.resize(count);
  } catch (std::bad_alloc const&) {
    throw_error(ErrorCode::OutOfMemory,
                fmt::format("{}: no memory for the records of {} extents", path.string(), count));
  }
}

ExtentTable ExtentTable::create(FileHandle file, std::filesystem::path const& path,
                                std::uint64_t id, std::uint64_t count) {
  ExtentTable table(std::move(file), path, id, count);
  int const error = table.file_.preallocate(count * sizeof(Record));
  if (error != 0) { throw_io(path, fmt::format("preallocate {} bytes", count * 32), error); }
  return table;
}

ExtentTable ExtentTable::load(FileHandle file, std::filesystem::path const& path, std::uint64_t id,
                              std::uint64_t count) {
  auto const bytes = static_cast<std::uint64_t>(file.status(path).st_size);
  if (bytes != count * sizeof(Record)) {
    throw CorruptError(fmt::format("{}: {} bytes, the records of {} extents take {}", path.string(),
                                   bytes, count, count * sizeof(Record)));
  }
  ExtentTable table(std::move(file), path, id, count);
  int const error = table.file_.read_at(std::as_writable_bytes(std::span(table.records_)), 0);
  if (error != 0) { throw_io(path, "read", error); }
  for (std::uint64_t i = 0; i < count; ++i) {
    Record& record = table.records_[i];
    bool const empty = record.low == 0 && record.high == 0 && record.reserved == 0 &&
                       record.state == ExtentState::Empty && record.check == 0;
    bool const known = record.state == ExtentState::Writing || record.state == ExtentState::Valid;
    if (!empty && (!known || record.check != table.check_of(record, i))) {
      record = {};
      record.state = ExtentState::Damaged;
    }
  }
  return table;
}

std::uint64_t ExtentTable::check_of(Record const& record, std::uint64_t index) const noexcept {
  std::array<std::uint64_t, 5> const words{
      record.low, record.high,
      std::uint64_t{record.reserved} << 32U | static_cast<std::uint32_t>(record.state), index, id_};
  return checksum_bytes(words.data(), sizeof(words)).low;
}

ExtentTable::Record ExtentTable::make(ExtentState state, Checksum checksum,
                                      std::uint64_t index) const {
  Record record{checksum.low, checksum.high, state, 0, 0};
  record.check = check_of(record, index);
  return record;
}

int ExtentTable::write_range(std::uint64_t first, std::uint64_t end) const noexcept {
  // Damaged ones in the gaps keep failing their check: their zero check is wrong for their state.
  return file_.write_at(std::as_bytes(std::span(records_).subspan(first, end - first)),
                        first * sizeof(Record));
}

ExtentTable::Entry ExtentTable::find(std::uint64_t index) const {
  std::lock_guard const lock(*mutex_);
  Record const& record = records_[index];
  return {record.state, {record.low, record.high}};
}

ExtentTable::Counts ExtentTable::count() const {
  Counts counts;
  std::lock_guard const lock(*mutex_);
  for (auto const& record : records_) {
    counts.valid += record.state == ExtentState::Valid ? 1 : 0;
    counts.writing += record.state == ExtentState::Writing ? 1 : 0;
    counts.damaged += record.state == ExtentState::Damaged ? 1 : 0;
  }
  return counts;
}

int ExtentTable::mark_writing(std::span<std::uint64_t const> indices) {
  std::lock_guard const lock(*mutex_);
  touched_.clear();
  for (std::uint64_t const index : indices) {
    ExtentState const state = records_[index].state;
    if (state == ExtentState::Valid || state == ExtentState::Damaged) { touched_.push_back(index); }
  }
  std::sort(touched_.begin(), touched_.end());
  touched_.erase(std::unique(touched_.begin(), touched_.end()), touched_.end());
  undo_.clear();
  for (std::uint64_t const index : touched_) {
    undo_.push_back(records_[index]);
    records_[index] = make(ExtentState::Writing, {}, index);
  }
  int const error = for_each_run(
      touched_, [](std::uint64_t index) { return index; },
      [this](std::uint64_t first, std::uint64_t end) { return write_range(first, end); });
  if (error != 0) {
    for (std::size_t i = 0; i < touched_.size(); ++i) {
      records_[touched_[i]] = undo_[i];
    }
  }
  return error;
}

int ExtentTable::mark_valid(std::span<Written> written) {
  std::sort(written.begin(), written.end(),
            [](Written const& a, Written const& b) { return a.index < b.index; });
  std::lock_guard const lock(*mutex_);
  for (auto const& one : written) {
    records_[one.index] = make(ExtentState::Valid, one.checksum, one.index);
  }
  int const error = for_each_run(
      written, [](Written const& one) { return one.index; },
      [this](std::uint64_t first, std::uint64_t end) { return write_range(first, end); });
  if (error != 0) {
    for (auto const& one : written) {
      records_[one.index] = make(ExtentState::Writing, {}, one.index);
    }
  }
  return error;
}

int ExtentTable::clear(std::uint64_t index) {
  std::lock_guard const lock(*mutex_);
  records_[index] = {};
  return write_range(index, index + 1);
}

std::uint64_t ExtentTable::allocated_bytes() const noexcept {
  constexpr std::uint64_t kStatBlock = 512;
  struct stat status{};
  return fstat(file_.fd(), &status) == 0 ? static_cast<std::uint64_t>(status.st_blocks) * kStatBlock
                                         : 0;
}

int ExtentTable::sync() const { return fdatasync(file_.fd()) == 0 ? 0 : errno; }

}  // namespace kvbm::memory
