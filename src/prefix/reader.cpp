// SPDX-License-Identifier: Apache-2.0
//
// What goes to the engine, and up from slower tiers: the store's reader threads.
#include <pthread.h>

#include <algorithm>
#include <array>
#include <utility>

#include "kvbm/core/error.hpp"
#include "prefix/store_impl.hpp"

namespace kvbm::prefix {
namespace {

/// Whether a block's error says that its data is bad, rather than that the tier cannot be reached.
bool is_damaged(std::exception_ptr const& error) {
  try {
    std::rethrow_exception(error);
  } catch (Error const& e) {
    return e.code() == ErrorCode::Corrupt || e.code() == ErrorCode::NotFound;
  } catch (...) { return false; }
}

}  // namespace

/// One block of an onboard.
struct PrefixStore::Impl::Position {
  unsigned tried = 0;  ///< mask of tiers that failed
  bool is_done = false;
  bool has_shared = false;   ///< waited for somebody else's read
  std::size_t found_in = 0;  ///< the tier it is taken from
  std::uint32_t slot = 0;    ///< of `read_from`, which holds a reader for it
  std::size_t read_from = 0;
};

/// What one pass over the blocks found to do.
struct PrefixStore::Impl::Round {
  std::vector<Flight> flights;                             ///< into the stage, then to the engine
  std::array<std::vector<std::size_t>, kMaxTiers> direct;  ///< positions by tier
  std::vector<Move> moves;                                 ///< to the engine
  [[nodiscard]] bool is_empty() const {
    return flights.empty() &&
           std::all_of(direct.begin(), direct.end(), [](auto const& d) { return d.empty(); });
  }
};

void PrefixStore::Impl::read_loop() noexcept {
  pthread_setname_np(pthread_self(), "kvbm-prefix-read");
  Lock lock(mutex_);
  for (;;) {
    changed_.wait(lock, [&] { return !reads_.empty() || !promotions_.empty() || readers_end_; });
    auto& queue = reads_.empty() ? promotions_ : reads_;
    if (queue.empty()) { return; }
    auto const job = std::move(queue.front());
    queue.pop_front();
    lock.unlock();
    job();
    lock.lock();
  }
}

void PrefixStore::Impl::add_to_flights(std::vector<Flight>& flights, std::size_t from,
                                       std::size_t to, std::uint32_t src, std::uint32_t dst,
                                       std::size_t position) {
  auto found = std::find_if(flights.rbegin(), flights.rend(), [&](Flight const& flight) {
    return flight.from == from && flight.to == to;
  });
  if (found == flights.rend() || found->move.positions.size() >= flight_blocks_) {
    Flight flight{from, to, {}, {}};
    flight.move.src = catalog_.tiers[from]->handle;
    flight.move.dst = catalog_.tiers[to]->handle;
    flights.push_back(std::move(flight));
    found = flights.rbegin();
  }
  found->move.add(src, dst, position);
}

void PrefixStore::Impl::note_read_error(std::size_t tier, std::uint32_t slot,
                                        std::exception_ptr const& error, Ended& ended) {
  Tier& from = *catalog_.tiers[tier];
  ++from.stats.read_errors;
  if (!is_damaged(error)) { return; }
  ++from.stats.corrupt;
  drop(tier, slot, ended);
}

void PrefixStore::Impl::land(Flight& flight, bool keep, Ended& ended) {
  Tier& from = *catalog_.tiers[flight.from];
  Tier& to = *catalog_.tiers[flight.to];
  Move const& move = flight.move;
  for (std::size_t i = move.positions.size(); i > 0; --i) {
    std::uint32_t const dst = move.dst_blocks[i - 1];
    std::uint32_t const src = move.src_blocks[i - 1];
    auto const& error = flight.errors[i - 1];
    if (error != nullptr) {
      if (to[dst].entry != nullptr) { catalog_.detach(flight.to, dst); }
      if (move.refused == nullptr) { note_read_error(flight.from, src, error, ended); }
    } else {
      ++to.stats.written;
      ++to.stats.promoted;
      to.stats.bytes_written += to.block_bytes;
      from.stats.bytes_read += from.block_bytes;
      // An erased block is gone only when the engine has it.
      if (keep) { to.add_reader(dst); }
    }
    to.end(dst);
    if (to[dst].is_gone()) { ended.gone.push_back({flight.to, dst}); }
    drop_reader(flight.from, src, ended);
  }
}

bool PrefixStore::Impl::plan_round(std::vector<BlockKey> const& keys,
                                   std::vector<Position>& positions, std::size_t& end,
                                   std::vector<BlockId> const& blocks, layout::LayoutHandle dst,
                                   Round& round) {
  bool waits = false;
  std::vector<std::size_t> staged;
  for (std::size_t i = 0; i < end; ++i) {
    Position& position = positions[i];
    if (position.is_done) { continue; }
    Entry const* const entry = catalog_.find(keys[i]);
    if (entry == nullptr) {
      end = i;
      break;
    }
    auto const from = catalog_.fastest(*entry, position.tried);
    // A block on its way into memory is soon better than one in a file.
    bool is_coming = false;
    for (std::size_t tier = 0; tier < from.value_or(catalog_.tiers.size()); ++tier) {
      is_coming = is_coming || (catalog_.tiers[tier]->is_memory && entry->slots[tier] != kNoSlot &&
                                (position.tried >> tier & 1U) == 0);
    }
    if (is_coming && (!from || !catalog_.tiers[*from]->is_memory)) {
      waits = true;
      if (!position.has_shared) { ++totals_.shared_reads; }
      position.has_shared = true;
      continue;
    }
    if (!from) {
      end = i;
      break;
    }
    position.found_in = position.read_from = *from;
    position.slot = entry->slots[*from];
    catalog_.tiers[*from]->add_reader(position.slot);
    bool const via_stage = stage_ && !catalog_.tiers[*from]->is_memory &&
                           (position.tried >> *stage_ & 1U) == 0 &&
                           !catalog_.tiers[*stage_]->departing.contains(keys[i]);
    if (via_stage) {
      staged.push_back(i);
    } else {
      round.direct[*from].push_back(i);
    }
  }
  if (!staged.empty()) {
    Tier& stage = *catalog_.tiers[*stage_];
    auto const taken = take_slots(stage, staged.size());
    std::size_t num_taken = 0;
    for (std::size_t const i : staged) {
      Position const& position = positions[i];
      Entry& entry = *catalog_.find(keys[i]);
      // The same key twice in one list: the second one takes the direct way.
      if (num_taken == taken.size() || entry.slots[*stage_] != kNoSlot) {
        round.direct[position.found_in].push_back(i);
        continue;
      }
      std::uint32_t const slot = taken[num_taken++].slot;
      stage.begin(slot, entry);
      add_to_flights(round.flights, position.found_in, *stage_, position.slot, slot, i);
    }
    for (; num_taken < taken.size(); ++num_taken) {
      stage.give_back(taken[num_taken].slot);
    }
  }
  for (std::size_t tier = 0; tier < catalog_.tiers.size(); ++tier) {
    if (round.direct[tier].empty()) { continue; }
    Move move;
    move.src = catalog_.tiers[tier]->handle;
    move.dst = dst;
    for (std::size_t const i : round.direct[tier]) {
      move.add(positions[i].slot, blocks[i], i);
    }
    round.moves.push_back(std::move(move));
  }
  return waits;
}

void PrefixStore::Impl::run_round(Round& round, std::vector<Position>& positions,
                                  std::vector<BlockId> const& blocks, layout::LayoutHandle dst,
                                  Lock& lock) {
  lock.unlock();
  for (auto& flight : round.flights) {
    start(flight.move);
  }
  for (auto& move : round.moves) {
    start(move);
  }
  // Each flight goes on to the engine as soon as it has landed, while the next ones are read.
  for (auto& flight : round.flights) {
    flight.errors = finish(flight.move);
    Move move;
    move.src = catalog_.tiers[flight.to]->handle;
    move.dst = dst;
    Ended ended;
    lock.lock();
    for (std::size_t i = 0; i < flight.errors.size(); ++i) {
      Position& position = positions[flight.move.positions[i]];
      if (flight.errors[i] != nullptr) {
        position.tried |= 1U << flight.from;
        continue;
      }
      position.read_from = flight.to;
      position.slot = flight.move.dst_blocks[i];
      move.add(position.slot, blocks[flight.move.positions[i]], flight.move.positions[i]);
    }
    land(flight, true, ended);
    settle(lock, std::move(ended));
    lock.unlock();
    if (move.positions.empty()) { continue; }
    start(move);
    round.moves.push_back(std::move(move));
  }
  lock.lock();
  arrive(round, positions, lock);
}

void PrefixStore::Impl::arrive(Round const& round, std::vector<Position>& positions, Lock& lock) {
  for (auto const& move : round.moves) {
    lock.unlock();
    auto const errors = finish(move);
    lock.lock();
    Ended ended;
    for (std::size_t i = 0; i < errors.size(); ++i) {
      Position& position = positions[move.positions[i]];
      Tier& from = *catalog_.tiers[position.read_from];
      if (errors[i] == nullptr) {
        position.is_done = true;
        ++catalog_.tiers[position.found_in]->stats.hits;
        from.stats.bytes_read += from.block_bytes;
      } else {
        position.tried |= 1U << position.read_from;
        if (move.refused == nullptr) {
          note_read_error(position.read_from, position.slot, errors[i], ended);
        }
      }
      drop_reader(position.read_from, position.slot, ended);
    }
    settle(lock, std::move(ended));
  }
}

void PrefixStore::Impl::run_onboard(std::vector<BlockKey> const& keys, layout::LayoutHandle dst,
                                    std::vector<BlockId> const& blocks, OnboardResult& result) {
  std::vector<Position> positions(keys.size());
  std::size_t end = keys.size();
  Lock lock(mutex_);
  for (;;) {
    Round round;
    bool const waits = plan_round(keys, positions, end, blocks, dst, round);
    if (!round.is_empty()) {
      run_round(round, positions, blocks, dst, lock);
    } else if (waits) {
      changed_.wait(lock);
    } else {
      break;
    }
  }
  bool wants_first = false;
  for (std::size_t i = 0; i < end; ++i) {
    result.tiers.push_back(catalog_.tiers[positions[i].found_in]->stats.tier);
    wants_first = wants_first || positions[i].found_in > 0;
  }
  result.num_blocks = end;
  totals_.onboarded += end;
  totals_.missed += keys.size() - end;
  catalog_.touch_all(std::span(keys).first(end));
  if (wants_first && stage_.value_or(0) > 0) {
    promotions_.emplace_back(
        [this, found = std::vector(keys.begin(), keys.begin() + static_cast<std::ptrdiff_t>(end))] {
          bring(found, 0);
        });
    changed_.notify_all();
  }
}

std::size_t PrefixStore::Impl::bring(std::vector<BlockKey> const& all, std::size_t target) {
  Tier& to = *catalog_.tiers[target];
  // More would push each other out.
  std::vector<BlockKey> const keys(
      all.begin(),
      all.begin() + static_cast<std::ptrdiff_t>(std::min<std::size_t>(all.size(), to.capacity())));
  std::vector<unsigned> tried(keys.size(), 0);
  std::vector<bool> was_brought(keys.size(), false);  // and is not again: others need room too
  Lock lock(mutex_);
  for (;;) {
    // So that room is made of what is not asked for.
    catalog_.touch_all(keys);
    std::vector<std::size_t> wanted;
    bool waits = false;
    std::size_t num_there = keys.size();
    for (std::size_t i = 0; i < keys.size(); ++i) {
      Entry const* const entry = catalog_.find(keys[i]);
      auto const from = entry == nullptr ? std::nullopt : catalog_.fastest(*entry, tried[i]);
      if (from && *from <= target) { continue; }
      num_there = std::min(num_there, i);
      if (!from || was_brought[i]) { break; }
      if (entry->slots[target] != kNoSlot) {
        waits = true;
      } else if (!to.departing.contains(keys[i])) {
        wanted.push_back(i);
      }
    }
    std::vector<Flight> flights;
    auto const taken = take_slots(to, wanted.size());
    std::size_t num_taken = 0;
    for (std::size_t const i : wanted) {
      if (num_taken == taken.size()) { break; }
      Entry* const entry = catalog_.find(keys[i]);
      // Making room may have cost it its last copy; the same key may stand twice in the list.
      auto const from = entry == nullptr ? std::nullopt : catalog_.fastest(*entry, tried[i]);
      if (!from || entry->slots[target] != kNoSlot) { continue; }
      std::uint32_t const slot = taken[num_taken++].slot;
      catalog_.tiers[*from]->add_reader(entry->slots[*from]);
      to.begin(slot, *entry);
      add_to_flights(flights, *from, target, entry->slots[*from], slot, i);
    }
    for (; num_taken < taken.size(); ++num_taken) {
      to.give_back(taken[num_taken].slot);
    }
    if (flights.empty()) {
      if (!waits) { return num_there; }
      changed_.wait(lock);
      continue;
    }
    lock.unlock();
    for (auto& flight : flights) {
      start(flight.move);
    }
    for (auto& flight : flights) {
      flight.errors = finish(flight.move);
    }
    lock.lock();
    Ended ended;
    for (auto& flight : flights) {
      for (std::size_t i = 0; i < flight.errors.size(); ++i) {
        std::size_t const position = flight.move.positions[i];
        was_brought[position] = flight.errors[i] == nullptr;
        if (!was_brought[position]) { tried[position] |= 1U << flight.from; }
      }
      land(flight, false, ended);
    }
    settle(lock, std::move(ended));
  }
}

}  // namespace kvbm::prefix
