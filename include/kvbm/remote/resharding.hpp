// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "kvbm/core/types.hpp"

namespace kvbm::remote {

/// What one rank of the source sends to one rank of the destination. Ranges count heads from the
/// first one that the rank itself holds, as TransferOptions::src_head_range and dst_head_range do;
/// both have the same size. For MLA both are empty: the whole block is sent.
struct HeadTransfer {
  unsigned src_rank = 0;
  unsigned dst_rank = 0;
  IndexRange src_heads;
  IndexRange dst_heads;
  friend bool operator==(HeadTransfer const&, HeadTransfer const&) = default;
};

/// Most ranks of one side.
inline constexpr unsigned kMaxRanks = 65536;

/// Heads, counted over the whole model, that `rank` of `tp` holds: an equal share in the order of
/// the ranks; with more ranks than heads one head, which tp / total_heads neighbours share.
/// @throws Error(InvalidArgument) naming the value: total_heads 0; tp 0, above kMaxRanks, or
///         neither a divisor nor a multiple of total_heads; Error(OutOfRange) rank >= tp
IndexRange heads_of_rank(std::uint64_t total_heads, unsigned tp, unsigned rank);

/// Who sends which heads to whom when `src_tp` ranks hold what `dst_tp` ranks shall get. Every
/// head of every destination rank is sent to it exactly once. Where several source ranks hold the
/// same head, its receivers take turns among them, so that their loads differ by one at most.
/// @param total_heads  KV heads of the model; 0 = MLA: every rank holds everything, and each
///                     receiver gets it from one sender, in turns
/// @return ordered by dst_rank, then by dst_heads
/// @throws like heads_of_rank, for either side
std::vector<HeadTransfer> plan_resharding(std::uint64_t total_heads, unsigned src_tp,
                                          unsigned dst_tp);

/// Those of the transfers that this rank sends, in their order.
std::vector<HeadTransfer> transfers_from(std::span<HeadTransfer const> plan, unsigned src_rank);
/// Those of the transfers that this rank receives, in their order.
std::vector<HeadTransfer> transfers_to(std::span<HeadTransfer const> plan, unsigned dst_rank);

}  // namespace kvbm::remote
