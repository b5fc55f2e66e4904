// SPDX-License-Identifier: Apache-2.0
//
// What goes into a tier from the engine or from above: one thread a tier.
#include <pthread.h>

#include <algorithm>
#include <map>
#include <string>
#include <unordered_set>
#include <utility>

#include "kvbm/core/error.hpp"
#include "prefix/store_impl.hpp"

namespace kvbm::prefix {

void PrefixStore::Impl::write_loop(Tier& tier) noexcept {
  std::string const name = "kvbm-prefix-" + std::string(to_string(tier.stats.tier));
  pthread_setname_np(pthread_self(), name.c_str());
  Lock lock(mutex_);
  for (;;) {
    changed_.wait(lock, [&] { return !tier.queue.empty() || tier.position < num_writers_end_; });
    if (tier.queue.empty()) { return; }
    write_some(tier, lock);
  }
}

std::vector<WriteItem> PrefixStore::Impl::pick(Tier& tier, std::vector<WriteItem>& later,
                                               Ended& ended) {
  std::vector<WriteItem> batch;
  std::unordered_set<BlockKey> keys;
  while (!tier.queue.empty() && batch.size() + later.size() < options_.batch_blocks) {
    WriteItem item = std::move(tier.queue.front());
    tier.queue.pop_front();
    if (item.src_tier && (*catalog_.tiers[*item.src_tier])[item.src_block].entry == nullptr) {
      end_item(item, WriteOutcome::Failed, ended);  // erased, or found to be damaged
      continue;
    }
    Entry const* const entry = catalog_.find(item.key);
    bool const is_here = entry != nullptr && entry->slots[tier.position] != kNoSlot;
    if (is_here && catalog_.is_held(*entry, tier.position)) {
      catalog_.touch(*entry);
      end_item(item, WriteOutcome::Present, ended);
    } else if (is_here || tier.departing.contains(item.key) || !keys.insert(item.key).second) {
      // Somebody writes it now, or its old record has to go first.
      later.push_back(std::move(item));
    } else {
      batch.push_back(std::move(item));
    }
  }
  return batch;
}

void PrefixStore::Impl::write_some(Tier& tier, Lock& lock) {
  Ended ended;
  std::vector<WriteItem> later;
  std::vector<WriteItem> batch = pick(tier, later, ended);
  std::vector<Taken> const taken = take_slots(tier, batch.size());
  if (taken.empty() && !tier.is_moving()) {
    for (auto const& item : batch) {
      ++tier.stats.refused;
      end_item(item, WriteOutcome::Failed, ended);
    }
    batch.clear();
  }
  // The others come again, before whatever was queued behind them.
  for (auto item = later.rbegin(); item != later.rend(); ++item) {
    tier.queue.push_front(std::move(*item));
  }
  while (batch.size() > taken.size()) {
    tier.queue.push_front(std::move(batch.back()));
    batch.pop_back();
  }
  if (batch.empty()) {
    bool const has_news = !ended.gone.empty() || !ended.completions.empty();
    settle(lock, std::move(ended));
    if (!has_news && !tier.queue.empty()) { changed_.wait(lock); }
    return;
  }

  for (std::size_t i = 0; i < batch.size(); ++i) {
    tier.begin(taken[i].slot, catalog_.at(batch[i].key));
  }
  tier.num_writing = batch.size();
  settle(lock, std::exchange(ended, {}));
  lock.unlock();
  auto const errors = write_blocks(tier, batch, taken);
  lock.lock();

  tier.num_writing = 0;
  for (std::size_t i = batch.size(); i > 0; --i) {
    WriteItem const& item = batch[i - 1];
    std::uint32_t const slot = taken[i - 1].slot;
    if (taken[i - 1].old) { tier.departed(*taken[i - 1].old); }
    bool const arrived = errors[i - 1] == nullptr;
    if (!arrived && tier[slot].entry != nullptr) { catalog_.detach(tier.position, slot); }
    tier.end(slot);
    ++(arrived ? tier.stats.written : tier.stats.write_errors);
    if (arrived) {
      tier.stats.bytes_written += tier.block_bytes;
      if (item.src_tier) { catalog_.tiers[*item.src_tier]->stats.bytes_read += tier.block_bytes; }
    }
    Entry const* const entry = tier[slot].entry;
    // The engine used it: older copies in slower tiers are as good as new.
    if (entry != nullptr && !item.src_tier) { catalog_.touch(*entry); }
    if (entry == nullptr) {
      ended.gone.push_back({tier.position, slot});  // failed, or erased meanwhile
    } else if (std::size_t const next = tier.position + 1;
               options_.write_policy == WritePolicy::Through && next < catalog_.tiers.size() &&
               entry->slots[next] == kNoSlot) {
      auto const from = catalog_.fastest(*entry);
      queue_down(*entry, catalog_.tiers[*from]->is_memory ? *from : tier.position, next, false);
    }
    end_item(item, arrived ? WriteOutcome::Written : WriteOutcome::Failed, ended);
  }
  settle(lock, std::move(ended));
}

std::vector<std::exception_ptr> PrefixStore::Impl::write_blocks(Tier& tier,
                                                                std::span<WriteItem const> items,
                                                                std::span<Taken const> taken) {
  std::vector<std::exception_ptr> errors(items.size());
  std::vector<SlotKey> blocks;
  std::map<layout::LayoutHandle, Move> moves;
  for (std::size_t i = 0; i < items.size(); ++i) {
    if (taken[i].old) { forget(tier, {taken[i].slot, *taken[i].old}); }
    blocks.push_back({taken[i].slot, items[i].key});
    Move& move = moves[items[i].src_layout];
    move.src = items[i].src_layout;
    move.dst = tier.handle;
    move.add(items[i].src_block, taken[i].slot, i);
  }
  try {
    tier.backend->prepare(blocks);
  } catch (...) { return std::vector(items.size(), std::current_exception()); }
  for (auto& [handle, move] : moves) {
    start(move);
  }
  for (auto& [handle, move] : moves) {
    auto const ended = finish(move);
    for (std::size_t i = 0; i < ended.size(); ++i) {
      errors[move.positions[i]] = ended[i];
    }
  }
  std::vector<SlotKey> written;
  std::vector<std::size_t> positions;
  for (std::size_t i = 0; i < items.size(); ++i) {
    if (errors[i] != nullptr) { continue; }
    written.push_back(blocks[i]);
    positions.push_back(i);
  }
  auto const committed = tier.backend->commit(written);
  for (std::size_t i = 0; i < committed.size(); ++i) {
    errors[positions[i]] = committed[i];
  }
  return errors;
}

void PrefixStore::Impl::end_item(WriteItem const& item, WriteOutcome outcome, Ended& ended) {
  if (item.src_tier) {
    Tier& source = *catalog_.tiers[*item.src_tier];
    auto const slot = static_cast<std::uint32_t>(item.src_block);
    if (item.is_demotion) { source.set_demoting(slot, false); }
    drop_reader(source.position, slot, ended);
    Slot const& one = source[slot];
    // Unless somebody took to it meanwhile. What could not be written goes all the same: room is
    // what it was asked for.
    if (item.is_demotion && one.is_idle() && one.entry->pins == 0) {
      ++source.stats.evicted;
      bool const is_last_copy = !catalog_.is_held_below(*one.entry, source.position);
      if (is_last_copy) { ++source.stats.lost; }
      drop(source.position, slot, ended);
    }
  }
  auto const add = [&](auto& group, std::size_t& count) {
    ++count;
    if (--group.num_left == 0) { ended.completions.push_back(std::move(group.completion)); }
  };
  if (item.offload != nullptr) {
    OffloadResult& result = *item.offload->result;
    switch (outcome) {
      case WriteOutcome::Written:
        ++totals_.offloaded;
        add(*item.offload, result.written);
        break;
      case WriteOutcome::Present:
        ++totals_.already_stored;
        add(*item.offload, result.already_stored);
        break;
      case WriteOutcome::Failed: add(*item.offload, result.failed); break;
    }
  }
  if (item.flush != nullptr) {
    FlushResult& result = *item.flush->result;
    std::size_t there_before = 0;
    add(*item.flush, outcome == WriteOutcome::Written   ? result.written
                     : outcome == WriteOutcome::Present ? there_before
                                                        : result.failed);
  }
}

}  // namespace kvbm::prefix
