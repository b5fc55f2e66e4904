// SPDX-License-Identifier: Apache-2.0
//
// Tables of the disk tier, of `kvbm bench disk` and `kvbm bench figures`.
#include "disk_tables.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <memory>
#include <optional>

#include "fio.hpp"
#include "kvbm/core/checked.hpp"
#include "kvbm/core/error.hpp"
#include "kvbm/device/direct_storage.hpp"
#include "kvbm/manager/transfer_manager.hpp"
#include "limits.hpp"
#include "measure.hpp"
#include "raw_disk.hpp"
#include "shape.hpp"

namespace kvbm::cli {
namespace {

using memory::DiskEngine;
using Folders = std::vector<std::filesystem::path>;

std::vector<DiskEngine> engines_of(DiskPlan const& plan) {
  if (!plan.engines.empty()) { return plan.engines; }
  std::vector<DiskEngine> engines{memory::make_disk_io()->engine()};
  if (engines.front() != DiskEngine::Threads) { engines.push_back(DiskEngine::Threads); }
  return engines;
}

/// One file, then, where there are several folders, one in each.
std::vector<Folders> sets_of(DiskPlan const& plan) {
  std::vector<Folders> sets{{plan.folders.front()}};
  if (plan.folders.size() > 1) { sets.push_back(plan.folders); }
  return sets;
}

/// An engine with one depth; threads have none.
struct EngineCase {
  DiskEngine engine = DiskEngine::Auto;
  unsigned depth = 64;
};

std::vector<EngineCase> engine_cases(DiskPlan const& plan) {
  std::vector<EngineCase> cases;
  for (auto const engine : engines_of(plan)) {
    for (auto const depth : plan.depths) {
      cases.push_back({engine, depth});
      if (engine == DiskEngine::Threads) { break; }
    }
  }
  return cases;
}

std::uint64_t num_blocks_of(DiskPlan const& plan, DiskShape const& shape) {
  return std::max<std::uint64_t>(1, plan.bytes / make_config(shape.shape, 1, 1).block_bytes());
}

manager::TransferManager make_manager(DiskPlan const& plan, EngineCase const& what) {
  memory::DiskIoOptions io;
  io.engine = what.engine;
  io.queue_depth = what.depth;
  io.num_threads = plan.io_threads;
  auto builder = manager::TransferManager::builder();
  if (plan.gpu) {
    builder.cuda_device_id(0);
  } else {
    builder.host_device(1, checked_add(plan.bytes, std::uint64_t{1} << 30U));
  }
  transfer::TransferCapabilities capabilities;
  capabilities.allow_gds = plan.gds;
  builder.capabilities(capabilities);
  return builder.copy_threads(plan.copy_threads).disk_io(memory::make_disk_io(io)).build();
}

/// Layouts of one shape in G1, G2 and G3, and the same disk without any of kvbm.
/// @param keep_as  name of the files of G3, which stay; empty: they do not
class DiskTiers {
 public:
  DiskTiers(DiskPlan const& plan, manager::TransferManager& manager, DiskShape const& shape,
            Folders const& parents, std::string const& keep_as = {})
      : manager_(manager),
        config_(make_config(shape.shape, num_blocks_of(plan, shape), memory::kFileAlignment)),
        ids_(make_ids(IdOrder::Contiguous, config_.num_blocks(), config_.num_blocks(), 0)) {
    for (auto const& parent : parents) {
      temporary_.push_back(std::make_unique<TempFolder>(parent));
      folders_.push_back(temporary_.back()->path());
    }
    Folders files;
    for (auto const& folder : keep_as.empty() ? folders_ : parents) {
      files.push_back(folder / (keep_as.empty() ? "g3" : keep_as));
    }
    g2_ = manager.register_layout(make_layout(manager, config_, side_of_tier("g2")));
    g3_ = manager.register_layout(make_disk_layout(manager, config_, side_of_tier("g3"), files));
    manager.fill_blocks(g2_, ids_, {transfer::FillPattern::Kind::Hashed, 3});
    raw_.emplace(manager.memory_source()->disk_io(), *manager.memory_source(), folders_,
                 config_.block_bytes(), config_.num_blocks());
  }
  ~DiskTiers() {
    if (g1_) { manager_.unregister_layout(*g1_); }
    manager_.unregister_layout(g2_);
    manager_.unregister_layout(g3_);
  }
  DiskTiers(DiskTiers const&) = delete;
  DiskTiers& operator=(DiskTiers const&) = delete;

  /// As engines keep it.
  [[nodiscard]] layout::LayoutHandle g1() {
    return g1_like(side_of_tier("g1"), config_.with_alignment(1));
  }
  /// Device memory whose blocks lie as in G3.
  [[nodiscard]] layout::LayoutHandle g1_like_g3() {
    Side side = side_of_tier("g3");
    side.storage = memory::StorageKind::Device;
    return g1_like(side, config_);
  }
  [[nodiscard]] layout::LayoutHandle g2() const noexcept { return g2_; }
  [[nodiscard]] layout::LayoutHandle g3() const noexcept { return g3_; }
  [[nodiscard]] Folders const& folders() const noexcept { return folders_; }
  [[nodiscard]] bool is_direct() const noexcept { return raw_->is_direct(); }
  [[nodiscard]] std::uint64_t block_bytes() const { return config_.block_bytes(); }
  [[nodiscard]] std::uint64_t num_blocks() const { return ids_.size(); }
  [[nodiscard]] double bytes() const {
    return static_cast<double>(block_bytes()) * static_cast<double>(num_blocks());
  }

  /// All blocks. @return seconds
  double move(layout::LayoutHandle src, layout::LayoutHandle dst,
              std::optional<transfer::Strategy> strategy = {}) {
    transfer::TransferOptions options;
    options.strategy = strategy;
    return seconds([&] { manager_.execute_transfer(src, ids_, dst, ids_, options).wait(); });
  }
  /// Of moves of all blocks, by their median.
  [[nodiscard]] Cell rate(Samples const& samples) const {
    return rate_cell(bytes() / samples.median());
  }
  /// What as many bytes take without checksums, records and layouts.
  double raw(bool write) {
    return (write ? raw_->write() : raw_->read()) * bytes() / static_cast<double>(raw_->bytes());
  }

 private:
  layout::LayoutHandle g1_like(Side const& side, layout::LayoutConfig const& config) {
    if (!g1_) {
      g1_ = manager_.register_layout(make_layout(manager_, config, side));
      manager_.fill_blocks(*g1_, ids_, {transfer::FillPattern::Kind::Hashed, 3});
    }
    return *g1_;
  }

  manager::TransferManager& manager_;
  layout::LayoutConfig config_;
  std::vector<BlockId> ids_;
  std::vector<std::unique_ptr<TempFolder>> temporary_;
  Folders folders_;
  std::optional<layout::LayoutHandle> g1_;
  layout::LayoutHandle g2_;
  layout::LayoutHandle g3_;
  std::optional<RawDisk> raw_;
};

FioJob fio_job(DiskPlan const& plan, EngineCase const& what, DiskTiers const& tiers) {
  FioJob job;
  job.engine = what.engine;
  job.direct = tiers.is_direct();
  job.depth = what.depth;
  job.threads = plan.io_threads;
  job.block_bytes = checked_align_up(tiers.block_bytes(), memory::kFileAlignment);
  job.blocks = tiers.num_blocks();
  for (auto const& folder : tiers.folders()) {
    job.files.push_back(folder / "fio");
  }
  return job;
}

std::string shell_line(std::vector<std::string> const& arguments) {
  std::string line;
  for (auto const& argument : arguments) {
    line += (line.empty() ? "" : " ") + argument;
  }
  return line;
}

std::string engine_text(EngineCase const& what) {
  return std::string(memory::to_string(what.engine));
}

Cell depth_cell(DiskPlan const& plan, EngineCase const& what) {
  return count_cell(what.engine == DiskEngine::Threads ? plan.io_threads : what.depth);
}

void add_rates(Table& table, DiskPlan const& plan, EngineCase const& what, DiskShape const& shape,
               DiskTiers& tiers, bool write, bool with_fio) {
  auto job = fio_job(plan, what, tiers);
  job.write = write;
  auto const from = write ? tiers.g2() : tiers.g3();
  auto const to = write ? tiers.g3() : tiers.g2();
  if (write) {  // the first write into preallocated room costs the file system more
    tiers.move(from, to);
    tiers.raw(true);
    if (with_fio) { run_fio(job); }
  }
  Rounds raw;
  Rounds fio;
  for (std::size_t i = 0; i < plan.repeat; ++i) {
    plan.step(fmt::format("{} {} {}", shape.name, engine_text(what), write ? "write" : "read"));
    raw.limit.add(tiers.raw(write));
    double const elapsed = tiers.move(from, to);
    raw.candidate.add(elapsed);
    if (with_fio) {
      fio.candidate.add(elapsed);
      fio.limit.add(tiers.bytes() / run_fio(job));
    }
  }
  table.add({shape.name, write ? "G2 -> G3" : "G3 -> G2", engine_text(what), depth_cell(plan, what),
             count_cell(tiers.folders().size()), bytes_cell(tiers.block_bytes()),
             count_cell(tiers.num_blocks()), tiers.rate(raw.candidate),
             with_fio ? tiers.rate(fio.limit) : none_cell(),
             with_fio ? share_cell(fio.share()) : none_cell(), tiers.rate(raw.limit),
             share_cell(raw.share()), "95%"});
}

/// Calls `measure` with a manager for each engine, and each shape.
template <typename Measure>
void for_each_case(DiskPlan const& plan, bool all_depths, Measure&& measure) {
  for (auto const& what : engine_cases(plan)) {
    if (!all_depths && what.depth != plan.depths.front()) { continue; }
    auto manager = make_manager(plan, what);
    for (auto const& shape : plan.shapes) {
      measure(manager, what, shape);
    }
  }
}

/// Both hops of one direction, and both at once.
void add_hops(Table& table, DiskPlan const& plan, EngineCase const& what, DiskShape const& shape,
              DiskTiers& tiers, bool write) {
  auto const g1 = tiers.g1();
  auto const device = [&] {
    return write ? tiers.move(g1, tiers.g2()) : tiers.move(tiers.g2(), g1);
  };
  auto const disk = [&] {
    return write ? tiers.move(tiers.g2(), tiers.g3()) : tiers.move(tiers.g3(), tiers.g2());
  };
  auto const both = [&] { return write ? tiers.move(g1, tiers.g3()) : tiers.move(tiers.g3(), g1); };
  device();
  if (write) { disk(); }
  both();
  Samples device_hop;
  Samples disk_hop;
  Rounds rounds;  // against the slower hop of the same round
  for (std::size_t i = 0; i < plan.repeat; ++i) {
    plan.step(fmt::format("{} {} two hops", shape.name, engine_text(what)));
    device_hop.add(device());
    disk_hop.add(disk());
    rounds.candidate.add(both());
    rounds.limit.add(std::max(device_hop[i], disk_hop[i]));
  }
  table.add({shape.name, write ? "G1 -> G3" : "G3 -> G1", engine_text(what),
             bytes_cell(tiers.block_bytes()), count_cell(tiers.num_blocks()),
             tiers.rate(device_hop), tiers.rate(disk_hop), tiers.rate(rounds.candidate),
             share_cell(rounds.share()), "90%"});
}

/// Seconds that one thread takes to checksum as much as `tiers` moves, block by block, out of
/// memory that no cache holds.
double checksum_seconds(DiskTiers const& tiers, memory::Region const& memory) {
  std::uint64_t const block = tiers.block_bytes();
  std::uint64_t const fitting = std::max<std::uint64_t>(1, memory.bytes() / block);
  return seconds([&] {
    for (std::uint64_t i = 0; i < tiers.num_blocks(); ++i) {
      static_cast<void>(checksum_bytes(memory.host_data() + i % fitting * block, block));
    }
  });
}

}  // namespace

DiskShape disk_shape(std::string const& name) {
  bool const is_number = !name.empty() && name.find_first_not_of("0123456789") == std::string::npos;
  if (!is_number) { return {name, find_workload(name)}; }
  constexpr std::uint64_t kTokens = 16;
  std::uint64_t const bytes = name.size() > 10 ? 0 : std::stoull(name);
  KVBM_EXPECTS(bytes >= kTokens && bytes % kTokens == 0 && bytes <= (std::uint64_t{1} << 30U),
               InvalidArgument,
               fmt::format("a block of {} bytes: say a multiple of 16 up to 1 GiB", name));
  return {format_bytes(bytes), {"bytes", 1, 1, kTokens, 1, bytes / kTokens, 1}};
}

std::uint64_t disk_steps(DiskPlan const& plan) {
  std::uint64_t const rows = 2 * plan.shapes.size() * plan.repeat;
  return rows * (engine_cases(plan).size() * sets_of(plan).size());
}

Table disk_rates(DiskPlan const& plan) {
  bool const with_fio = plan.fio && has_fio();
  Table table("disk",
              fmt::format("Pinned memory to disk and back, checksums included, {} a transfer",
                          format_bytes(plan.bytes)),
              {{"workload", "workload", false},
               {"direction", "direction", false},
               {"engine", "engine", false},
               {"depth", "depth"},
               {"files", "files"},
               {"block_bytes", "block"},
               {"blocks", "blocks"},
               {"bytes_per_second", "GB/s"},
               {"fio_bytes_per_second", "fio GB/s"},
               {"share_of_fio", "of fio"},
               {"raw_bytes_per_second", "raw GB/s"},
               {"share_of_raw", "of raw"},
               {"goal", "goal"}});
  for_each_case(plan, true, [&](auto& manager, EngineCase const& what, DiskShape const& shape) {
    for (auto const& folders : sets_of(plan)) {
      std::string const keep_as = plan.keep
                                      ? fmt::format("kvbm-{}-{}-{}-{}", shape.name,
                                                    engine_text(what), what.depth, folders.size())
                                      : std::string{};
      DiskTiers tiers(plan, manager, shape, folders, keep_as);
      for (bool const write : {true, false}) {
        add_rates(table, plan, what, shape, tiers, write, with_fio);
      }
    }
  });
  FioJob example;
  example.engine = engines_of(plan).front();
  example.depth = plan.depths.front();
  example.block_bytes = std::uint64_t{2} << 20U;
  example.blocks = std::max<std::uint64_t>(1, plan.bytes / example.block_bytes);
  example.files = {"FILE"};
  table.note((with_fio ? "fio, in turns with kvbm: "
                       : "fio is not installed or was left out; its command: ") +
             shell_line(fio_command(example)));
  table.note("raw: the same engine, files and block size without checksums and manifest");
  table.note(fmt::format("medians of {} rounds in turns", plan.repeat));
  return table;
}

Table disk_hops(DiskPlan const& plan) {
  Table table(
      "hops",
      fmt::format("Two hops, G1 on {}, against the slower one alone, {} a transfer",
                  plan.gpu ? "CUDA device 0" : "an emulated device", format_bytes(plan.bytes)),
      {{"workload", "workload", false},
       {"direction", "direction", false},
       {"engine", "engine", false},
       {"block_bytes", "block"},
       {"blocks", "blocks"},
       {"device_bytes_per_second", "G1-G2 GB/s"},
       {"disk_bytes_per_second", "G2-G3 GB/s"},
       {"bytes_per_second", "both GB/s"},
       {"share", "of the slower"},
       {"goal", "goal"}});
  for_each_case(plan, false, [&](auto& manager, EngineCase const& what, DiskShape const& shape) {
    DiskTiers tiers(plan, manager, shape, sets_of(plan).front());
    for (bool const write : {true, false}) {
      add_hops(table, plan, what, shape, tiers, write);
    }
  });
  table.note(
      fmt::format("medians of {} rounds in turns; G1 is layer separate NHD, G3 fully "
                  "contiguous UniversalTP",
                  plan.repeat));
  return table;
}

Table disk_gds(DiskPlan const& without) {
  DiskPlan plan = without;
  plan.gds = true;
  Table table("gds",
              fmt::format("GPUDirect Storage against pinned staging, {} a transfer",
                          format_bytes(plan.bytes)),
              {{"workload", "workload", false},
               {"direction", "direction", false},
               {"block_bytes", "block"},
               {"blocks", "blocks"},
               {"staged_bytes_per_second", "staged GB/s"},
               {"bytes_per_second", "GDS GB/s"},
               {"share", "of staged"}});
  auto const& info = device::direct_storage()->info();
  table.note(fmt::format("GPUDirect Storage: {}: {}", device::to_string(info.mode), info.reason));
  if (!plan.gpu || info.mode == device::DirectStorageMode::Refused) {
    table.note(plan.gpu ? "nothing to measure" : "nothing to measure without --device cuda");
    return table;
  }
  for_each_case(plan, false, [&](auto& manager, EngineCase const& what, DiskShape const& shape) {
    if (what.engine != engines_of(plan).front()) { return; }  // GDS has its own
    DiskTiers tiers(plan, manager, shape, sets_of(plan).front());
    for (bool const write : {true, false}) {
      auto const g1 = tiers.g1_like_g3();
      auto const move = [&](std::optional<transfer::Strategy> strategy) {
        return write ? tiers.move(g1, tiers.g3(), strategy) : tiers.move(tiers.g3(), g1, strategy);
      };
      move({});
      Rounds rounds;
      for (std::size_t i = 0; i < plan.repeat; ++i) {
        plan.step(fmt::format("{} GPUDirect Storage", shape.name));
        rounds.limit.add(move(transfer::Strategy::StagedFile));
        rounds.candidate.add(move(transfer::Strategy::DirectStorage));
      }
      table.add({shape.name, write ? "G1 -> G3" : "G3 -> G1", bytes_cell(tiers.block_bytes()),
                 count_cell(tiers.num_blocks()), tiers.rate(rounds.limit),
                 tiers.rate(rounds.candidate), share_cell(rounds.share())});
    }
  });
  table.note(fmt::format("medians of {} rounds in turns; both sides fully contiguous UniversalTP",
                         plan.repeat));
  return table;
}

Table disk_verify(DiskPlan const& plan) {
  Table table("verify",
              fmt::format("What verifying costs a read, {} a transfer", format_bytes(plan.bytes)),
              {{"workload", "workload", false},
               {"engine", "engine", false},
               {"block_bytes", "block"},
               {"bytes_per_second", "verified GB/s"},
               {"raw_bytes_per_second", "raw GB/s"},
               {"share", "of raw"},
               {"checksum_bytes_per_second", "XXH3 GB/s"},
               {"extra_seconds", "more a block"},
               {"checksum_seconds", "XXH3 a block"}});
  for_each_case(plan, false, [&](auto& manager, EngineCase const& what, DiskShape const& shape) {
    DiskTiers tiers(plan, manager, shape, sets_of(plan).front());
    tiers.move(tiers.g2(), tiers.g3());
    memory::AllocationRequest request;
    request.bytes = std::max(tiers.block_bytes(), std::uint64_t{128} << 20U);
    auto const memory = manager.memory_source()->allocate(request);
    std::fill_n(memory.host_data(), memory.bytes(), std::byte{1});
    tiers.raw(false);
    Rounds rounds;
    Samples checksums;
    for (std::size_t i = 0; i < plan.repeat; ++i) {
      plan.step(fmt::format("{} {} verify", shape.name, engine_text(what)));
      rounds.limit.add(tiers.raw(false));
      rounds.candidate.add(tiers.move(tiers.g3(), tiers.g2()));
      checksums.add(checksum_seconds(tiers, memory));
    }
    auto const blocks = static_cast<double>(tiers.num_blocks());
    double const extra = rounds.candidate.median() - rounds.limit.median();
    table.add({shape.name, engine_text(what), bytes_cell(tiers.block_bytes()),
               tiers.rate(rounds.candidate), tiers.rate(rounds.limit), share_cell(rounds.share()),
               rate_cell(tiers.bytes() / checksums.median()),
               extra > 0 ? time_cell(extra / blocks) : Cell("none", 0.0),
               time_cell(checksums.median() / blocks)});
  });
  table.note(
      "XXH3: one thread alone over memory that no cache holds; a read checksums blocks while "
      "others are under way, so that it costs less than that");
  return table;
}

}  // namespace kvbm::cli
