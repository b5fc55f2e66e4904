// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "kvbm/core/types.hpp"
#include "kvbm/layout/physical_layout.hpp"
#include "kvbm/transfer/context.hpp"
#include "kvbm/transfer/copy_plan.hpp"
#include "kvbm/transfer/notification.hpp"
#include "kvbm/transfer/options.hpp"
#include "kvbm/transfer/peer.hpp"
#include "kvbm/transfer/strategy.hpp"

namespace kvbm::transfer {

/// Counts the transfers that use a registered layout; shared by registry and transfers.
class LayoutUse;

/// A layout as a transfer sees it.
struct Endpoint {
  layout::PhysicalLayout layout;
  std::shared_ptr<LayoutUse> use;    ///< null for unregistered layouts
  std::shared_ptr<Peer> peer = {};   ///< the worker whose layout it is; null: this one
  layout::LayoutHandle handle = {};  ///< the peer's name of it
  bool is_mapped = false;            ///< the peer's memory is mapped here: every local way works
  WireMemory memory = {};            ///< of a peer's layout that is not mapped
  /// Whether only the wire reaches it.
  [[nodiscard]] bool is_remote() const noexcept { return peer != nullptr && !is_mapped; }
};

/// A bounce buffer whose handle was resolved.
struct ResolvedBounce {
  Endpoint endpoint;
  std::vector<BlockId> block_ids;
};

/// What a transfer would do; moves nothing.
struct TransferExplanation {
  CopyPlan plan;
  Decision decision;
  /// What decision came from, but for the costs (null: the defaults); choose() takes it again.
  ChoiceInput choice;
  std::uint64_t num_blocks = 0;
  std::uint64_t total_bytes = 0;
  std::vector<std::string> hops;  ///< "Device 0 -> pinned staging (2 x 22 blocks)", ...
  /// A few lines for people: what, how, why, and the table of candidates.
  [[nodiscard]] std::string to_string() const;
};

/// Validation, lowering and choice done once for a pair of layouts; submitting costs only the ids.
/// Threads  submit() may be called from any thread, any number of times.
/// Lifetime keeps its layouts alive; after the manager is gone submit() throws Error(ShuttingDown).
class PreparedTransfer {
 public:
  /// @throws like validate_pair, lower and choose
  static PreparedTransfer prepare(std::shared_ptr<TransferContext> const& context,
                                  Endpoint const& src, Endpoint const& dst,
                                  std::optional<ResolvedBounce> bounce,
                                  TransferOptions const& options);

  /// Moves src_blocks[i] to dst_blocks[i]. No blocks: ready at once.
  /// @throws Error(InvalidArgument) lists of unequal length, duplicate destination, a block that is
  ///         source and destination; Error(OutOfRange) a block id; Error(NotFound) layout
  ///         unregistered since
  // NOLINTNEXTLINE(modernize-use-nodiscard): a notification may be dropped
  TransferCompleteNotification submit(std::span<BlockId const> src_blocks,
                                      std::span<BlockId const> dst_blocks) const;

  /// What submit() would do with as many blocks.
  [[nodiscard]] TransferExplanation explain(std::span<BlockId const> src_blocks,
                                            std::span<BlockId const> dst_blocks) const;

  [[nodiscard]] CopyPlan const& plan() const noexcept;

  class State;

 private:
  explicit PreparedTransfer(std::shared_ptr<State const> state) : state_(std::move(state)) {}
  std::shared_ptr<State const> state_;
};

}  // namespace kvbm::transfer
