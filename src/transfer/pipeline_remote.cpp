// SPDX-License-Identifier: Apache-2.0
//
// The part of a pipeline that knows a peer: its stations, and the moves over its wire.
#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "kvbm/core/checked.hpp"
#include "kvbm/core/error.hpp"
#include "transfer/file_geometry.hpp"
#include "transfer/pipeline.hpp"

namespace kvbm::transfer {

using layout::PhysicalLayout;

void Pipeline::plan_remote_path(Strategy strategy) {
  auto const& pair = job_.state().pair;
  auto const& selection = pair.selection;
  RemoteSide const& remote = *job_.state().remote;
  bool const from_peer = remote.direction == WireDirection::Read;
  Station src{pair.src, selection.src_heads, job_.src_blocks(), {}, false, {}};
  Station dst{pair.dst, selection.dst_heads, job_.dst_blocks(), {}, false, {}};
  (from_peer ? src : dst).is_remote = true;
  bool const packed = strategy == Strategy::PackedRemote;
  Station const& near = from_peer ? dst : src;
  Station const& far = from_peer ? src : dst;
  // A file goes through staging in its own order, which may be the peer's as well.
  auto const stage_near = [&] {
    if (near.is_store()) { add_staging(near.layout, near.heads); }
  };
  auto const stage_far = [&] {
    if (strategy == Strategy::DirectRemote) { return; }
    if (packed) {
      add_image();
    } else if (job_.state().bounce) {
      add_bounce();
      expose_bounce();
    } else if (!near.is_store() || !extents_match(pair)) {
      // A peer's blocks that lie between each other have no order that one alone could be in.
      bool const apart = far.layout.extents_per_block() > 0;
      add_staging(apart ? far.layout : near.layout, apart ? far.heads : near.heads);
    }
  };
  if (from_peer) {
    if (!packed) { stations_.push_back(src); }
    stage_far();
    stage_near();
    stations_.push_back(dst);
  } else {
    stations_.push_back(src);
    stage_near();
    stage_far();
    if (!packed) { stations_.push_back(dst); }
  }
}

void Pipeline::expose_bounce() {
  auto& peer = *job_.state().remote->peer;
  for (auto const& region : job_.state().bounce->endpoint.layout.regions()) {
    if (!peer.reaches(region)) { exposed_.push_back(peer.expose(region)); }
  }
}

void Pipeline::add_image() {
  RemoteSide const& remote = *job_.state().remote;
  auto const& pair = job_.state().pair;
  bool const from_peer = remote.direction == WireDirection::Read;
  PhysicalLayout const& far = from_peer ? pair.src : pair.dst;
  IndexRange const heads = from_peer ? pair.selection.src_heads : pair.selection.dst_heads;
  auto const block =
      layout::make_geometry(far.config().with_num_blocks(1), layout::LayoutKind::FullyContiguous,
                            layout::BlockDimension::First, remote.image_format);
  // A batch for every slot; as much as the peer lends at most, and never less than a block.
  std::uint64_t const batch = std::max<std::uint64_t>(1, kMinBatchBytes / block.block_stride);
  std::uint64_t const wanted = checked_mul(
      std::min<std::uint64_t>(kMaxSlots * batch, job_.src_blocks().size()), block.block_stride);
  landing_ = remote.peer->borrow_landing(
      std::max(block.block_stride, std::min(wanted, remote.peer->landing_bytes())),
      [this] { return job_.should_stop(); });
  std::uint64_t const num_blocks = landing_->bytes / block.block_stride;
  KVBM_EXPECTS(num_blocks > 0, Unsupported,
               fmt::format("{} lends {} bytes of landing memory, less than a block of {}",
                           remote.peer->name(), landing_->bytes, block.block_stride));
  auto image = PhysicalLayout::builder(far.source())
                   .config(far.config().with_num_blocks(num_blocks))
                   .fully_contiguous(remote.image_format)
                   .with_regions({memory::Region::of_memory(
                       memory::StorageKind::Pinned, reinterpret_cast<void*>(landing_->address),
                       landing_->bytes, -1, false)})
                   .build();
  Station landing{image, heads, {}, {}, false, {}};
  landing.is_remote = true;
  landing.is_image = true;
  if (from_peer) { stations_.push_back(landing); }
  add_staging(image, heads);
  if (!from_peer) { stations_.push_back(landing); }
}

ImageOrder Pipeline::image_order(Batch const& batch) const {
  RemoteSide const& remote = *job_.state().remote;
  bool const from_peer = remote.direction == WireDirection::Read;
  Station const& image = from_peer ? stations_.front() : stations_.back();
  auto const blocks = from_peer ? job_.src_blocks() : job_.dst_blocks();
  auto const slots = ids(image, batch);
  ImageOrder order;
  order.handle = remote.handle;
  order.layers = layers_;
  order.heads = image.heads;
  order.image_format = remote.image_format;
  order.landing = *landing_;
  for (std::size_t i = 0; i < batch.count; ++i) {
    if (!alive_[batch.first + i]) { continue; }
    order.block_ids.push_back(blocks[batch.first + i]);
    order.slots.push_back(slots[i]);
  }
  return order;
}

void Pipeline::start_move(Batch const& batch) {
  RemoteSide const& remote = *job_.state().remote;
  bool const from_peer = remote.direction == WireDirection::Read;
  std::size_t const first = from_peer ? 0 : stations_.size() - 2;
  auto& positions = from_peer ? reading_[batch.slot] : writing_[batch.slot];
  std::vector<BlockId> from;
  std::vector<BlockId> to;
  auto const from_ids = ids(stations_[first], batch);
  auto const to_ids = ids(stations_[first + 1], batch);
  for (std::size_t i = 0; i < batch.count; ++i) {
    if (!alive_[batch.first + i]) { continue; }
    positions.push_back(batch.first + i);
    from.push_back(from_ids[i]);
    to.push_back(to_ids[i]);
  }
  if (from.empty()) { return; }  // all of them failed before
  bool const packed = stations_[from_peer ? 0 : stations_.size() - 1].is_image;
  auto move = [this, &remote, from = std::move(from), to = std::move(to),
               order = packed ? std::optional(image_order(batch)) : std::nullopt,
               local = wire_memory(stations_[from_peer ? 1 : first].layout),
               far = packed ? WireMemory{} : remote.memory] {
    auto const stop = [this] { return job_.should_stop(); };
    bool const reads_peer = remote.direction == WireDirection::Read;
    if (order && reads_peer) { remote.peer->copy_image(remote.direction, *order, stop); }
    std::vector<WireRun> runs;
    wire_->append_runs(from, to, runs);
    remote.peer->move(remote.direction, local, far, runs, hold_, stop);
    if (order && !reads_peer) { remote.peer->copy_image(remote.direction, *order, stop); }
  };
  if (num_slots_ > 1) {
    resources_.wire_queue(batch.slot).start(std::move(move));
    return;
  }
  try {
    move();
  } catch (...) { move_error_ = std::current_exception(); }
}

void Pipeline::hold_near() {
  bool const from_peer = job_.state().remote->direction == WireDirection::Read;
  Station const& near = from_peer ? stations_[1] : stations_[stations_.size() - 2];
  auto const& state = job_.state();
  std::shared_ptr<LayoutUse> use;
  if (!near.list.empty()) {
    use = from_peer ? state.dst_use : state.src_use;
  } else if (!near.is_padded) {
    use = state.bounce->endpoint.use;
  }
  hold_ = std::make_shared<WireHold>(
      near.layout, std::move(use),
      near.is_padded ? std::optional(resources_.staging_region()) : std::nullopt,
      near.is_padded ? resources_.exposed()
                     : std::make_shared<std::vector<std::shared_ptr<void const>>>(exposed_),
      landing_);
}

Pipeline::~Pipeline() {
  if (hold_ == nullptr || hold_.use_count() == 1) { return; }
  // The wire may still touch our end's memory.
  bool const from_peer = job_.state().remote->direction == WireDirection::Read;
  Station const& near = from_peer ? stations_[1] : stations_[stations_.size() - 2];
  if (near.is_padded) {
    resources_.abandon_staging();
    return;
  }
  std::vector<BlockId> blocks;
  for (auto const& slot : near.slots) {
    blocks.insert(blocks.end(), slot.begin(), slot.end());
  }
  for (std::size_t position = 0; position < near.list.size(); ++position) {
    if (position >= num_done_ || !alive_[position]) { blocks.push_back(near.list[position]); }
  }
  hold_->quarantine(job_.context().quarantine_, blocks, job_.description());
}

void Pipeline::finish_move(std::size_t slot, std::vector<std::size_t> const& positions) {
  std::exception_ptr error = std::exchange(move_error_, nullptr);
  try {
    resources_.wire_queue(slot).finish();
  } catch (...) { error = std::current_exception(); }
  if (error == nullptr) { return; }
  // What was stopped fails with the reason of the stop, not with its consequence.
  if (job_.should_stop()) { error = job_.stop_error(); }
  for (std::size_t const position : positions) {
    fail(position, error);
  }
}

}  // namespace kvbm::transfer
