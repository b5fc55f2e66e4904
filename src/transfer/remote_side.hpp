// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <optional>
#include <span>

#include "kvbm/transfer/peer.hpp"
#include "kvbm/transfer/prepared_transfer.hpp"
#include "kvbm/transfer/validate.hpp"
#include "transfer/wire_copy.hpp"

namespace kvbm::transfer {

/// The side of a transfer that only a wire reaches.
struct RemoteSide {
  std::shared_ptr<Peer> peer;
  WireDirection direction = WireDirection::Read;  ///< Read: it is the source
  layout::LayoutHandle handle;                    ///< the peer's name of its layout
  WireMemory memory;
  std::optional<WireCopy> direct;  ///< between our side and the peer's; none where ours is a file
  std::optional<WireCopy> staged;  ///< between staging in the peer's order and the peer's memory
  layout::KvBlockLayout image_format = layout::KvBlockLayout::Unknown;  ///< of packed moves
  RemoteChoice choice;                                                  ///< but for the blocks

  /// What choose() wants to know about these blocks.
  [[nodiscard]] RemoteChoice choice_for(std::span<BlockId const> src_blocks,
                                        std::span<BlockId const> dst_blocks) const;
};

/// What memory of ours is to the wire.
[[nodiscard]] WireMemory wire_memory(layout::PhysicalLayout const& layout);

/// @pre  src or dst is remote
/// @param bounce  where the caller wants the blocks staged; null: no wish
RemoteSide make_remote_side(ValidatedPair const& pair, CopyPlan const& plan, Endpoint const& src,
                            Endpoint const& dst, layout::PhysicalLayout const* bounce);

}  // namespace kvbm::transfer
