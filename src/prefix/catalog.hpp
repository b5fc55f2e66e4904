// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <span>
#include <unordered_map>
#include <unordered_set>
#include <utility>
#include <vector>

#include "kvbm/layout/handle.hpp"
#include "kvbm/prefix/block_key.hpp"
#include "kvbm/prefix/prefix_store.hpp"
#include "kvbm/prefix/stats.hpp"
#include "kvbm/transfer/event_system.hpp"
#include "prefix/tier_backend.hpp"

/// What is where: plain data and its rules, no I/O and no threads. All of it is used under the
/// store's one lock.
namespace kvbm::prefix {

inline constexpr std::size_t kMaxTiers = remote::kNumTiers;
inline constexpr std::uint32_t kNoSlot = 0xFFFFFFFFU;

/// A key that is stored, on its way, or pinned.
struct Entry {
  BlockKey key;
  std::array<std::uint32_t, kMaxTiers> slots{kNoSlot, kNoSlot, kNoSlot, kNoSlot};
  std::uint32_t pins = 0;
};

/// Calls that wait for several writes together.
template <typename Result>
struct Group {
  std::shared_ptr<Result> result = std::make_shared<Result>();
  std::size_t num_left = 0;
  transfer::Completion completion;
};

/// How a write ended.
enum class WriteOutcome { Written, Present, Failed };

/// One block on its way into a tier.
struct WriteItem {
  BlockKey key;
  std::optional<std::size_t> src_tier;  ///< holds a reader of its block; none: the engine's block
  layout::LayoutHandle src_layout;
  BlockId src_block = 0;
  bool is_demotion = false;  ///< the source is to be evicted then
  std::shared_ptr<Group<OffloadResult>> offload;
  std::shared_ptr<Group<FlushResult>> flush;
};

/// One block of a tier. Free -> filling -> held -> free; a block that is detached from its entry is
/// invisible, and free as soon as nothing touches it and its record is gone.
struct Slot {
  BlockKey key;
  Entry* entry = nullptr;  ///< null: free or detached
  bool is_free = true;
  bool is_filling = false;
  bool is_demoting = false;  ///< a demotion is queued
  bool is_aged = false;      ///< in the list of evictable blocks
  std::uint32_t readers = 0;
  std::uint32_t newer = kNoSlot;
  std::uint32_t older = kNoSlot;

  [[nodiscard]] bool is_held() const noexcept { return entry != nullptr && !is_filling; }
  [[nodiscard]] bool is_idle() const noexcept { return is_held() && readers == 0; }
  /// Detached, and nothing touches it.
  [[nodiscard]] bool is_gone() const noexcept {
    return !is_free && entry == nullptr && !is_filling && readers == 0;
  }
};

class Catalog;

/// One tier's blocks, their order of use, and what is queued for it.
class Tier {
 public:
  Tier(std::size_t position, layout::LayoutHandle handle, layout::PhysicalLayout const& layout,
       std::uint64_t capacity, std::unique_ptr<TierBackend> made);

  std::size_t const position;
  layout::LayoutHandle const handle;
  std::uint64_t const block_bytes;  ///< payload
  bool const is_memory;
  std::unique_ptr<TierBackend> const backend;
  TierStats stats;
  std::deque<WriteItem> queue;
  std::size_t num_writing = 0;  ///< items that the writer has taken
  /// Keys of detached blocks whose record may not be gone yet: written again only then.
  std::unordered_multiset<BlockKey> departing;

  [[nodiscard]] Slot const& operator[](std::uint32_t slot) const { return slots_[slot]; }
  [[nodiscard]] std::uint32_t capacity() const noexcept {
    return static_cast<std::uint32_t>(slots_.size());
  }
  [[nodiscard]] std::size_t num_free() const noexcept { return free_.size(); }
  /// Whether some block will become free or evictable without anybody's help.
  [[nodiscard]] bool is_moving() const noexcept { return free_.size() + num_idle_ < slots_.size(); }
  /// Used longest ago, and the next newer one; kNoSlot: none.
  [[nodiscard]] std::uint32_t oldest() const noexcept { return oldest_; }

  /// A free block, filling from now on for nobody yet. @pre there is one
  std::uint32_t take_free();
  /// Recovered blocks: held from now on, the last one newest. @pre free, each once
  void recover(std::span<SlotKey const> blocks, Catalog& catalog);
  /// Begins to fill a taken block.
  void begin(std::uint32_t slot, Entry& entry);
  /// The fill ended; detached ones stay so.
  void end(std::uint32_t slot);
  /// A taken block that nobody began to fill becomes free again.
  void give_back(std::uint32_t slot);
  /// Makes it invisible and its key departing.
  void detach(std::uint32_t slot);
  /// Takes a detached block that is gone for another key at once; its old key stays departing.
  void retake(std::uint32_t slot);
  /// A gone block becomes free, its key no longer departing.
  void free(std::uint32_t slot);
  void add_reader(std::uint32_t slot);
  void drop_reader(std::uint32_t slot);
  void set_demoting(std::uint32_t slot, bool is_demoting);
  /// The newest from now on, if it can be evicted at all.
  void touch(std::uint32_t slot);
  /// Takes it out of the list of evictable blocks, or puts it back as the newest.
  void set_pinned(std::uint32_t slot, bool is_pinned);
  /// One key less is departing.
  void departed(BlockKey const& key);

 private:
  template <typename Change>
  void change(std::uint32_t slot, Change const& apply) {
    Slot& one = slots_[slot];
    if (one.is_idle()) { --num_idle_; }
    apply(one);
    if (one.is_idle()) { ++num_idle_; }
  }
  void link(std::uint32_t slot);
  void unlink(std::uint32_t slot);

  std::vector<Slot> slots_;
  std::vector<std::uint32_t> free_;
  std::size_t num_idle_ = 0;
  std::uint32_t oldest_ = kNoSlot;
  std::uint32_t newest_ = kNoSlot;
};

/// All tiers and keys.
class Catalog {
 public:
  std::vector<std::unique_ptr<Tier>> tiers;  ///< fastest first

  [[nodiscard]] Entry* find(BlockKey const& key);
  [[nodiscard]] Entry const* find(BlockKey const& key) const;
  /// Finds or makes it.
  [[nodiscard]] Entry& at(BlockKey const& key);
  /// Forgets an entry that stands for nothing any more.
  void drop_if_empty(BlockKey const& key);

  /// Whether a tier holds the key, readable.
  [[nodiscard]] bool is_held(Entry const& entry, std::size_t tier) const;
  /// The fastest tier that holds the key and is not in the mask `without`.
  [[nodiscard]] std::optional<std::size_t> fastest(Entry const& entry, unsigned without = 0) const;
  [[nodiscard]] bool is_held_below(Entry const& entry, std::size_t tier) const;
  [[nodiscard]] bool is_held_by_survivor(Entry const& entry) const;

  /// Detaches a tier's block; the entry may go with it.
  void detach(std::size_t tier, std::uint32_t slot);
  /// The key was used: it is the newest in every tier.
  void touch(Entry const& entry);
  /// The same for the keys of one call: its first one becomes the newest, since the end of a prefix
  /// is worth nothing without the beginning.
  template <typename Keys>
  void touch_all(Keys const& keys) {
    for (auto key = keys.rbegin(); key != keys.rend(); ++key) {
      if (Entry const* const entry = find(*key); entry != nullptr) { touch(*entry); }
    }
  }
  [[nodiscard]] std::size_t size() const noexcept { return entries_.size(); }
  template <typename Each>
  void for_each(Each const& each) {
    for (auto& [key, entry] : entries_) {
      each(entry);
    }
  }

 private:
  std::unordered_map<BlockKey, Entry> entries_;
};

}  // namespace kvbm::prefix
