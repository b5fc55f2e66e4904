// SPDX-License-Identifier: Apache-2.0
#include "verify_store.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "kvbm/core/checked.hpp"
#include "kvbm/core/error.hpp"
#include "kvbm/memory/striped_file.hpp"

namespace kvbm::cli {
namespace {

using memory::ExtentStatus;

constexpr std::uint64_t kBatchBytes = std::uint64_t{64} << 20U;

/// What a unit's extents add up to.
struct UnitState {
  std::uint32_t missing = 0;
  std::uint32_t torn = 0;
  std::string damage;
};

void note(UnitState& state, ExtentStatus before, std::exception_ptr const& error) {
  if (error == nullptr) { return; }
  try {
    std::rethrow_exception(error);
  } catch (Error const& what) {
    if (what.code() == ErrorCode::NotFound) {
      ++(before == ExtentStatus::Torn ? state.torn : state.missing);
    } else if (what.code() == ErrorCode::Corrupt || what.code() == ErrorCode::Io) {
      if (state.damage.empty()) { state.damage = what.what(); }
    } else {
      throw;
    }
  }
}

void sort_in(Findings& findings, std::uint64_t unit, std::uint32_t extents,
             UnitState const& state) {
  if (!state.damage.empty()) {
    findings.damaged.push_back({unit, state.damage});
  } else if (state.missing == extents) {
    findings.missing.push_back(unit);
  } else if (state.missing + state.torn > 0) {
    findings.torn.push_back(unit);
  } else {
    ++findings.ok;
  }
}

std::uint64_t slot_of(StoreUnits const& units) {
  std::uint64_t slot = 0;
  for (auto const& group : units.store->groups()) {
    slot = std::max(slot, checked_align_up(group.extent_bytes, memory::kFileAlignment));
  }
  return slot;
}

}  // namespace

std::uint64_t StoreUnits::count() const {
  if (layout) { return layout->config().num_blocks(); }
  std::uint64_t extents = 0;
  for (auto const& group : store->groups()) {
    extents += group.count;
  }
  return extents;
}

std::uint32_t StoreUnits::extents_per_unit() const {
  return layout ? layout->extents_per_block() : 1;
}

StoreUnits::Extent StoreUnits::extent(std::uint64_t unit, std::uint32_t i) const {
  if (layout) {
    auto const found = layout->extent(unit, i);
    return {layout->regions()[found.region].store_index(), found.index};
  }
  std::uint32_t group = 0;
  while (unit >= store->groups()[group].count) {
    unit -= store->groups()[group++].count;
  }
  return {group, unit};
}

StoreUnits open_units(std::shared_ptr<memory::MemorySource> const& source,
                      std::string const& path) {
  StoreUnits units;
  try {
    units.layout = layout::PhysicalLayout::open_disk(source, path, memory::OpenMode::ReadOnly);
    units.store = units.layout->regions().front().store();
  } catch (Error const& error) {
    // A store that is whole and holds something else; what is wrong with it says open() itself.
    units.store = memory::open_block_store(path, memory::OpenMode::ReadOnly, source->disk_io());
    units.why_no_layout = error.what();
  }
  return units;
}

Findings verify_units(StoreUnits const& units, memory::MemorySource& source, Progress& progress) {
  auto const& store = units.store;
  std::uint32_t const extents = units.extents_per_unit();
  std::uint64_t const slot = slot_of(units);
  std::uint64_t const count = units.count();
  std::uint64_t const batch =
      std::clamp<std::uint64_t>(kBatchBytes / checked_mul(slot, std::uint64_t{extents}), 1, count);
  memory::AllocationRequest request;
  request.kind = memory::StorageKind::Pinned;
  request.alignment = memory::kFileAlignment;
  request.bytes = checked_mul(checked_mul(batch, std::uint64_t{extents}), slot);
  auto const memory = source.allocate(request);
  auto const queue = store->make_queue();
  queue->register_buffer({memory.host_data(), memory.bytes()});

  Findings findings;
  std::vector<memory::ExtentIo> reads;
  std::vector<ExtentStatus> before;
  for (std::uint64_t first = 0; first < count; first += batch) {
    std::uint64_t const here = std::min(batch, count - first);
    reads.clear();
    before.clear();
    for (std::uint64_t i = 0; i < here * extents; ++i) {
      auto const at = units.extent(first + i / extents, static_cast<std::uint32_t>(i % extents));
      reads.push_back({at.group, at.index, memory.host_data() + i * slot, slot});
      before.push_back(store->status(at.group, at.index));
    }
    queue->start_read(store, reads);
    auto const errors = queue->finish();
    for (std::uint64_t u = 0; u < here; ++u) {
      UnitState state;
      for (std::uint64_t i = u * extents; i < (u + 1) * extents; ++i) {
        note(state, before[i], errors[i]);
        bool const was_read = before[i] == ExtentStatus::Written;
        findings.bytes += was_read ? store->groups()[reads[i].group].extent_bytes : 0;
      }
      sort_in(findings, first + u, extents, state);
    }
    progress.update(first + here, fmt::format("{} corrupt", findings.damaged.size()));
  }
  return findings;
}

}  // namespace kvbm::cli
