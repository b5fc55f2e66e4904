// SPDX-License-Identifier: Apache-2.0
#include "prefix/store_impl.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <unordered_set>
#include <utility>

#include "kvbm/core/error.hpp"
#include "kvbm/core/log.hpp"

namespace kvbm::prefix {
namespace {

/// Bytes that one transfer of a flight takes: so that the next hop can begin early.
constexpr std::uint64_t kFlightBytes = std::uint64_t{8} << 20U;
constexpr unsigned kMaxReaders = 64;

}  // namespace

PrefixStore::Impl::Impl(std::shared_ptr<manager::TransferManager> manager,
                        PrefixStoreOptions options)
    : manager_(std::move(manager)), options_(std::move(options)) {
  KVBM_EXPECTS(manager_ != nullptr, InvalidArgument, "PrefixStore needs a manager, got null");
  KVBM_EXPECTS(options_.readers >= 1 && options_.readers <= kMaxReaders, InvalidArgument,
               fmt::format("readers {}: say 1 to {}", options_.readers, kMaxReaders));
  KVBM_EXPECTS(options_.batch_blocks >= 1, InvalidArgument,
               "batch_blocks 0: at least one block goes at a time");
  open_tiers();
  try {
    for (unsigned i = 0; i < options_.readers; ++i) {
      readers_.emplace_back([this] { read_loop(); });
    }
    for (auto const& tier : catalog_.tiers) {
      writers_.emplace_back([this, &tier = *tier] { write_loop(tier); });
    }
  } catch (...) {
    stop();
    throw;
  }
}

PrefixStore::Impl::~Impl() { stop(); }

void PrefixStore::Impl::stop() noexcept {
  {
    Lock const lock(mutex_);
    readers_end_ = true;
  }
  changed_.notify_all();
  for (auto& reader : readers_) {
    reader.join();
  }
  readers_.clear();
  // From the top: what a writer does may need the writer below.
  for (std::size_t i = 0; i < writers_.size(); ++i) {
    {
      Lock const lock(mutex_);
      num_writers_end_ = i + 1;
    }
    changed_.notify_all();
    writers_[i].join();
  }
  writers_.clear();
}

void PrefixStore::Impl::open_tiers() {
  KVBM_EXPECTS(
      !options_.tiers.empty() && options_.tiers.size() <= kMaxTiers, InvalidArgument,
      fmt::format("a prefix store has 1 to {} tiers, got {}", kMaxTiers, options_.tiers.size()));
  std::optional<remote::LogicalLayoutHandle> above;
  for (auto const& tier : options_.tiers) {
    auto const layout = manager_->layout(tier.layout);
    auto const level = remote::tier_of(layout.storage_kind());
    std::size_t const position = catalog_.tiers.size();
    KVBM_EXPECTS(!above || *above < level, InvalidArgument,
                 fmt::format("tier {} is {}, below {}: name the fastest first, and none twice",
                             position, to_string(level), above ? to_string(*above) : ""));
    above = level;
    if (position == 0) {
      shape_ = layout.shape_fingerprint();
      page_size = layout.config().page_size();
      root = root_key(options_.fingerprint, page_size);
      flight_blocks_ = std::max<std::size_t>(
          1, kFlightBytes / std::max<std::uint64_t>(1, layout.config().block_bytes()));
    }
    KVBM_EXPECTS(layout.shape_fingerprint() == shape_, InvalidArgument,
                 fmt::format("tier {} has blocks of another shape than the first one: {}",
                             to_string(level), layout.to_string()));
    std::uint64_t const all = layout.config().num_blocks();
    std::uint64_t const capacity =
        std::min(all, tier.budget_bytes ? *tier.budget_bytes / layout.config().block_bytes() : all);
    KVBM_EXPECTS(capacity >= 1, InvalidArgument,
                 fmt::format("tier {}: {} bytes are less than one block of {}", to_string(level),
                             tier.budget_bytes.value_or(0), layout.config().block_bytes()));
    auto backend = make_backend(layout, root, tier.index);
    auto const recovered = backend->recover(capacity);
    catalog_.tiers.push_back(
        std::make_unique<Tier>(position, tier.layout, layout, capacity, std::move(backend)));
    catalog_.tiers.back()->recover(recovered.held, catalog_);
    catalog_.tiers.back()->stats.damaged_index = recovered.num_damaged;
    if (catalog_.tiers.back()->is_memory) { stage_ = position; }
  }
  if (!options_.promote) { stage_.reset(); }
}

void PrefixStore::Impl::check_blocks(std::size_t num_keys, layout::LayoutHandle handle,
                                     std::span<BlockId const> blocks, bool is_destination) const {
  KVBM_EXPECTS(num_keys == blocks.size(), InvalidArgument,
               fmt::format("{} keys for {} blocks: name one block a key", num_keys, blocks.size()));
  auto const layout = manager_->layout(handle);
  for (auto const& tier : catalog_.tiers) {
    KVBM_EXPECTS(tier->handle != handle, InvalidArgument,
                 fmt::format("{} is the store's own tier {}", layout::to_string(handle),
                             to_string(tier->stats.tier)));
  }
  KVBM_EXPECTS(layout.shape_fingerprint() == shape_, InvalidArgument,
               fmt::format("the store keeps blocks of another shape than {}", layout.to_string()));
  std::unordered_set<BlockId> seen;
  for (BlockId const block : blocks) {
    KVBM_EXPECTS(block < layout.config().num_blocks(), OutOfRange,
                 fmt::format("block {} of {}", block, layout.config().num_blocks()));
    KVBM_EXPECTS(!is_destination || seen.insert(block).second, InvalidArgument,
                 fmt::format("block {} is a destination twice", block));
  }
}

PrefixMatch PrefixStore::Impl::lookup(std::span<BlockKey const> keys) {
  PrefixMatch match;
  Lock const lock(mutex_);
  ++totals_.lookups;
  for (auto const& key : keys) {
    Entry const* const entry = catalog_.find(key);
    auto const tier = entry == nullptr ? std::nullopt : catalog_.fastest(*entry);
    if (!tier) { break; }
    match.tiers.push_back(catalog_.tiers[*tier]->stats.tier);
  }
  match.num_blocks = match.tiers.size();
  return match;
}

bool PrefixStore::Impl::contains(BlockKey const& key) {
  Lock const lock(mutex_);
  Entry const* const entry = catalog_.find(key);
  return entry != nullptr && catalog_.fastest(*entry).has_value();
}

std::size_t PrefixStore::Impl::discover(std::span<BlockKey const> keys) {
  std::size_t num_new = 0;
  Lock lock(mutex_);
  for (auto const& tier : catalog_.tiers) {
    if (!tier->backend->is_shared()) { continue; }
    std::vector<BlockKey> unknown;
    for (auto const& key : keys) {
      Entry const* const entry = catalog_.find(key);
      if (entry == nullptr || !catalog_.fastest(*entry)) { unknown.push_back(key); }
    }
    lock.unlock();
    auto const there = tier->backend->exist(unknown);
    lock.lock();
    std::vector<SlotKey> found;
    for (std::size_t i = 0; i < unknown.size() && tier->num_free() > 0; ++i) {
      Entry const* const known = catalog_.find(unknown[i]);
      bool const is_taken = known != nullptr && known->slots[tier->position] != kNoSlot;
      if (!there[i] || is_taken || tier->departing.contains(unknown[i])) { continue; }
      std::uint32_t const slot = tier->take_free();
      tier->begin(slot, catalog_.at(unknown[i]));
      found.push_back({slot, unknown[i]});
    }
    lock.unlock();
    std::exception_ptr error;
    try {
      tier->backend->prepare(found);
    } catch (...) { error = std::current_exception(); }
    lock.lock();
    Ended ended;
    for (auto const& block : found) {
      bool const is_erased = (*tier)[block.slot].entry == nullptr;
      if (error != nullptr && !is_erased) { catalog_.detach(tier->position, block.slot); }
      tier->end(block.slot);
      if (is_erased) {
        ended.gone.push_back({tier->position, block.slot});
      } else if (error != nullptr) {
        tier->free(block.slot);  // its object is somebody's, and stays
      } else {
        ++num_new;
      }
    }
    settle(lock, std::move(ended));
    if (error != nullptr) { std::rethrow_exception(error); }
  }
  return num_new;
}

template <typename Result>
Ticket<Result> PrefixStore::Impl::ticket_of(Group<Result>& group, char const* what,
                                            std::size_t num_blocks) {
  if (num_blocks == 0) { return {group.result, transfer::TransferCompleteNotification()}; }
  group.num_left = num_blocks;
  group.completion = manager_->context().event_system()->create_event(
      fmt::format("prefix store: {}, {} blocks", what, num_blocks));
  return {group.result, group.completion.notification()};
}

Ticket<OnboardResult> PrefixStore::Impl::onboard(std::span<BlockKey const> keys,
                                                 layout::LayoutHandle dst,
                                                 std::span<BlockId const> dst_blocks) {
  check_blocks(keys.size(), dst, dst_blocks, true);
  auto const group = std::make_shared<Group<OnboardResult>>();
  auto ticket = ticket_of(*group, "onboard", keys.size());
  if (keys.empty()) { return ticket; }
  {
    Lock const lock(mutex_);
    reads_.emplace_back([this, group, dst, wanted = std::vector(keys.begin(), keys.end()),
                         blocks = std::vector(dst_blocks.begin(), dst_blocks.end())] {
      run_onboard(wanted, dst, blocks, *group->result);
      group->completion.trigger();
    });
  }
  changed_.notify_all();
  return ticket;
}

Ticket<PrefetchResult> PrefixStore::Impl::prefetch(std::span<BlockKey const> keys) {
  auto const group = std::make_shared<Group<PrefetchResult>>();
  auto ticket = ticket_of(*group, "prefetch", keys.size());
  if (keys.empty()) { return ticket; }
  {
    Lock const lock(mutex_);
    reads_.emplace_back([this, group, wanted = std::vector(keys.begin(), keys.end())] {
      if (stage_) { group->result->num_blocks = bring(wanted, *stage_); }
      group->completion.trigger();
    });
  }
  changed_.notify_all();
  return ticket;
}

Ticket<OffloadResult> PrefixStore::Impl::offload(std::span<BlockKey const> keys,
                                                 layout::LayoutHandle src,
                                                 std::span<BlockId const> src_blocks) {
  check_blocks(keys.size(), src, src_blocks, false);
  auto const group = std::make_shared<Group<OffloadResult>>();
  auto ticket = ticket_of(*group, "offload", keys.size());
  {
    Lock const lock(mutex_);
    for (std::size_t i = 0; i < keys.size(); ++i) {
      WriteItem item;
      item.key = keys[i];
      item.src_layout = src;
      item.src_block = src_blocks[i];
      item.offload = group;
      catalog_.tiers.front()->queue.push_back(std::move(item));
    }
  }
  changed_.notify_all();
  return ticket;
}

std::vector<BlockKey> PrefixStore::Impl::pin(std::span<BlockKey const> keys) {
  std::vector<BlockKey> pinned;
  pinned.reserve(keys.size());
  Lock const lock(mutex_);
  for (auto const& key : keys) {
    Entry* const entry = catalog_.find(key);
    if (entry == nullptr || !catalog_.fastest(*entry)) { continue; }
    pinned.push_back(key);
    if (entry->pins++ > 0) { continue; }
    for (auto const& tier : catalog_.tiers) {
      std::uint32_t const slot = entry->slots[tier->position];
      if (slot != kNoSlot) { tier->set_pinned(slot, true); }
    }
  }
  return pinned;
}

void PrefixStore::Impl::unpin(std::span<BlockKey const> keys) noexcept {
  {
    Lock const lock(mutex_);
    for (auto key = keys.rbegin(); key != keys.rend(); ++key) {
      Entry* const entry = catalog_.find(*key);
      if (entry == nullptr || --entry->pins > 0) { continue; }
      for (auto const& tier : catalog_.tiers) {
        std::uint32_t const slot = entry->slots[tier->position];
        if (slot != kNoSlot) { tier->set_pinned(slot, false); }
      }
      catalog_.drop_if_empty(*key);
    }
  }
  changed_.notify_all();
}

std::size_t PrefixStore::Impl::erase(std::span<BlockKey const> keys) {
  std::size_t num_erased = 0;
  Ended ended;
  Lock lock(mutex_);
  for (auto const& key : keys) {
    Entry const* const entry = catalog_.find(key);
    if (entry == nullptr || entry->pins > 0) { continue; }
    if (catalog_.fastest(*entry)) { ++num_erased; }
    auto const slots = entry->slots;  // the entry goes with its last block
    for (std::size_t tier = 0; tier < catalog_.tiers.size(); ++tier) {
      if (slots[tier] == kNoSlot) { continue; }
      catalog_.detach(tier, slots[tier]);
      if ((*catalog_.tiers[tier])[slots[tier]].is_gone()) {
        ended.gone.push_back({tier, slots[tier]});
      }
    }
  }
  settle(lock, std::move(ended));
  // Until no record says otherwise, also of those that somebody else is evicting just now.
  changed_.wait(lock, [&] {
    return std::none_of(keys.begin(), keys.end(), [&](BlockKey const& key) {
      return std::any_of(catalog_.tiers.begin(), catalog_.tiers.end(),
                         [&](auto const& tier) { return tier->departing.contains(key); });
    });
  });
  return num_erased;
}

FlushResult PrefixStore::Impl::flush() {
  auto const is_survivor = [](auto const& tier) { return tier->backend->survives(); };
  auto const found = std::find_if(catalog_.tiers.begin(), catalog_.tiers.end(), is_survivor);
  if (found == catalog_.tiers.end()) { return {}; }
  std::size_t const to = (*found)->position;
  auto const group = std::make_shared<Group<FlushResult>>();
  auto ticket = ticket_of(*group, "flush", 1);
  Ended ended;
  {
    Lock const lock(mutex_);
    catalog_.for_each([&](Entry const& entry) {
      auto const from = catalog_.fastest(entry);
      if (!from || catalog_.is_held_by_survivor(entry)) { return; }
      ++group->num_left;
      queue_down(entry, *from, to, false, group);
    });
    // One more than blocks, so that it ends here where there are none.
    if (--group->num_left == 0) { ended.completions.push_back(std::move(group->completion)); }
  }
  changed_.notify_all();
  for (auto& completion : ended.completions) {
    completion.trigger();
  }
  FlushResult const result = ticket.wait();
  for (auto const& tier : catalog_.tiers) {
    if (is_survivor(tier)) { tier->backend->sync(); }
  }
  return result;
}

PrefixStats PrefixStore::Impl::stats() {
  Lock const lock(mutex_);
  PrefixStats stats = totals_;
  for (auto const& tier : catalog_.tiers) {
    stats.tiers.push_back(tier->stats);
    stats.queued_writes += tier->position == 0 ? 0 : tier->queue.size() + tier->num_writing;
  }
  catalog_.for_each([&](Entry const& entry) {
    if (entry.pins == 0) { return; }
    for (std::size_t tier = 0; tier < catalog_.tiers.size(); ++tier) {
      if (catalog_.is_held(entry, tier)) { ++stats.tiers[tier].pinned_blocks; }
    }
  });
  return stats;
}

std::vector<PrefixStore::Impl::Taken> PrefixStore::Impl::take_slots(Tier& tier,
                                                                    std::size_t wanted) {
  std::vector<Taken> taken;
  while (taken.size() < wanted && tier.num_free() > 0) {
    taken.push_back({tier.take_free(), std::nullopt});
  }
  bool const is_last = tier.position + 1 == catalog_.tiers.size();
  std::size_t num_demoting = 0;
  for (std::uint32_t slot = tier.oldest();
       slot != kNoSlot && taken.size() + num_demoting < wanted;) {
    Slot const& one = tier[slot];
    std::uint32_t const next = one.newer;
    bool const is_below = catalog_.is_held_below(*one.entry, tier.position);
    if (one.is_demoting) {
      ++num_demoting;
    } else if (one.readers == 0) {
      if (options_.write_policy == WritePolicy::Back && !is_last && !is_below) {
        queue_down(*one.entry, tier.position, tier.position + 1, true);
        ++num_demoting;
      } else {
        BlockKey const old = one.key;
        ++tier.stats.evicted;
        if (!is_last && !is_below) { ++tier.stats.lost; }
        catalog_.detach(tier.position, slot);
        tier.retake(slot);
        if (tier.backend->forgets()) {
          taken.push_back({slot, old});
        } else {
          tier.departed(old);
          taken.push_back({slot, std::nullopt});
        }
      }
    }
    slot = next;
  }
  if (num_demoting > 0) { changed_.notify_all(); }
  return taken;
}

void PrefixStore::Impl::queue_down(Entry const& entry, std::size_t from, std::size_t to,
                                   bool is_demotion, std::shared_ptr<Group<FlushResult>> flush) {
  Tier& source = *catalog_.tiers[from];
  std::uint32_t const slot = entry.slots[from];
  source.add_reader(slot);
  if (is_demotion) { source.set_demoting(slot, true); }
  WriteItem item;
  item.key = entry.key;
  item.src_tier = from;
  item.src_layout = source.handle;
  item.src_block = slot;
  item.is_demotion = is_demotion;
  item.flush = std::move(flush);
  catalog_.tiers[to]->queue.push_back(std::move(item));
}

void PrefixStore::Impl::drop(std::size_t tier, std::uint32_t slot, Ended& ended) {
  Tier& from = *catalog_.tiers[tier];
  if (from[slot].entry == nullptr) { return; }
  catalog_.detach(tier, slot);
  if (from[slot].is_gone()) { ended.gone.push_back({tier, slot}); }
}

void PrefixStore::Impl::drop_reader(std::size_t tier, std::uint32_t slot, Ended& ended) {
  Tier& from = *catalog_.tiers[tier];
  from.drop_reader(slot);
  if (from[slot].is_gone()) { ended.gone.push_back({tier, slot}); }
}

void PrefixStore::Impl::settle(Lock& lock, Ended ended) {
  changed_.notify_all();
  std::erase_if(ended.gone, [this](TierSlot const& gone) {
    Tier& tier = *catalog_.tiers[gone.tier];
    if (tier.backend->forgets()) { return false; }
    tier.free(gone.slot);
    return true;
  });
  if (ended.gone.empty() && ended.completions.empty()) { return; }
  std::vector<SlotKey> blocks;
  blocks.reserve(ended.gone.size());
  for (auto const& gone : ended.gone) {
    blocks.push_back({gone.slot, (*catalog_.tiers[gone.tier])[gone.slot].key});
  }
  lock.unlock();
  for (std::size_t i = 0; i < blocks.size(); ++i) {
    forget(*catalog_.tiers[ended.gone[i].tier], blocks[i]);
  }
  for (auto& completion : ended.completions) {
    completion.trigger();
  }
  lock.lock();
  for (auto const& gone : ended.gone) {
    catalog_.tiers[gone.tier]->free(gone.slot);
  }
  changed_.notify_all();
}

void PrefixStore::Impl::forget(Tier& tier, SlotKey const& block) noexcept {
  try {
    tier.backend->forget(block);
  } catch (std::exception const& error) {
    log::write(log::Level::Warning,
               fmt::format("prefix store: {} may be found in {} again: {}", to_string(block.key),
                           to_string(tier.stats.tier), error.what()));
    Lock const lock(mutex_);
    ++totals_.background_errors;
  }
}

void PrefixStore::Impl::start(Move& move) noexcept {
  try {
    move.notification =
        manager_->execute_transfer(move.src, move.src_blocks, move.dst, move.dst_blocks);
  } catch (...) { move.refused = std::current_exception(); }
}

std::vector<std::exception_ptr> PrefixStore::Impl::finish(Move const& move) noexcept {
  if (move.refused != nullptr) { return std::vector(move.positions.size(), move.refused); }
  try {
    move.notification.wait();
    return std::vector<std::exception_ptr>(move.positions.size());
  } catch (...) {
    auto const failed = move.notification.failed_blocks();
    if (failed.empty()) { return std::vector(move.positions.size(), std::current_exception()); }
    std::vector<std::exception_ptr> errors(move.positions.size());
    for (auto const& block : failed) {
      errors.at(block.position) = block.error;
    }
    return errors;
  }
}

}  // namespace kvbm::prefix
