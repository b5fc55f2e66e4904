// SPDX-License-Identifier: Apache-2.0
#include "transfer/pipeline.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "kvbm/core/checked.hpp"
#include "kvbm/core/error.hpp"
#include "transfer/file_geometry.hpp"

namespace kvbm::transfer {
namespace {

using layout::PhysicalLayout;

/// A transfer is cut into about this many batches, so that its hops overlap.
constexpr std::size_t kWantedBatches = 8;

std::uint64_t staging_bytes_per_block(PhysicalLayout const& like) {
  auto const geometry = layout::make_geometry(like.config().with_num_blocks(1), like.kind(),
                                              like.block_dimension(), like.format());
  return checked_mul(checked_align_up(geometry.region_bytes, memory::kFileAlignment),
                     like.regions().size());
}

PhysicalLayout make_staging(PhysicalLayout const& like, std::uint64_t num_blocks,
                            std::span<std::byte> memory) {
  auto const config = like.config().with_num_blocks(num_blocks);
  auto const geometry =
      layout::make_geometry(config, like.kind(), like.block_dimension(), like.format());
  std::uint64_t const stride = checked_align_up(geometry.region_bytes, memory::kFileAlignment);
  std::vector<memory::Region> regions;
  regions.reserve(like.regions().size());
  for (std::size_t i = 0; i < like.regions().size(); ++i) {
    regions.push_back(memory::Region::of_memory(
        memory::StorageKind::Pinned, memory.subspan(i * stride, stride).data(), stride, -1, true));
  }
  auto builder = PhysicalLayout::builder(like.source()).config(config);
  return like.kind() == layout::LayoutKind::FullyContiguous
             ? builder.fully_contiguous(like.format()).with_regions(std::move(regions)).build()
             : builder.layer_separate(like.block_dimension(), like.format())
                   .with_regions(std::move(regions))
                   .build();
}

bool is_never_written(std::exception_ptr const& error) {
  try {
    std::rethrow_exception(error);
  } catch (Error const& e) { return e.code() == ErrorCode::NotFound; } catch (...) {
    return false;
  }
}

}  // namespace

Pipeline::Pipeline(TransferJob& job, PipelineResources& resources, Strategy strategy)
    : job_(job),
      resources_(resources),
      layers_(job.state().pair.selection.layers),
      alive_(job.src_blocks().size(), true) {
  plan_path(strategy);
  plan_batches();
  plan_copies();
  if (strategy == Strategy::DirectStorage) { open_direct_storage(); }
}

void Pipeline::plan_path(Strategy strategy) {
  auto const& pair = job_.state().pair;
  auto const& selection = pair.selection;
  auto const& bounce = job_.state().bounce;
  if (job_.state().remote) {
    plan_remote_path(strategy);
    plan_extents();
    return;
  }
  stations_.push_back({pair.src, selection.src_heads, job_.src_blocks(), {}, false, {}});
  if (strategy == Strategy::StagedFile) {
    if (bounce && bounce_serves_as_staging(pair, bounce->endpoint.layout)) {
      add_bounce();
    } else {
      bool const match = extents_match(pair);
      if (reads()) { add_staging(pair.src, selection.src_heads); }
      if (bounce) { add_bounce(); }
      bool const to_store = memory::is_store(pair.dst.storage_kind());
      if (to_store && !(reads() && match && !bounce)) {
        add_staging(pair.dst, selection.dst_heads);
      }
    }
  }
  if (strategy == Strategy::PinnedStaging) {
    bool const to_host = pair.src.storage_kind() == memory::StorageKind::Device;
    add_staging(to_host ? pair.dst : pair.src, to_host ? selection.dst_heads : selection.src_heads);
  }
  stations_.push_back({pair.dst, selection.dst_heads, job_.dst_blocks(), {}, false, {}});
  if (stations_.size() == 2 && !reads() && !writes()) { hop_strategy_ = strategy; }
  plan_extents();
}

void Pipeline::open_direct_storage() {
  Station const& memory = reads() ? stations_.back() : stations_.front();
  auto& storage = job_.context().device_storage(memory.layout.device_id());
  for (std::size_t slot = 0; slot < num_slots_; ++slot) {
    storage_queues_[slot] = storage.make_queue();
  }
}

memory::ExtentQueue& Pipeline::read_queue(std::size_t slot, Station const& stored) {
  return storage_queues_[slot] != nullptr ? *storage_queues_[slot]
                                          : resources_.read_queue(slot, *stored.store());
}

memory::ExtentQueue& Pipeline::write_queue(std::size_t slot, Station const& stored) {
  return storage_queues_[slot] != nullptr ? *storage_queues_[slot]
                                          : resources_.write_queue(slot, *stored.store());
}

void Pipeline::plan_extents() {
  auto const& pair = job_.state().pair;
  shared_staging_ = reads() && writes() && stations_.size() == 3;
  partial_write_ =
      stations_.back().is_store() && is_partial(pair.dst, layers_, pair.selection.dst_heads);

  // Two stores may be cut into different extents.
  for (Station& station : stations_) {
    if (station.is_padded || !station.is_store()) { continue; }
    for (std::uint32_t i = 0; i < station.layout.extents_per_block(); ++i) {
      IndexRange const covered = station.layout.extent_layers(i);
      if (covered.begin < layers_.end && layers_.begin < covered.end) {
        station.extents.push_back(i);
      }
    }
  }
}

void Pipeline::add_staging(PhysicalLayout const& like, IndexRange heads) {
  stations_.push_back({like, heads, {}, {}, true, {}});
}

void Pipeline::add_bounce() {
  auto const& bounce = *job_.state().bounce;
  auto const& selection = job_.state().pair.selection;
  bool const like_src =
      bounce.endpoint.layout.geometry().extents == job_.state().pair.src.geometry().extents;
  std::size_t const half = (bounce.block_ids.size() + 1) / 2;
  Station station{bounce.endpoint.layout,
                  like_src ? selection.src_heads : selection.dst_heads,
                  {},
                  {},
                  false,
                  {}};
  auto const middle = bounce.block_ids.begin() + static_cast<std::ptrdiff_t>(half);
  station.slots[0].assign(bounce.block_ids.begin(), middle);
  station.slots[1].assign(middle, bounce.block_ids.end());
  stations_.push_back(std::move(station));
}

std::size_t Pipeline::wanted_slots(std::size_t min_batch) const {
  std::size_t const num_blocks = job_.src_blocks().size();
  // Straight from memory to memory nothing goes on meanwhile: slots would only cost.
  bool const direct = stations_.size() == 2 && job_.state().remote;
  if (num_blocks == 1 || direct) { return 1; }
  // An image is copied by the peer, moved, and copied by us, and over CMA no order gets through
  // while bytes move: with two slots the wire would often have none that is ready.
  bool const has_image =
      std::any_of(stations_.begin(), stations_.end(), [](Station const& s) { return s.is_image; });
  return has_image ? std::clamp<std::size_t>(num_blocks / min_batch, 2, kMaxSlots) : 2;
}

void Pipeline::plan_batches() {
  std::size_t const num_blocks = job_.src_blocks().size();
  std::uint64_t per_block = job_.state().plan.bytes_per_block;
  std::size_t num_stagings = 0;
  for (auto const& station : stations_) {
    if (!station.is_padded) { continue; }
    ++num_stagings;
    per_block = std::max(per_block, staging_bytes_per_block(station.layout));
  }
  std::size_t const wanted = (num_blocks + kWantedBatches - 1) / kWantedBatches;
  bool const has_objects = std::any_of(stations_.begin(), stations_.end(), [](Station const& s) {
    return s.layout.storage_kind() == memory::StorageKind::Object;
  });
  std::size_t const at_least =
      std::max<std::size_t>(1, (has_objects ? kMinObjectBatchBytes : kMinBatchBytes) / per_block);
  std::size_t const room =
      resources_.staging_bytes() / std::max<std::size_t>(1, num_stagings) / per_block;
  num_slots_ = wanted_slots(std::max<std::size_t>(1, std::min(at_least, room / kMaxSlots)));
  batch_blocks_ = std::min(
      {std::max(wanted, at_least), std::max<std::size_t>(1, room / num_slots_), num_blocks});
  for (auto const& station : stations_) {
    if (!station.is_image) { continue; }
    std::uint64_t const lent = station.layout.config().num_blocks();
    num_slots_ = std::min<std::uint64_t>(num_slots_, lent);
    batch_blocks_ = std::min<std::size_t>(batch_blocks_, lent / num_slots_);
  }
  for (auto const& station : stations_) {
    if (station.slots[0].empty()) { continue; }  // only the bounce buffer has blocks by now
    if (station.slots[1].empty()) { num_slots_ = 1; }
    batch_blocks_ = std::min(batch_blocks_,
                             num_slots_ == 1 ? station.slots[0].size() : station.slots[1].size());
  }
  allocate_staging();
}

void Pipeline::allocate_staging() {
  std::uint64_t const num_blocks = num_slots_ * batch_blocks_;
  std::uint64_t total = 0;
  std::vector<std::uint64_t> offsets;
  for (auto const& station : stations_) {
    if (!station.is_padded) { continue; }
    offsets.push_back(total);
    total = checked_add(total, checked_mul(staging_bytes_per_block(station.layout), num_blocks));
  }
  if (offsets.empty()) { return; }
  auto const memory = resources_.staging(total);
  if (job_.state().remote) { resources_.expose_staging(*job_.state().remote->peer); }
  auto offset = offsets.begin();
  for (auto& station : stations_) {
    if (!station.is_padded && !station.is_image) { continue; }
    if (station.is_padded) {
      station.layout = make_staging(station.layout, num_blocks, memory.subspan(*offset++));
    }
    for (std::size_t slot = 0; slot < num_slots_; ++slot) {
      for (std::size_t i = 0; i < batch_blocks_; ++i) {
        station.slots[slot].push_back(static_cast<BlockId>(slot * batch_blocks_ + i));
      }
    }
  }
}

void Pipeline::plan_copies() {
  std::size_t const first = reads() ? 1 : 0;
  std::size_t const last = stations_.size() - (writes() ? 2 : 1);
  for (std::size_t i = first; i < last; ++i) {
    Station const& from = stations_[i];
    Station const& to = stations_[i + 1];
    copies_.emplace_back(job_.context(),
                         lower(from.layout, to.layout, {layers_, from.heads, to.heads}),
                         from.layout, to.layout);
  }
  if (job_.state().remote) { hold_near(); }
  for (std::size_t i = 0; i + 1 < stations_.size(); ++i) {
    Station const& from = stations_[i];
    Station const& to = stations_[i + 1];
    if (!from.is_remote && !to.is_remote) { continue; }
    wire_.emplace(lower(from.layout, to.layout, {layers_, from.heads, to.heads}), from.layout,
                  to.layout, job_.state().remote->direction);
  }
}

std::optional<Pipeline::Batch> Pipeline::batch(std::size_t number) const {
  std::size_t const first = number * batch_blocks_;
  std::size_t const num_blocks = job_.src_blocks().size();
  if (first >= num_blocks) { return std::nullopt; }
  return Batch{first, std::min(batch_blocks_, num_blocks - first), number % num_slots_};
}

std::span<BlockId const> Pipeline::ids(Station const& station, Batch const& batch) const {
  return station.list.empty() ? std::span(station.slots[batch.slot]).first(batch.count)
                              : station.list.subspan(batch.first, batch.count);
}

void Pipeline::append_extents(Station const& stored, Station const& memory, Batch const& batch,
                              std::size_t position) {
  std::size_t const i = position - batch.first;
  BlockId const stored_block = ids(stored, batch)[i];
  BlockId const memory_block = ids(memory, batch)[i];
  for (std::uint32_t const number : stored.extents) {
    auto const extent = stored.layout.extent(stored_block, number);
    auto const held = memory.layout.extent(memory_block, number);
    io_.push_back(
        {stored.layout.regions()[extent.region].store_index(), extent.index,
         reinterpret_cast<std::byte*>(memory.layout.regions()[held.region].address()) + held.offset,
         memory.is_padded ? checked_align_up(held.bytes, memory::kFileAlignment) : held.bytes});
  }
}

void Pipeline::start_read(Station const& stored, Station const& memory, Batch const& batch) {
  if (stored.is_remote) {
    reading_[batch.slot].clear();
    start_move(batch);
    return;
  }
  io_.clear();
  auto& reading = reading_[batch.slot];
  reading.clear();
  for (std::size_t position = batch.first; position < batch.first + batch.count; ++position) {
    if (!alive_[position]) { continue; }
    reading.push_back(position);
    append_extents(stored, memory, batch, position);
  }
  read_queue(batch.slot, stored).start_read(stored.store(), io_);
}

void Pipeline::finish_read(Batch const& batch, bool missing_is_empty) {
  if (!missing_is_empty && stations_.front().is_remote) {
    finish_move(batch.slot, reading_[batch.slot]);
    return;
  }
  Station const& stored = missing_is_empty ? stations_.back() : stations_.front();
  auto const errors = read_queue(batch.slot, stored).finish();
  std::size_t const per_block = stored.extents.size();
  for (std::size_t i = 0; i < errors.size(); ++i) {
    if (errors[i] == nullptr) { continue; }
    std::size_t const position = reading_[batch.slot][i / per_block];
    if (missing_is_empty && is_never_written(errors[i])) {
      zero_missing(stations_[stations_.size() - 2], batch, position,
                   stations_.back().extents[i % per_block]);
    } else {
      fail(position, errors[i]);
    }
  }
}

void Pipeline::zero_missing(Station const& memory, Batch const& batch, std::size_t position,
                            std::uint32_t number) {
  BlockId const block = ids(memory, batch)[position - batch.first];
  auto const extent = memory.layout.extent(block, number);
  std::memset(memory.layout.regions()[extent.region].host_data() + extent.offset, 0, extent.bytes);
}

void Pipeline::copy(Batch const& batch) {
  auto const& options = job_.state().options;
  std::size_t station = reads() ? 1 : 0;
  for (LocalCopy const& hop : copies_) {
    auto const from = ids(stations_[station], batch);
    auto const to = ids(stations_[station + 1], batch);
    ++station;
    // Blocks that failed are left out run by run; without a failure that is one run.
    for (std::size_t i = 0; i < batch.count;) {
      if (!alive_[batch.first + i]) {
        ++i;
        continue;
      }
      std::size_t end = i;
      while (end < batch.count && alive_[batch.first + end]) {
        ++end;
      }
      hop.run(job_.context(), from.subspan(i, end - i), to.subspan(i, end - i), options,
              hop_strategy_);
      i = end;
    }
  }
}

void Pipeline::start_write(Batch const& batch) {
  Station const& stored = stations_.back();
  Station const& memory = stations_[stations_.size() - 2];
  if (stored.is_remote) {
    write_end_[batch.slot] = batch.first + batch.count;
    start_move(batch);
    return;
  }
  io_.clear();
  auto& writing = writing_[batch.slot];
  for (std::size_t position = batch.first; position < batch.first + batch.count; ++position) {
    if (!alive_[position]) { continue; }
    writing.push_back(position);
    append_extents(stored, memory, batch, position);
  }
  write_end_[batch.slot] = batch.first + batch.count;
  write_queue(batch.slot, stored).start_write(stored.store(), io_);
}

void Pipeline::finish_write(std::size_t slot) {
  if (write_end_[slot] == 0) { return; }
  if (stations_.back().is_remote) {
    finish_move(slot, writing_[slot]);
    writing_[slot].clear();
    num_done_ = std::max(num_done_, std::exchange(write_end_[slot], 0));
    return;
  }
  auto const errors = write_queue(slot, stations_.back()).finish();
  for (std::size_t i = 0; i < errors.size(); ++i) {
    if (errors[i] != nullptr) {
      fail(writing_[slot][i / stations_.back().extents.size()], errors[i]);
    }
  }
  writing_[slot].clear();
  num_done_ = std::max(num_done_, std::exchange(write_end_[slot], 0));
}

void Pipeline::fail(std::size_t position, std::exception_ptr error) {
  if (!alive_[position]) { return; }  // the first failing extent speaks for its block
  alive_[position] = false;
  failed_.push_back({position, std::move(error)});
}

void Pipeline::run() {
  std::size_t number = 0;
  for (std::size_t next_read = 0; auto const current = batch(number); ++number) {
    if (job_.should_stop()) {
      for (std::size_t reading = number; reading < next_read; ++reading) {
        abandon_read(batch(reading)->slot);
      }
      break;
    }
    for (; reads() && next_read < number + num_slots_; ++next_read) {
      auto const next = batch(next_read);
      if (!next) { break; }
      if (shared_staging_) { finish_write(next->slot); }
      start_read(stations_[0], stations_[1], *next);
    }
    if (reads()) { finish_read(*current, false); }
    if (writes() && !shared_staging_) { finish_write(current->slot); }
    if (partial_write_) {
      start_read(stations_.back(), stations_[stations_.size() - 2], *current);
      finish_read(*current, true);
    }
    copy(*current);
    if (writes()) {
      start_write(*current);
    } else {
      num_done_ = current->first + current->count;
    }
  }
  // The oldest first, which the next batch would push out: what num_done() tells has ended.
  for (std::size_t i = 0; i < num_slots_; ++i) {
    finish_write((number + i) % num_slots_);
  }
}

void Pipeline::abandon_read(std::size_t slot) {
  if (!stations_.front().is_remote) {
    static_cast<void>(read_queue(slot, stations_.front()).finish());
    return;
  }
  try {
    resources_.wire_queue(slot).finish();
  } catch (std::exception const&) {  // the transfer was stopped, and that is what it fails with
  }
}

std::vector<FailedBlock> Pipeline::take_failed() {
  std::sort(failed_.begin(), failed_.end(),
            [](FailedBlock const& a, FailedBlock const& b) { return a.position < b.position; });
  return std::move(failed_);
}

}  // namespace kvbm::transfer
