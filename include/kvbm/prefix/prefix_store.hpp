// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "kvbm/core/types.hpp"
#include "kvbm/layout/handle.hpp"
#include "kvbm/manager/transfer_manager.hpp"
#include "kvbm/prefix/block_key.hpp"
#include "kvbm/prefix/stats.hpp"
#include "kvbm/remote/tier.hpp"
#include "kvbm/transfer/notification.hpp"

namespace kvbm::prefix {

/// When blocks go to the tiers below the first.
enum class WritePolicy {
  Through,  ///< at once, in the background
  Back,     ///< when they are evicted, or by flush()
};

/// One tier: a registered layout whose blocks belong to the store from now on.
struct TierOptions {
  layout::LayoutHandle layout;
  /// Bytes of blocks that the tier may hold; default and at most all blocks of the layout.
  std::optional<std::uint64_t> budget_bytes = {};
  /// Disk: the file that remembers which key lies in which block, made if it is missing. Empty:
  /// the tier starts empty and nothing of it survives the store.
  std::filesystem::path index = {};
};

/// What a PrefixStore is made of.
struct PrefixStoreOptions {
  Checksum fingerprint;            ///< model_fingerprint() of the model
  std::vector<TierOptions> tiers;  ///< fastest first, no two of one level (G1, G2, G3, G4)
  WritePolicy write_policy = WritePolicy::Through;
  /// Blocks of files and objects are read through the slowest tier that is memory and stay there;
  /// blocks of slower memory are copied to the first tier afterwards.
  bool promote = true;
  unsigned readers = 2;           ///< threads that onboard, 1 to 64
  std::size_t batch_blocks = 64;  ///< blocks that one transfer between tiers takes, >= 1
};

/// The outcome of asynchronous work, now or later; a cheap handle, of any thread.
template <typename Result>
class Ticket {
 public:
  Ticket(std::shared_ptr<Result const> result, transfer::TransferCompleteNotification notification)
      : result_(std::move(result)), notification_(std::move(notification)) {}
  [[nodiscard]] bool is_ready() const noexcept { return notification_.is_ready(); }
  /// Blocks until the work has ended. What went wrong is in the result.
  /// @throws Error(ShuttingDown) the manager's event system was destroyed meanwhile
  // NOLINTNEXTLINE(modernize-use-nodiscard): to wait may be all that is wanted
  Result const& wait() const {
    notification_.wait();
    return *result_;
  }
  /// For then(), co_await and aggregate(); wait() does not block once it is ready.
  [[nodiscard]] transfer::TransferCompleteNotification const& notification() const noexcept {
    return notification_;
  }

 private:
  std::shared_ptr<Result const> result_;
  transfer::TransferCompleteNotification notification_;
};

/// How much of a prefix is stored.
struct PrefixMatch {
  std::size_t num_blocks = 0;                      ///< stored from the first one on
  std::vector<remote::LogicalLayoutHandle> tiers;  ///< the fastest tier that has each of them
};

/// What onboard() brought.
struct OnboardResult {
  std::size_t num_blocks = 0;  ///< arrived, from the first one on; what is behind is unspecified
  std::vector<remote::LogicalLayoutHandle> tiers;  ///< where each of them was found
};

/// What became of offered blocks; the three add up to all of them.
struct OffloadResult {
  std::size_t written = 0;         ///< to the first tier
  std::size_t already_stored = 0;  ///< there before, by this call or another one
  std::size_t failed = 0;          ///< not stored: no room, a failed write
};

/// What prefetch() brought.
struct PrefetchResult {
  std::size_t num_blocks = 0;  ///< in memory now, from the first one on
};

/// What flush() did.
struct FlushResult {
  std::size_t written = 0;  ///< blocks that no surviving tier had before
  std::size_t failed = 0;   ///< blocks that no surviving tier has now: no room, a failed write
};

/// Keeps keys from being evicted or erased until it goes. Move-only; may outlive the store.
class Pin {
 public:
  Pin() noexcept;
  Pin(Pin&&) noexcept;
  Pin& operator=(Pin&&) noexcept;
  Pin(Pin const&) = delete;
  Pin& operator=(Pin const&) = delete;
  ~Pin();
  /// The keys that were stored when they were pinned, in the order given.
  [[nodiscard]] std::vector<BlockKey> const& keys() const noexcept;
  /// Lets go now. Harmless on an empty one.
  void release() noexcept;

 private:
  friend class PrefixStore;
  class State;
  explicit Pin(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

/// Keeps KV blocks by content over several tiers, so that a prompt that begins like an earlier one
/// need not be prefilled again.
///
/// A tier is a layout of the manager that the store owns from now on; the engine's own blocks are
/// source and destination, in any registered layout and format. New blocks enter the first tier
/// and go down by the write policy; each tier evicts what was used least recently, the end of a
/// prefix before its beginning. A tier on disk with an index, and one in an object store, keep
/// their keys over restarts and crashes: a block that is found is exactly what was stored under its
/// key, or it is not found.
///
/// Threads  all methods may be called concurrently. Work runs on threads of the store, one a tier
///          and `readers`, never on the caller's.
/// Lifetime keeps the manager. The destructor finishes what was asked for; blocks that only memory
///          has are gone then, call flush() first.
class PrefixStore {
 public:
  /// Opens the tiers and recovers what earlier stores left in them.
  /// @throws Error(InvalidArgument) null manager, no tiers, wrong order, a budget below one block,
  ///         shapes that differ, an index of another model; Error(NotFound) a handle;
  ///         Error(Busy) another store has the index; Error(VersionMismatch) a newer index;
  ///         Error(Io); what listing an object store throws
  PrefixStore(std::shared_ptr<manager::TransferManager> manager, PrefixStoreOptions options);
  ~PrefixStore();
  PrefixStore(PrefixStore const&) = delete;
  PrefixStore& operator=(PrefixStore const&) = delete;

  /// Tokens of a block.
  [[nodiscard]] std::uint64_t page_size() const noexcept;
  /// What the keys of first blocks are chained to.
  [[nodiscard]] BlockKey const& root() const noexcept;
  /// Keys of the full pages of a prompt: chain_keys(root(), tokens, page_size()).
  [[nodiscard]] std::vector<BlockKey> keys(std::span<TokenId const> tokens) const;

  /// How many of the first keys are stored. Reads nothing; a later onboard() may find less.
  [[nodiscard]] PrefixMatch lookup(std::span<BlockKey const> keys) const;
  [[nodiscard]] bool contains(BlockKey const& key) const;
  /// Asks tiers that other processes write too (object stores) for keys that this store does not
  /// know, and learns of those that are there. Synchronous. @return how many were new
  std::size_t discover(std::span<BlockKey const> keys);

  /// Copies stored blocks to the engine's: the longest stored prefix of `keys`, keys[i] into
  /// dst_blocks[i]. A copy that cannot be read is dropped, and the next tier's taken. Requests of
  /// the same block of a file or object share one read.
  /// @throws Error(InvalidArgument) lists of unequal length, another shape, a tier's own layout, a
  ///         block twice; Error(OutOfRange) a block id; Error(NotFound) the handle
  [[nodiscard]] Ticket<OnboardResult> onboard(std::span<BlockKey const> keys,
                                              layout::LayoutHandle dst,
                                              std::span<BlockId const> dst_blocks);

  /// Stores the engine's blocks, src_blocks[i] under keys[i]. The blocks must stay as they are
  /// until the ticket is ready: then they are in the first tier. A key that is stored or on its
  /// way is not written again. @throws like onboard()
  Ticket<OffloadResult> offload(std::span<BlockKey const> keys, layout::LayoutHandle src,
                                std::span<BlockId const> src_blocks);

  /// Brings the longest stored prefix of `keys` into memory, where the tiers have any and there is
  /// room that need not be written back first.
  Ticket<PrefetchResult> prefetch(std::span<BlockKey const> keys);

  /// Keeps those of the keys that are stored where they are until the Pin goes.
  [[nodiscard]] Pin pin(std::span<BlockKey const> keys);

  /// Forgets keys in all tiers; records of them are gone when it returns, so that no later store
  /// finds them. Pinned ones stay. One that is being offloaded at the same time may stay as well.
  /// @return how many were forgotten
  std::size_t erase(std::span<BlockKey const> keys);

  /// Writes every block whose offload was reported, and that no surviving tier (disk with an index,
  /// object store) has, to the first surviving tier, then makes those tiers survive the loss of
  /// power. Waits. Nothing to do without such a tier.
  /// @throws Error(Io) a tier could not be synced
  FlushResult flush();

  [[nodiscard]] PrefixStats stats() const;

 private:
  friend class Pin;
  class Impl;
  std::shared_ptr<Impl> impl_;
};

}  // namespace kvbm::prefix
