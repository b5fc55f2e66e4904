// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <span>

#include "kvbm/core/types.hpp"
#include "kvbm/layout/physical_layout.hpp"
#include "kvbm/transfer/copy_plan.hpp"
#include "kvbm/transfer/options.hpp"

namespace kvbm::transfer {

/// A pair of layouts that was found fit for each other.
struct ValidatedPair {
  layout::PhysicalLayout src;  ///< read in src_kv_layout where given
  layout::PhysicalLayout dst;  ///< read in dst_kv_layout where given
  Selection selection;
  bool same_layout = false;  ///< one set of regions on both sides
  bool may_alias = false;    ///< different layouts, but their memory overlaps
  bool src_is_here = true;   ///< its addresses are this process's
  bool dst_is_here = true;   ///< likewise
};

/// Whose the two layouts of a pair are.
struct PairOwners {
  bool dst_is_peers = false;  ///< the destination is another worker's, mapped here or not
  bool src_is_here = true;    ///< the source's addresses are this process's
  bool dst_is_here = true;    ///< likewise
};

/// Checks everything about a transfer but its block ids. Pure; nothing moves.
/// @throws Error(InvalidArgument) differing layers, outer_dim, page_size, inner_dim or heads, dtype
/// width
///         (naming both values); Unknown against a known format without an override; an override
///         that does not fit; empty, reversed or unequal ranges; Error(OutOfRange) a range beyond
///         its extent; UnsupportedError for options that no strategy of this build can honour
ValidatedPair validate_pair(layout::PhysicalLayout const& src, layout::PhysicalLayout const& dst,
                            TransferOptions const& options, PairOwners const& owners = {});

/// Checks the block ids of one submission.
/// @throws Error(InvalidArgument) lists of unequal length (naming both lengths), duplicate
///         destinations (naming them), overlap of sources and destinations in one layout or by
///         address between layouts that share memory; Error(OutOfRange) naming the id and its list
void validate_blocks(ValidatedPair const& pair, std::span<BlockId const> src_blocks,
                     std::span<BlockId const> dst_blocks);

/// Checks the ids of a bounce buffer: at least one, in range, no duplicates.
/// @throws Error(InvalidArgument), Error(OutOfRange)
void validate_bounce(layout::PhysicalLayout const& bounce, std::span<BlockId const> block_ids);

/// Checks that staging overwrites none of the blocks that are moved.
/// @pre    the ids are in range
/// @throws Error(InvalidArgument) a bounce block shares memory with a source or destination block
void validate_bounce_apart(ValidatedPair const& pair, std::span<BlockId const> src_blocks,
                           std::span<BlockId const> dst_blocks,
                           layout::PhysicalLayout const& bounce,
                           std::span<BlockId const> bounce_blocks);

}  // namespace kvbm::transfer
