// SPDX-License-Identifier: Apache-2.0
#include "transfer/remote_side.hpp"

#include <algorithm>

namespace kvbm::transfer {
namespace {

using layout::KvBlockLayout;
using layout::PhysicalLayout;
using memory::StorageKind;

/// A format in which the selected part of a block is one run, or one a layer.
KvBlockLayout choose_image_format(PhysicalLayout const& far, IndexRange layers, IndexRange heads) {
  if (far.format().is_unknown()) { return KvBlockLayout::Unknown; }
  bool const all_heads = heads.size() == far.config().num_heads();
  if (all_heads) {
    return far.format().is_operational() ? far.format() : KvBlockLayout::OperationalNHD;
  }
  return layers.size() == far.config().num_layers() ? KvBlockLayout::UniversalTP
                                                    : KvBlockLayout::UniversalPP;
}

}  // namespace

WireMemory wire_memory(PhysicalLayout const& layout) {
  return {layout.storage_kind() == StorageKind::Device && !is_host_reachable(layout),
          layout.device_id()};
}

RemoteChoice RemoteSide::choice_for(std::span<BlockId const> src_blocks,
                                    std::span<BlockId const> dst_blocks) const {
  RemoteChoice result = choice;
  if (direct) { result.num_runs = direct->count_runs(src_blocks, dst_blocks); }
  auto const far = direction == WireDirection::Read ? src_blocks : dst_blocks;
  if (staged) { result.num_staged_runs = staged->count_runs(far, far); }
  return result;
}

RemoteSide make_remote_side(ValidatedPair const& pair, CopyPlan const& plan, Endpoint const& src,
                            Endpoint const& dst, PhysicalLayout const* bounce) {
  RemoteSide side;
  bool const reads = src.is_remote();
  Endpoint const& far_end = reads ? src : dst;
  PhysicalLayout const& far = reads ? pair.src : pair.dst;
  PhysicalLayout const& near = reads ? pair.dst : pair.src;
  IndexRange const far_heads = reads ? pair.selection.src_heads : pair.selection.dst_heads;
  side.peer = far_end.peer;
  side.direction = reads ? WireDirection::Read : WireDirection::Write;
  side.handle = far_end.handle;
  side.memory = far_end.memory;
  side.choice.both_remote = src.is_remote() && dst.is_remote();
  if (side.choice.both_remote) { return side; }
  bool const near_is_memory = memory::is_memory(near.storage_kind());
  if (near_is_memory) { side.direct.emplace(plan, pair.src, pair.dst, side.direction); }
  side.staged.emplace(lower(far, far, {pair.selection.layers, far_heads, far_heads}), far, far,
                      side.direction);
  side.image_format = choose_image_format(far, pair.selection.layers, far_heads);
  side.choice.local_reached =
      near_is_memory && std::all_of(near.regions().begin(), near.regions().end(),
                                    [&](auto const& region) { return side.peer->reaches(region); });
  side.choice.peer_is_gpu = far_end.memory.is_gpu;
  side.choice.bounce_is_gpu = bounce != nullptr && wire_memory(*bounce).is_gpu;
  side.choice.gpu_involved = far_end.memory.is_gpu || wire_memory(near).is_gpu;
  auto const image =
      layout::make_geometry(far.config().with_num_blocks(1), layout::LayoutKind::FullyContiguous,
                            layout::BlockDimension::First, side.image_format);
  side.choice.can_pack =
      far.format() == far_end.layout.format() && side.peer->landing_bytes() >= image.region_bytes;
  return side;
}

}  // namespace kvbm::transfer
