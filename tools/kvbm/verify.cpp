// SPDX-License-Identifier: Apache-2.0
//
// kvbm verify: reads every block of a disk layout and compares it with its stored checksum.

#include <fmt/format.h>

#include <algorithm>
#include <memory>

#include "command.hpp"
#include "exit_code.hpp"
#include "kvbm/core/checked.hpp"
#include "kvbm/core/error.hpp"
#include "kvbm/device/device.hpp"
#include "kvbm/layout/physical_layout.hpp"
#include "kvbm/memory/block_store.hpp"
#include "measure.hpp"
#include "progress.hpp"
#include "report.hpp"

namespace kvbm::cli {
namespace {


constexpr std::size_t kListedIds = 20;
constexpr std::uint64_t kBatchBytes = std::uint64_t{64} << 20U;

/// The blocks of a file by what was found.
struct Findings {
  std::uint64_t ok = 0;
  std::uint64_t bytes = 0;
  std::vector<BlockId> missing;      ///< no extent was ever written
  std::vector<BlockId> corrupt;      ///< some extent fails its checksum, or only a part was written
  std::vector<std::string> reasons;  ///< one a corrupt block
};

/// Worst outcome of a block's extents.
struct BlockState {
  std::uint32_t missing = 0;
  std::string damage;
};

void note(BlockState& state, std::exception_ptr const& error) {
  if (error == nullptr) { return; }
  try {
    std::rethrow_exception(error);
  } catch (Error const& what) {
    if (what.code() == ErrorCode::NotFound) {
      ++state.missing;
    } else if (what.code() == ErrorCode::Corrupt || what.code() == ErrorCode::Io) {
      if (state.damage.empty()) { state.damage = what.what(); }
    } else {
      throw;
    }
  }
}

void sort_in(Findings& findings, BlockId block, std::uint32_t extents, BlockState const& state) {
  if (state.damage.empty() && state.missing == 0) {
    ++findings.ok;
  } else if (state.damage.empty() && state.missing == extents) {
    findings.missing.push_back(block);
  } else {
    findings.corrupt.push_back(block);
    findings.reasons.push_back(
        !state.damage.empty()
            ? state.damage
            : fmt::format("only {} of {} extents were written", extents - state.missing, extents));
  }
}

Findings verify(layout::PhysicalLayout const& layout, Progress& progress) {
  auto const store = layout.regions().front().store();
  std::uint32_t const extents = layout.extents_per_block();
  std::uint64_t slot_bytes = 0;
  for (std::uint32_t e = 0; e < extents; ++e) {
    slot_bytes =
        std::max(slot_bytes, checked_align_up(layout.extent(0, e).bytes, memory::kFileAlignment));
  }
  std::uint64_t const num_blocks = layout.config().num_blocks();
  std::uint64_t const batch = std::clamp<std::uint64_t>(
      kBatchBytes / checked_mul(slot_bytes, std::uint64_t{extents}), 1, num_blocks);
  memory::AllocationRequest request;
  request.kind = memory::StorageKind::Pinned;
  request.alignment = memory::kFileAlignment;
  request.bytes = checked_mul(checked_mul(batch, std::uint64_t{extents}), slot_bytes);
  auto const memory = layout.source()->allocate(request);
  auto const queue = store->make_queue();
  queue->register_buffer({memory.host_data(), memory.bytes()});

  Findings findings;
  for (std::uint64_t first = 0; first < num_blocks; first += batch) {
    std::uint64_t const count = std::min(batch, num_blocks - first);
    std::vector<memory::ExtentIo> reads;
    for (std::uint64_t i = 0; i < count * extents; ++i) {
      auto const extent =
          layout.extent(first + i / extents, static_cast<std::uint32_t>(i % extents));
      auto const& region = layout.regions()[extent.region];
      reads.push_back(
          {region.store_index(), extent.index, memory.host_data() + i * slot_bytes, slot_bytes});
      findings.bytes += extent.bytes;
    }
    queue->start_read(store, reads);
    auto const errors = queue->finish();
    for (std::uint64_t b = 0; b < count; ++b) {
      BlockState state;
      for (std::uint32_t e = 0; e < extents; ++e) {
        note(state, errors[b * extents + e]);
      }
      sort_in(findings, static_cast<BlockId>(first + b), extents, state);
    }
    progress.update(first + count, fmt::format("{} corrupt", findings.corrupt.size()));
  }
  return findings;
}

std::string list_ids(std::vector<BlockId> const& ids) {
  std::string text;
  for (std::size_t i = 0; i < std::min(ids.size(), kListedIds); ++i) {
    text += fmt::format("{}{}", i == 0 ? "" : ", ", ids[i]);
  }
  if (ids.size() > kListedIds) { text += fmt::format(", ... ({} in all)", ids.size()); }
  return text;
}

int run(std::string const& path, Output const& output) {
  auto const source = device::make_memory_source({});
  auto const layout = layout::PhysicalLayout::open_disk(source, path, memory::OpenMode::ReadOnly);
  Progress progress("verify", layout.config().num_blocks(), output.json);
  Findings findings;
  double const elapsed = seconds([&] { findings = verify(layout, progress); });
  progress.clear();

  output.text(fmt::format("{}: {}", path, layout.to_string()));
  output.text(fmt::format("  ok             {}", findings.ok));
  output.text(fmt::format("  never written  {}{}", findings.missing.size(),
                          findings.missing.empty() ? "" : ": " + list_ids(findings.missing)));
  output.text(fmt::format("  corrupt        {}{}", findings.corrupt.size(),
                          findings.corrupt.empty() ? "" : ": " + list_ids(findings.corrupt)));
  for (std::size_t i = 0; i < std::min(findings.corrupt.size(), kListedIds); ++i) {
    output.text(fmt::format("    block {}: {}", findings.corrupt[i], findings.reasons[i]));
  }
  output.text(fmt::format("  {} in {}", format_bytes(findings.bytes), format_time(elapsed)));
  nlohmann::json corrupt = nlohmann::json::array();
  for (std::size_t i = 0; i < findings.corrupt.size(); ++i) {
    corrupt.push_back({{"block", findings.corrupt[i]}, {"reason", findings.reasons[i]}});
  }
  output.result({{"path", path},
                 {"layout", layout.to_string()},
                 {"blocks", layout.config().num_blocks()},
                 {"ok", findings.ok},
                 {"never_written", findings.missing},
                 {"corrupt", corrupt},
                 {"bytes", findings.bytes},
                 {"seconds", elapsed}});
  return findings.corrupt.empty() ? ExitOk : ExitFinding;
}

}  // namespace

void add_verify(Commands& commands) {
  auto const path = std::make_shared<std::string>();
  auto const output = std::make_shared<Output>();
  auto& verb = commands.add("verify", "compare every block of a disk layout with its checksum",
                            [path, output] { return run(*path, *output); });
  verb.add_option("path", *path, "the data file of a disk layout; opened read-only")->required();
  output->add_to(verb);
}

}  // namespace kvbm::cli
