// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <exception>
#include <numeric>
#include <utility>

#include "kvbm/core/error.hpp"
#include "kvbm/core/log.hpp"
#include "kvbm/memory/disk_io.hpp"
#include "kvbm/memory/striped_file.hpp"
#include "memory/block_file_impl.hpp"

namespace kvbm::memory {

// Started extents are entries; neighbours in file and memory share a request. All vectors keep
// their capacity, so that a queue in steady use allocates only the result of finish().
class BlockFile::Queue::Impl {
 public:
  Impl(std::shared_ptr<DiskIo> io, std::shared_ptr<FarMemory> far)
      : io_(std::move(io)), far_(std::move(far)) {
    KVBM_EXPECTS(io_ != nullptr, InvalidArgument, "a queue without an I/O engine");
    queue_ = io_->make_queue();
  }

  void start(DiskRequest::Op op, std::shared_ptr<BlockStore> const& store,
             std::span<ExtentIo const> extents) {
    KVBM_EXPECTS(store != nullptr, InvalidArgument, "I/O on no file");
    KVBM_EXPECTS(op == DiskRequest::Op::Read || store->is_writable(), InvalidArgument,
                 fmt::format("{} was opened read-only", store->name()));
    std::size_t const first = append(op, store, extents);
    if (op == DiskRequest::Op::Write) {
      start_writes(first);
    } else {
      start_reads(first);
    }
    flush();
  }

  std::vector<std::exception_ptr> finish() {
    complete_requests();
    retry_shared();
    if (far_ != nullptr) { verify_far(); }
    store_records();
    std::vector<std::exception_ptr> results(entries_.size());
    for (std::size_t i = 0; i < entries_.size(); ++i) {
      Entry& entry = entries_[i];
      if (entry.error != nullptr && entry.op == DiskRequest::Op::Read) { zero(entry); }
      results[i] = std::move(entry.error);
    }
    entries_.clear();
    files_.clear();
    stores_.clear();
    return results;
  }

  void register_buffer(std::span<std::byte> buffer) { queue_->register_buffer(buffer); }
  [[nodiscard]] std::size_t num_started() const noexcept { return entries_.size(); }

 private:
  struct Entry {
    BlockFile::Impl* file = nullptr;
    StripedFile const* set = nullptr;  // whose part the file is
    DiskRequest::Op op = DiskRequest::Op::Read;
    ExtentIo io;
    std::uint64_t record = 0;
    std::uint64_t bytes = 0;
    Checksum checksum;  // Write: of the data; Read: what it must be
    std::exception_ptr error;
  };
  struct EntryRange {
    std::size_t first = 0;
    std::size_t count = 0;
  };

  // All or nothing: what throws here leaves the queue as it was.
  std::size_t append(DiskRequest::Op op, std::shared_ptr<BlockStore> const& store,
                     std::span<ExtentIo const> extents) {
    auto const* const set = dynamic_cast<StripedFile const*>(store.get());
    auto const* const file = set == nullptr ? dynamic_cast<BlockFile const*>(store.get()) : nullptr;
    KVBM_EXPECTS(set != nullptr || file != nullptr, InvalidArgument,
                 fmt::format("{} is no block file: use a queue of its own", store->name()));
    std::size_t const first = entries_.size();
    try {
      for (auto const& io : extents) {
        if (set == nullptr) {
          append(op, *file->impl_, nullptr, io);
        } else {
          append_part(op, *set, io);
        }
      }
      if (std::find(stores_.begin(), stores_.end(), store) == stores_.end()) {
        stores_.push_back(store);
      }
      for (std::size_t i = first; i < entries_.size(); ++i) {
        if (std::find(files_.begin(), files_.end(), entries_[i].file) == files_.end()) {
          files_.push_back(entries_[i].file);
        }
      }
    } catch (...) {
      entries_.resize(first);
      throw;
    }
    return first;
  }

  void append(DiskRequest::Op op, BlockFile::Impl& impl, StripedFile const* set,
              ExtentIo const& io) {
    std::uint64_t const record = impl.record_of(io.group, io.extent);
    std::uint64_t const bytes = impl.manifest_.groups[io.group].extent_bytes;
    KVBM_EXPECTS(io.memory != nullptr && io.memory_bytes >= bytes, InvalidArgument,
                 fmt::format("{}: {} bytes of memory at {}, the extent has {}",
                             impl.name_of(io.group, io.extent), io.memory_bytes,
                             static_cast<void const*>(io.memory), bytes));
    entries_.push_back({&impl, set, op, io, record, bytes, {}, nullptr});
  }

  // Extents of a set alternate between its parts, so that all devices work from the start.
  void append_part(DiskRequest::Op op, StripedFile const& set, ExtentIo const& io) {
    // A part may have room for an extent more than the set: its own check would not do.
    auto const& groups = set.groups();
    KVBM_EXPECTS(io.group < groups.size() && io.extent < groups[io.group].count, OutOfRange,
                 fmt::format("{}: no extent {} in group {}", set.name(), io.extent, io.group));
    auto const place = set.place_of(io.extent);
    ExtentIo part = io;
    part.extent = place.extent;
    append(op, *set.parts()[place.part]->impl_, &set, part);
  }

  void start_writes(std::size_t first) {
    if (first == entries_.size()) { return; }
    if (far_ != nullptr) { hash_far(first); }
    for (auto* const file : files_) {
      mark_writing(*file, first);
    }
    for (std::size_t i = first; i < entries_.size(); ++i) {
      Entry& entry = entries_[i];
      if (entry.error != nullptr) { continue; }
      if (far_ == nullptr) { entry.checksum = checksum_bytes(entry.io.memory, entry.bytes); }
      push(i);
    }
  }

  void mark_writing(BlockFile::Impl& file, std::size_t first) {
    records_.clear();
    for (std::size_t i = first; i < entries_.size(); ++i) {
      if (entries_[i].file == &file) { records_.push_back(entries_[i].record); }
    }
    if (records_.empty()) { return; }
    int const error = file.table_.mark_writing(records_);
    if (error == 0) { return; }
    for (std::size_t i = first; i < entries_.size(); ++i) {
      if (entries_[i].file == &file) {
        entries_[i].error = make_io_error(entries_[i], error, file.paths_.table.string() + ": ");
      }
    }
  }

  void start_reads(std::size_t first) {
    for (std::size_t i = first; i < entries_.size(); ++i) {
      Entry& entry = entries_[i];
      auto const known = entry.file->table_.find(entry.record);
      entry.checksum = known.checksum;
      if (known.state == ExtentState::Valid) {
        push(i);
      } else if (known.state == ExtentState::Damaged) {
        entry.error = std::make_exception_ptr(
            CorruptError(fmt::format("{}: its record in {} is damaged; write it again",
                                     name_of(entry), entry.file->paths_.table.string())));
      } else {
        bool const torn = known.state == ExtentState::Writing;
        entry.error = std::make_exception_ptr(
            Error(ErrorCode::NotFound,
                  fmt::format("{} {}", name_of(entry),
                              torn ? "was never completely written" : "was never written")));
      }
    }
  }

  // Adds the request of one entry, or lengthens the one before it.
  void push(std::size_t index) {
    Entry const& entry = entries_[index];
    DiskRequest const request = entry.file->make_request(entry.op, entry.io);
    if (!pending_.empty()) {
      DiskRequest& last = pending_.back();
      EntryRange& range = ranges_.back();
      bool const neighbour = last.op == request.op && last.fd == request.fd &&
                             last.offset + last.bytes == request.offset &&
                             last.memory + last.bytes == request.memory &&
                             range.first + range.count == index &&
                             last.bytes + request.bytes <= kDiskChunkBytes;
      if (neighbour) {
        last.bytes += request.bytes;
        ++range.count;
        return;
      }
      // The device works on these while the next ones are checksummed.
      pending_bytes_ += last.bytes;
      if (pending_bytes_ >= kFlushBytes || pending_.size() >= kFlushRequests) { flush(); }
    }
    pending_.push_back(request);
    ranges_.push_back({index, 1});
  }

  void flush() {
    if (!pending_.empty()) { queue_->start(pending_); }
    pending_.clear();
    pending_bytes_ = 0;
  }

  void complete_requests() {
    shared_failures_.clear();
    for (;;) {
      done_.clear();
      if (queue_->wait_some(done_) == 0) { break; }
      for (auto const& completion : done_) {
        complete(ranges_[completion.request], completion.error);
      }
    }
    static_cast<void>(queue_->finish());
    ranges_.clear();
  }

  void complete(EntryRange range, int error) {
    if (error != 0 && range.count > 1) {
      shared_failures_.push_back(range);
      return;
    }
    for (std::size_t i = range.first; i < range.first + range.count; ++i) {
      Entry& entry = entries_[i];
      if (error != 0) {
        entry.error = make_io_error(entry, error, "");
      } else if (entry.op == DiskRequest::Op::Read && far_ == nullptr) {
        verify(entry, checksum_bytes(entry.io.memory, entry.bytes));
      }
    }
  }

  // One bad sector must not cost its neighbours: what failed together is tried one by one.
  void retry_shared() {
    if (shared_failures_.empty()) { return; }
    retries_.swap(shared_failures_);
    for (auto const& range : retries_) {
      for (std::size_t i = range.first; i < range.first + range.count; ++i) {
        Entry const& entry = entries_[i];
        pending_.push_back(entry.file->make_request(entry.op, entry.io));
        ranges_.push_back({i, 1});
      }
    }
    flush();
    complete_requests();
  }

  static void verify(Entry& entry, Checksum found) {
    if (found == entry.checksum) { return; }
    ExtentGroup const& group = entry.file->manifest_.groups[entry.io.group];
    entry.error = std::make_exception_ptr(CorruptError(
        fmt::format("{} (bytes {} to {}) is damaged: checksum {}, expected {}", name_of(entry),
                    group.file_offset + entry.io.extent * group.extent_stride,
                    group.file_offset + entry.io.extent * group.extent_stride + entry.bytes,
                    to_string(found), to_string(entry.checksum))));
  }

  // Memory out of the CPU's reach is hashed by whoever reaches it, as much as possible at a time.
  std::vector<Checksum> hash(std::vector<std::size_t> const& entries) {
    std::vector<std::span<std::byte const>> ranges;
    ranges.reserve(entries.size());
    for (std::size_t const i : entries) {
      ranges.emplace_back(entries_[i].io.memory, entries_[i].bytes);
    }
    return far_->checksums(ranges);
  }

  void hash_far(std::size_t first) {
    std::vector<std::size_t> written(entries_.size() - first);
    std::iota(written.begin(), written.end(), first);
    try {
      auto const checksums = hash(written);
      for (std::size_t const i : written) {
        entries_[i].checksum = checksums[i - first];
      }
    } catch (...) {
      entries_.resize(first);  // nothing is started where it throws
      throw;
    }
  }

  void verify_far() {
    std::vector<std::size_t> read;
    for (std::size_t i = 0; i < entries_.size(); ++i) {
      if (entries_[i].op == DiskRequest::Op::Read && entries_[i].error == nullptr) {
        read.push_back(i);
      }
    }
    if (read.empty()) { return; }
    try {
      auto const checksums = hash(read);
      for (std::size_t i = 0; i < read.size(); ++i) {
        verify(entries_[read[i]], checksums[i]);
      }
    } catch (...) {
      for (std::size_t const i : read) {
        entries_[i].error = std::current_exception();
      }
    }
  }

  void zero(Entry const& entry) noexcept {
    if (far_ == nullptr) {
      std::memset(entry.io.memory, 0, entry.bytes);
      return;
    }
    try {
      far_->zero({entry.io.memory, entry.bytes});
    } catch (std::exception const& error) {
      log::write(log::Level::Error, fmt::format("{}: memory of an extent that could not be read "
                                                "was not zeroed: {}",
                                                name_of(entry), error.what()));
    }
  }

  void store_records() {
    for (auto* const file : files_) {
      written_.clear();
      for (auto const& entry : entries_) {
        if (entry.file == file && entry.op == DiskRequest::Op::Write && entry.error == nullptr) {
          written_.push_back({entry.record, entry.checksum});
        }
      }
      if (written_.empty()) { continue; }
      int const error = file->table_.mark_valid(written_);
      if (error != 0) { fail_writes(*file, error); }
    }
  }

  void fail_writes(BlockFile::Impl const& file, int error) {
    for (auto& entry : entries_) {
      if (entry.file == &file && entry.op == DiskRequest::Op::Write && entry.error == nullptr) {
        entry.error = make_io_error(entry, error, file.paths_.table.string() + ": ");
      }
    }
  }

  static std::string name_of(Entry const& entry) {
    auto name = entry.file->name_of(entry.io.group, entry.io.extent);
    if (entry.set == nullptr) { return name; }
    auto const& parts = entry.set->parts();
    std::uint64_t index = 0;
    while (parts[index]->impl_.get() != entry.file) {
      ++index;
    }
    return fmt::format("{}: extent {} of group {} ({})", entry.set->name(),
                       entry.io.extent * parts.size() + index, entry.io.group, name);
  }

  std::exception_ptr make_io_error(Entry const& entry, int error, std::string const& where) {
    bool const reading = entry.op == DiskRequest::Op::Read;
    return std::make_exception_ptr(
        Error(ErrorCode::Io,
              fmt::format("{}: {}{} of {} bytes: {}", name_of(entry), where,
                          reading ? "read" : "write", entry.bytes, io_->describe(error)),
              error));
  }

  static constexpr std::uint64_t kFlushBytes = std::uint64_t{2} << 20;
  static constexpr std::size_t kFlushRequests = 32;

  std::shared_ptr<DiskIo> io_;
  std::shared_ptr<FarMemory> far_;                   // null: the CPU reaches the memory
  std::vector<std::shared_ptr<BlockStore>> stores_;  // keep the entries' files alive
  std::vector<BlockFile::Impl*> files_;              // theirs, each once
  std::vector<Entry> entries_;
  std::vector<DiskRequest> pending_;  // not given to queue_ yet
  std::uint64_t pending_bytes_ = 0;
  std::vector<EntryRange> ranges_;  // a request of queue_: its entries
  std::vector<EntryRange> shared_failures_;
  std::vector<EntryRange> retries_;
  std::vector<DiskCompletion> done_;
  std::vector<std::uint64_t> records_;
  std::vector<ExtentTable::Written> written_;
  // Last: gone before anything that its requests touch.
  std::unique_ptr<DiskQueue> queue_;
};

BlockFile::Queue::Queue(std::shared_ptr<DiskIo> io)
    : impl_(std::make_unique<Impl>(std::move(io), nullptr)) {}

BlockFile::Queue::Queue(std::shared_ptr<DiskIo> io, std::shared_ptr<FarMemory> memory)
    : impl_(std::make_unique<Impl>(std::move(io), std::move(memory))) {}

BlockFile::Queue::~Queue() = default;

void BlockFile::Queue::start_write(std::shared_ptr<BlockStore> const& store,
                                   std::span<ExtentIo const> extents) {
  impl_->start(DiskRequest::Op::Write, store, extents);
}

void BlockFile::Queue::start_read(std::shared_ptr<BlockStore> const& store,
                                  std::span<ExtentIo const> extents) {
  impl_->start(DiskRequest::Op::Read, store, extents);
}

std::vector<std::exception_ptr> BlockFile::Queue::finish() { return impl_->finish(); }

void BlockFile::Queue::register_buffer(std::span<std::byte> buffer) {
  impl_->register_buffer(buffer);
}

std::size_t BlockFile::Queue::num_started() const noexcept { return impl_->num_started(); }

}  // namespace kvbm::memory
