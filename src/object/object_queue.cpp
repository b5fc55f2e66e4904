// SPDX-License-Identifier: Apache-2.0
#include "object/object_queue.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <tuple>

#include "kvbm/core/error.hpp"
#include "object/s3_errors.hpp"

namespace kvbm::object {

ObjectQueue::ObjectQueue(ObjectBlockStore::Impl const& store)
    : client_(store.client_), family_(store.family()), batch_(store.make_batch()) {}

// All or nothing: what throws here leaves the queue as it was.
std::size_t ObjectQueue::append(bool is_read, std::shared_ptr<memory::BlockStore> const& store,
                                std::span<memory::ExtentIo const> extents) {
  auto object_store = std::dynamic_pointer_cast<ObjectBlockStore>(store);
  KVBM_EXPECTS(object_store != nullptr && object_store->family() == family_, InvalidArgument,
               store == nullptr ? "I/O on no store"
                                : store->name() + " is not a store of this queue's S3 client");
  ObjectBlockStore::Impl& impl = *object_store->impl_;
  if (!is_read) { impl.check_writable(); }
  std::size_t const first = entries_.size();
  try {
    for (auto const& io : extents) {
      impl.check_extent(io.group, io.extent);
      KVBM_EXPECTS(
          io.memory != nullptr && io.memory_bytes >= impl.extent_bytes(), InvalidArgument,
          fmt::format("{}: {} bytes of memory at {}, the block has {}", impl.describe(io.extent),
                      io.memory_bytes, static_cast<void const*>(io.memory), impl.extent_bytes()));
      entries_.push_back({&impl, is_read, io, impl.place_of(io.extent), {}, nullptr});
    }
    if (std::find(stores_.begin(), stores_.end(), object_store) == stores_.end()) {
      stores_.push_back(std::move(object_store));
    }
  } catch (...) {
    entries_.resize(first);
    throw;
  }
  return first;
}

/// Entries from `first` on, those of one object together in the order of their slots.
std::vector<std::vector<std::size_t>> ObjectQueue::group_by_object(std::size_t first) const {
  std::vector<std::size_t> shared;
  std::vector<std::vector<std::size_t>> groups;
  for (std::size_t i = first; i < entries_.size(); ++i) {
    if (entries_[i].place.num_blocks == 1) {
      groups.push_back({i});
    } else {
      shared.push_back(i);
    }
  }
  // Of one slot in the order of the list.
  auto const key = [this](std::size_t i) {
    return std::tuple(entries_[i].place.first_block, entries_[i].place.slot, i);
  };
  std::sort(shared.begin(), shared.end(),
            [&key](std::size_t a, std::size_t b) { return key(a) < key(b); });
  for (std::size_t n = 0; n < shared.size(); ++n) {
    bool const is_same =
        n > 0 && entries_[shared[n]].place.first_block == entries_[shared[n - 1]].place.first_block;
    if (!is_same) { groups.emplace_back(); }
    groups.back().push_back(shared[n]);
  }
  return groups;
}

void ObjectQueue::start_write(std::shared_ptr<memory::BlockStore> const& store,
                              std::span<memory::ExtentIo const> extents) {
  std::size_t const first = append(false, store, extents);
  for (auto const& entries : group_by_object(first)) {
    for (std::size_t const i : entries) {
      Entry& entry = entries_[i];
      entry.checksum = checksum_bytes(entry.io.memory, entry.store->extent_bytes());
    }
    std::size_t distinct = 1;
    for (std::size_t n = 1; n < entries.size(); ++n) {
      bool const is_other = entries_[entries[n]].place.slot != entries_[entries[n - 1]].place.slot;
      distinct += is_other ? 1 : 0;
    }
    if (distinct == entries_[entries.front()].place.num_blocks) {
      put(entries);
    } else {
      merges_.push_back(entries);
    }
  }
}

void ObjectQueue::put(std::vector<std::size_t> const& entries) {
  try {
    Entry const& front = entries_[entries.front()];
    BlockRecord record{front.store->extent_bytes(), {}};
    record.checksums.resize(front.place.num_blocks);
    std::vector<std::span<std::byte const>> pieces(front.place.num_blocks);
    for (std::size_t const i : entries) {
      Entry const& entry = entries_[i];
      record.checksums[entry.place.slot] = entry.checksum;
      pieces[entry.place.slot] = {entry.io.memory, entry.store->extent_bytes()};
    }
    pending_.push_back({batch_->size(), entries});
    batch_->put(front.place.object_key, std::move(pieces), record.to_metadata(),
                front.store->scheme_.temporary_prefix());
  } catch (...) {
    if (!pending_.empty() && pending_.back().request == batch_->size()) { pending_.pop_back(); }
    fail(entries, std::current_exception());
  }
}

void ObjectQueue::start_read(std::shared_ptr<memory::BlockStore> const& store,
                             std::span<memory::ExtentIo const> extents) {
  std::size_t const first = append(true, store, extents);
  for (auto const& entries : group_by_object(first)) {
    // A block that is wanted twice comes twice.
    std::vector<std::size_t> distinct;
    for (std::size_t const i : entries) {
      if (!distinct.empty() && entries_[distinct.back()].place.slot == entries_[i].place.slot) {
        get(distinct);
        distinct.clear();
      }
      distinct.push_back(i);
    }
    get(distinct);
  }
}

void ObjectQueue::get(std::vector<std::size_t> const& entries) {
  try {
    pending_.push_back({batch_->size(), entries});
    Entry const& front = entries_[entries.front()];
    std::uint64_t const bytes = front.store->extent_bytes();
    std::vector<S3Piece> pieces;
    std::uint32_t next_slot = front.place.slot;
    for (std::size_t const i : entries) {
      Entry const& entry = entries_[i];
      // Blocks between two that are wanted come along: that is less than another request.
      if (entry.place.slot > next_slot) {
        pieces.push_back({nullptr, (entry.place.slot - next_slot) * bytes});
      }
      pieces.push_back({entry.io.memory, bytes});
      next_slot = entry.place.slot + 1;
    }
    batch_->get(front.place.object_key, front.place.slot * bytes, std::move(pieces),
                front.place.num_blocks * bytes);
  } catch (...) {
    if (!pending_.empty() && pending_.back().request == batch_->size()) { pending_.pop_back(); }
    fail(entries, std::current_exception());
  }
}

void ObjectQueue::fail(std::vector<std::size_t> const& entries, std::exception_ptr const& error) {
  for (std::size_t const i : entries) {
    Entry& entry = entries_[i];
    entry.error = with_context(
        error, entry.store->describe(entry.io.extent) +
                   (kind_of(error) == S3ErrorKind::NoSuchKey ? " was never written" : ""));
  }
}

void ObjectQueue::finish_merges() {
  if (merges_.empty()) { return; }
  std::vector<ObjectMerge> merges;
  for (auto const& entries : merges_) {
    Entry const& front = entries_[entries.front()];
    ObjectMerge merge{front.store, front.place, {}, nullptr};
    for (std::size_t const i : entries) {
      merge.changes.push_back(
          {entries_[i].place.slot, entries_[i].io.memory, entries_[i].checksum});
    }
    merges.push_back(std::move(merge));
  }
  apply_merges(*client_, merges);
  for (std::size_t i = 0; i < merges.size(); ++i) {
    if (merges[i].error != nullptr) { fail(merges_[i], merges[i].error); }
  }
  merges_.clear();
}

void ObjectQueue::finish_read(S3Outcome const& outcome, std::vector<std::size_t> const& entries) {
  Entry const& front = entries_[entries.front()];
  BlockRecord const record =
      BlockRecord::parse(outcome.object, front.store->extent_bytes(), front.place.num_blocks);
  for (std::size_t const i : entries) {
    Entry& entry = entries_[i];
    auto const& expected = record.checksums[entry.place.slot];
    if (!expected) {
      fail({i}, std::make_exception_ptr(
                    Error(ErrorCode::NotFound, "was never written; other blocks of object " +
                                                   entry.place.object_key + " were")));
      continue;
    }
    Checksum const found = checksum_bytes(entry.io.memory, entry.store->extent_bytes());
    if (found != *expected) {
      fail({i}, std::make_exception_ptr(CorruptError(
                    fmt::format("object {} has checksum {}, its metadata {}",
                                entry.place.object_key, to_string(found), to_string(*expected)))));
    }
  }
}

bool ObjectQueue::is_any_corrupt(std::vector<std::size_t> const& entries) const {
  return std::any_of(entries.begin(), entries.end(), [this](std::size_t i) {
    try {
      if (entries_[i].is_read && entries_[i].error) { std::rethrow_exception(entries_[i].error); }
      return false;
    } catch (CorruptError const&) { return true; } catch (...) {
      return false;
    }
  });
}

void ObjectQueue::finish(S3Outcome const& outcome, std::vector<std::size_t> const& entries) {
  try {
    if (outcome.error != nullptr) { std::rethrow_exception(outcome.error); }
    if (entries_[entries.front()].is_read) { finish_read(outcome, entries); }
  } catch (...) { fail(entries, std::current_exception()); }
}

std::vector<std::exception_ptr> ObjectQueue::finish() {
  finish_merges();
  // In the order of the starts, while later ones are under way.
  for (auto const& pending : pending_) {
    finish(batch_->wait_for(pending.request), pending.entries);
    if (is_any_corrupt(pending.entries) && batch_->read_again(pending.request)) {
      for (std::size_t const i : pending.entries) {
        entries_[i].error = nullptr;
      }
      finish(batch_->wait_for(pending.request), pending.entries);
    }
  }
  static_cast<void>(batch_->wait());
  std::vector<std::exception_ptr> results(entries_.size());
  for (std::size_t i = 0; i < entries_.size(); ++i) {
    Entry& entry = entries_[i];
    if (entry.error != nullptr && entry.is_read) {
      std::memset(entry.io.memory, 0, entry.store->extent_bytes());
    }
    results[i] = std::move(entry.error);
  }
  pending_.clear();
  entries_.clear();
  stores_.clear();
  return results;
}

void ObjectQueue::register_buffer(std::span<std::byte>) {}
std::size_t ObjectQueue::num_started() const noexcept { return entries_.size(); }

}  // namespace kvbm::object
