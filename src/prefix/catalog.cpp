// SPDX-License-Identifier: Apache-2.0
#include "prefix/catalog.hpp"

#include <algorithm>

namespace kvbm::prefix {

Tier::Tier(std::size_t at, layout::LayoutHandle of, layout::PhysicalLayout const& layout,
           std::uint64_t capacity, std::unique_ptr<TierBackend> made)
    : position(at),
      handle(of),
      block_bytes(layout.config().block_bytes()),
      is_memory(memory::is_memory(layout.storage_kind())),
      backend(std::move(made)),
      slots_(capacity) {
  stats.tier = remote::tier_of(layout.storage_kind());
  stats.capacity_blocks = capacity;
  free_.reserve(capacity);
  for (std::uint32_t slot = this->capacity(); slot > 0; --slot) {
    free_.push_back(slot - 1);
  }
}

std::uint32_t Tier::take_free() {
  std::uint32_t const slot = free_.back();
  free_.pop_back();
  change(slot, [](Slot& one) {
    one.is_free = false;
    one.is_filling = true;
  });
  return slot;
}

void Tier::recover(std::span<SlotKey const> blocks, Catalog& catalog) {
  for (auto const& block : blocks) {
    slots_[block.slot].is_free = false;
    slots_[block.slot].is_filling = true;
    begin(block.slot, catalog.at(block.key));
    end(block.slot);
  }
  std::erase_if(free_, [this](std::uint32_t slot) { return !slots_[slot].is_free; });
  stats.recovered = blocks.size();
}

void Tier::give_back(std::uint32_t slot) {
  change(slot, [](Slot& one) {
    one.is_filling = false;
    one.is_free = true;
  });
  free_.push_back(slot);
}

void Tier::begin(std::uint32_t slot, Entry& entry) {
  change(slot, [&](Slot& one) {
    one.key = entry.key;
    one.entry = &entry;
  });
  entry.slots[position] = slot;
}

void Tier::end(std::uint32_t slot) {
  change(slot, [](Slot& one) { one.is_filling = false; });
  Slot const& one = slots_[slot];
  if (one.entry == nullptr) { return; }
  ++stats.blocks;
  if (one.entry->pins == 0) { link(slot); }
}

void Tier::detach(std::uint32_t slot) {
  if (slots_[slot].is_held()) { --stats.blocks; }
  unlink(slot);
  departing.insert(slots_[slot].key);
  slots_[slot].entry->slots[position] = kNoSlot;
  change(slot, [](Slot& one) { one.entry = nullptr; });
}

void Tier::retake(std::uint32_t slot) {
  change(slot, [](Slot& one) { one.is_filling = true; });
}

void Tier::free(std::uint32_t slot) {
  departed(slots_[slot].key);
  change(slot, [](Slot& one) { one.is_free = true; });
  free_.push_back(slot);
}

void Tier::add_reader(std::uint32_t slot) {
  change(slot, [](Slot& one) { ++one.readers; });
}

void Tier::drop_reader(std::uint32_t slot) {
  change(slot, [](Slot& one) { --one.readers; });
}

void Tier::set_demoting(std::uint32_t slot, bool is_demoting) {
  slots_[slot].is_demoting = is_demoting;
}

void Tier::touch(std::uint32_t slot) {
  if (!slots_[slot].is_aged) { return; }
  unlink(slot);
  link(slot);
}

void Tier::set_pinned(std::uint32_t slot, bool is_pinned) {
  if (!slots_[slot].is_held()) { return; }
  unlink(slot);
  if (!is_pinned) { link(slot); }
}

void Tier::departed(BlockKey const& key) {
  if (auto const found = departing.find(key); found != departing.end()) { departing.erase(found); }
}

void Tier::link(std::uint32_t slot) {
  Slot& one = slots_[slot];
  one.is_aged = true;
  one.older = newest_;
  one.newer = kNoSlot;
  (newest_ == kNoSlot ? oldest_ : slots_[newest_].newer) = slot;
  newest_ = slot;
}

void Tier::unlink(std::uint32_t slot) {
  Slot& one = slots_[slot];
  if (!one.is_aged) { return; }
  one.is_aged = false;
  (one.older == kNoSlot ? oldest_ : slots_[one.older].newer) = one.newer;
  (one.newer == kNoSlot ? newest_ : slots_[one.newer].older) = one.older;
}

Entry* Catalog::find(BlockKey const& key) {
  auto const found = entries_.find(key);
  return found == entries_.end() ? nullptr : &found->second;
}

Entry const* Catalog::find(BlockKey const& key) const {
  auto const found = entries_.find(key);
  return found == entries_.end() ? nullptr : &found->second;
}

Entry& Catalog::at(BlockKey const& key) {
  auto& entry = entries_[key];
  entry.key = key;
  return entry;
}

void Catalog::drop_if_empty(BlockKey const& key) {
  auto const found = entries_.find(key);
  if (found == entries_.end() || found->second.pins > 0) { return; }
  for (auto const slot : found->second.slots) {
    if (slot != kNoSlot) { return; }
  }
  entries_.erase(found);
}

bool Catalog::is_held(Entry const& entry, std::size_t tier) const {
  std::uint32_t const slot = entry.slots[tier];
  return slot != kNoSlot && (*tiers[tier])[slot].is_held();
}

std::optional<std::size_t> Catalog::fastest(Entry const& entry, unsigned without) const {
  for (std::size_t tier = 0; tier < tiers.size(); ++tier) {
    if ((without >> tier & 1U) == 0 && is_held(entry, tier)) { return tier; }
  }
  return std::nullopt;
}

bool Catalog::is_held_below(Entry const& entry, std::size_t tier) const {
  for (std::size_t lower = tier + 1; lower < tiers.size(); ++lower) {
    if (is_held(entry, lower)) { return true; }
  }
  return false;
}

bool Catalog::is_held_by_survivor(Entry const& entry) const {
  for (std::size_t tier = 0; tier < tiers.size(); ++tier) {
    if (tiers[tier]->backend->survives() && is_held(entry, tier)) { return true; }
  }
  return false;
}

void Catalog::detach(std::size_t tier, std::uint32_t slot) {
  BlockKey const key = (*tiers[tier])[slot].key;
  tiers[tier]->detach(slot);
  drop_if_empty(key);
}

void Catalog::touch(Entry const& entry) {
  for (std::size_t tier = 0; tier < tiers.size(); ++tier) {
    if (entry.slots[tier] != kNoSlot) { tiers[tier]->touch(entry.slots[tier]); }
  }
}

}  // namespace kvbm::prefix
