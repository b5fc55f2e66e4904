// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <thread>
#include <vector>

#include "kvbm/prefix/prefix_store.hpp"
#include "prefix/catalog.hpp"

namespace kvbm::prefix {

/// One transfer and whose blocks it moves.
struct Move {
  layout::LayoutHandle src;
  layout::LayoutHandle dst;
  std::vector<BlockId> src_blocks;
  std::vector<BlockId> dst_blocks;
  std::vector<std::size_t> positions;  ///< of the caller, one a block
  transfer::TransferCompleteNotification notification;
  std::exception_ptr refused;  ///< it could not be started: says nothing about any block

  void add(BlockId from, BlockId to, std::size_t position) {
    src_blocks.push_back(from);
    dst_blocks.push_back(to);
    positions.push_back(position);
  }
};

/// The store: a catalog under one lock, a thread a tier that writes into it, threads that read.
///
/// Blocks move outside of the lock; a block that is filled or read meanwhile is marked so and is
/// neither evicted nor given to another key.
///
/// What waits for what: the writer of a tier waits for room in that tier, which readers and the
/// writers of the tiers below give. Nobody waits for anything while he fills a block, readers take
/// room only where there is some; so the chain ends at the last tier.
class PrefixStore::Impl {
 public:
  Impl(std::shared_ptr<manager::TransferManager> manager, PrefixStoreOptions options);
  ~Impl();
  Impl(Impl const&) = delete;
  Impl& operator=(Impl const&) = delete;

  [[nodiscard]] PrefixMatch lookup(std::span<BlockKey const> keys);
  [[nodiscard]] bool contains(BlockKey const& key);
  std::size_t discover(std::span<BlockKey const> keys);
  Ticket<OnboardResult> onboard(std::span<BlockKey const> keys, layout::LayoutHandle dst,
                                std::span<BlockId const> dst_blocks);
  Ticket<OffloadResult> offload(std::span<BlockKey const> keys, layout::LayoutHandle src,
                                std::span<BlockId const> src_blocks);
  Ticket<PrefetchResult> prefetch(std::span<BlockKey const> keys);
  [[nodiscard]] std::vector<BlockKey> pin(std::span<BlockKey const> keys);
  void unpin(std::span<BlockKey const> keys) noexcept;
  std::size_t erase(std::span<BlockKey const> keys);
  FlushResult flush();
  [[nodiscard]] PrefixStats stats();
  /// Finishes what was asked for and ends the threads.
  void stop() noexcept;

  std::uint64_t page_size = 0;
  BlockKey root;

 private:
  using Lock = std::unique_lock<std::mutex>;

  struct TierSlot {
    std::size_t tier = 0;
    std::uint32_t slot = 0;
  };
  /// What has to be done without the lock after something ended.
  struct Ended {
    std::vector<TierSlot> gone;
    std::vector<transfer::Completion> completions;
  };
  /// A block that was made free, and what its record still says.
  struct Taken {
    std::uint32_t slot = 0;
    std::optional<BlockKey> old;
  };
  /// Blocks on their way from one tier up to another.
  struct Flight {
    std::size_t from = 0;
    std::size_t to = 0;
    Move move;
    std::vector<std::exception_ptr> errors;  ///< one a block, when it has landed
  };
  struct Position;
  struct Round;

  // store_impl.cpp
  void open_tiers();
  void check_blocks(std::size_t num_keys, layout::LayoutHandle handle,
                    std::span<BlockId const> blocks, bool is_destination) const;
  template <typename Result>
  Ticket<Result> ticket_of(Group<Result>& group, char const* what, std::size_t num_blocks);
  /// Makes room for up to `wanted` blocks: free ones, then the ones used longest ago. Blocks that
  /// have to be written down first are queued for that.
  std::vector<Taken> take_slots(Tier& tier, std::size_t wanted);
  /// Queues a block of `from` for the tier `to`.
  void queue_down(Entry const& entry, std::size_t from, std::size_t to, bool is_demotion,
                  std::shared_ptr<Group<FlushResult>> flush = {});
  /// Detaches a block that cannot be believed any more.
  void drop(std::size_t tier, std::uint32_t slot, Ended& ended);
  void drop_reader(std::size_t tier, std::uint32_t slot, Ended& ended);
  /// Wakes everybody, forgets what is gone and completes what is done, without the lock.
  void settle(Lock& lock, Ended ended);
  void forget(Tier& tier, SlotKey const& block) noexcept;
  void start(Move& move) noexcept;
  /// Waits; one entry a block: null or why it did not arrive.
  static std::vector<std::exception_ptr> finish(Move const& move) noexcept;

  // writer.cpp
  void write_loop(Tier& tier) noexcept;
  void write_some(Tier& tier, Lock& lock);
  /// Takes the items of the next batch off the queue; those that have to wait go into `later`.
  std::vector<WriteItem> pick(Tier& tier, std::vector<WriteItem>& later, Ended& ended);
  std::vector<std::exception_ptr> write_blocks(Tier& tier, std::span<WriteItem const> items,
                                               std::span<Taken const> taken);
  void end_item(WriteItem const& item, WriteOutcome outcome, Ended& ended);

  // reader.cpp
  void read_loop() noexcept;
  void run_onboard(std::vector<BlockKey> const& keys, layout::LayoutHandle dst,
                   std::vector<BlockId> const& blocks, OnboardResult& result);
  /// Brings the first keys, as many as it has blocks, from slower tiers into `target`, each at most
  /// once. @return how many of the first ones it, or a faster tier, holds then
  std::size_t bring(std::vector<BlockKey> const& all, std::size_t target);
  bool plan_round(std::vector<BlockKey> const& keys, std::vector<Position>& positions,
                  std::size_t& end, std::vector<BlockId> const& blocks, layout::LayoutHandle dst,
                  Round& round);
  void run_round(Round& round, std::vector<Position>& positions, std::vector<BlockId> const& blocks,
                 layout::LayoutHandle dst, Lock& lock);
  void arrive(Round const& round, std::vector<Position>& positions, Lock& lock);
  /// @param keep  leave a reader on each block that arrived
  void land(Flight& flight, bool keep, Ended& ended);
  void add_to_flights(std::vector<Flight>& flights, std::size_t from, std::size_t to,
                      std::uint32_t src, std::uint32_t dst, std::size_t position);
  void note_read_error(std::size_t tier, std::uint32_t slot, std::exception_ptr const& error,
                       Ended& ended);

  std::shared_ptr<manager::TransferManager> const manager_;
  PrefixStoreOptions const options_;
  Checksum shape_;
  std::size_t flight_blocks_ = 1;     ///< that one transfer of a flight takes
  std::optional<std::size_t> stage_;  ///< tier through which files and objects are read

  std::mutex mutex_;  ///< of all below; nothing else is locked under it
  std::condition_variable changed_;
  Catalog catalog_;
  PrefixStats totals_;  ///< without tiers
  std::deque<std::function<void()>> reads_;
  std::deque<std::function<void()>> promotions_;
  bool readers_end_ = false;
  std::size_t num_writers_end_ = 0;  ///< of the first so many tiers
  std::vector<std::thread> readers_;
  std::vector<std::thread> writers_;
};

}  // namespace kvbm::prefix
