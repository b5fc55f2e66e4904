// SPDX-License-Identifier: Apache-2.0
//
// Figures that are rates: copies, disk, checksums.

#include <fmt/format.h>

#include <algorithm>
#include <optional>

#include "bench_case.hpp"
#include "figures.hpp"
#include "fio.hpp"
#include "kvbm/core/checked.hpp"
#include "limits.hpp"
#include "raw_disk.hpp"

namespace kvbm::cli {
namespace {

using layout::KvBlockLayout;

constexpr double kEnoughSeconds = 30;

manager::TransferManager make_manager(FigureOptions const& options, memory::DiskEngine engine) {
  memory::DiskIoOptions io;
  io.engine = engine;
  return manager::TransferManager::builder()
      .copy_threads(options.threads)
      .disk_io(memory::make_disk_io(io))
      .build();
}

std::uint64_t blocks_for(Workload const& workload, std::uint64_t bytes) {
  return std::max<std::uint64_t>(1, bytes / make_config(workload, 1, 1).block_bytes());
}

/// One workload written and read, kvbm and fio in turns.
class DiskComparison {
 public:
  DiskComparison(FigureOptions const& options, manager::TransferManager& manager,
                 std::string const& workload)
      : options_(options),
        manager_(manager),
        shape_(find_workload(workload)),
        num_blocks_(blocks_for(shape_, options.disk_bytes)),
        folder_(options.folder),
        config_(make_config(shape_, num_blocks_, memory::kFileAlignment)),
        memory_(manager.register_layout(make_layout(manager, config_, side_of_tier("g2")))),
        file_(manager.register_layout(
            make_layout(manager, config_, side_of_tier("g3"), folder_.path() / "kvbm"))),
        ids_(make_ids(IdOrder::Contiguous, num_blocks_, num_blocks_, 0)),
        raw_(manager.memory_source()->disk_io(), *manager.memory_source(), folder_.path(),
             config_.block_bytes(), num_blocks_) {
    manager_.fill_blocks(memory_, ids_, {transfer::FillPattern::Kind::Hashed, 3});
    job_.engine = manager.memory_source()->disk_io()->engine();
    job_.direct = raw_.is_direct();
    job_.depth = manager.memory_source()->disk_io()->options().queue_depth;
    job_.threads = manager.memory_source()->disk_io()->options().num_threads;
    job_.block_bytes = checked_align_up(config_.block_bytes(), memory::kFileAlignment);
    job_.blocks = num_blocks_;
    job_.file = folder_.path() / "fio";
  }

  ~DiskComparison() {
    manager_.unregister_layout(memory_);
    manager_.unregister_layout(file_);
  }
  DiskComparison(DiskComparison const&) = delete;
  DiskComparison& operator=(DiskComparison const&) = delete;

  void add_rows(Table& table, std::string const& workload, bool with_fio) {
    for (bool const write : {true, false}) {
      job_.write = write;
      measure(table, workload, write, with_fio);
    }
  }

 private:
  double transfer(bool write) {
    return seconds([&] {
      (write ? manager_.execute_transfer(memory_, ids_, file_, ids_)
             : manager_.execute_transfer(file_, ids_, memory_, ids_))
          .wait();
    });
  }

  void measure(Table& table, std::string const& workload, bool write, bool with_fio) {
    auto const raw = [&] { return write ? raw_.write() : raw_.read(); };
    if (write) {  // the first write into preallocated room costs the file system more
      transfer(true);
      raw();
      if (with_fio) { run_fio(job_); }
    }
    Rounds against_raw;
    Rounds against_fio;
    auto const bytes = static_cast<double>(config_.block_bytes() * num_blocks_);
    for (std::size_t i = 0; i < options_.disk_repeat; ++i) {
      options_.step(fmt::format("{} {} {}", workload, memory::to_string(job_.engine),
                                write ? "write" : "read"));
      against_raw.limit.add(raw() * bytes / static_cast<double>(raw_.bytes()));
      double const elapsed = transfer(write);
      against_raw.candidate.add(elapsed);
      if (with_fio) {
        against_fio.candidate.add(elapsed);
        against_fio.limit.add(bytes / run_fio(job_));
      }
    }
    auto const rate = [bytes](Samples const& samples) {
      return rate_cell(bytes / samples.median());
    };
    table.add({workload, write ? "G2 -> G3" : "G3 -> G2",
               std::string(memory::to_string(job_.engine)), bytes_cell(config_.block_bytes()),
               count_cell(num_blocks_), rate(against_raw.candidate),
               with_fio ? rate(against_fio.limit) : none_cell(),
               with_fio ? share_cell(against_fio.share()) : none_cell(), rate(against_raw.limit),
               share_cell(against_raw.share()), "95%"});
  }

  FigureOptions const& options_;
  manager::TransferManager& manager_;
  Workload shape_;
  std::uint64_t num_blocks_;
  TempFolder folder_;
  layout::LayoutConfig config_;
  layout::LayoutHandle memory_;
  layout::LayoutHandle file_;
  std::vector<BlockId> ids_;
  RawDisk raw_;
  FioJob job_;
};

std::string shell_line(std::vector<std::string> const& arguments) {
  std::string line;
  for (auto const& argument : arguments) {
    line += (line.empty() ? "" : " ") + argument;
  }
  return line;
}

}  // namespace

Table figure_copy(FigureOptions const& options) {
  auto manager = make_manager(options, memory::DiskEngine::Auto);
  Table table(
      "copy",
      fmt::format("Host to host against a STREAM-style copy, {} threads, {} a transfer, "
                  "random block ids",
                  manager.context().copy_engine().num_threads(), format_bytes(options.bytes)),
      {{"workload", "workload", false},
       {"what", "what", false},
       {"run_bytes", "shortest run"},
       {"bytes_per_second", "GB/s"},
       {"stream_bytes_per_second", "STREAM GB/s"},
       {"share", "share"},
       {"goal", "goal"}});
  struct Pair {
    KvBlockLayout src;
    KvBlockLayout dst;
    char const* goal;
  };
  std::array<Pair, 4> const pairs{{
      {KvBlockLayout::OperationalNHD, KvBlockLayout::OperationalNHD, "95%"},
      {KvBlockLayout::OperationalNHD, KvBlockLayout::UniversalTP, "80%"},
      {KvBlockLayout::UniversalTP, KvBlockLayout::OperationalNHD, "80%"},
      {KvBlockLayout::OperationalNHD, KvBlockLayout::OperationalHND, "80%"},
  }};
  for (char const* const name :
       {"llama3-8b", "llama3-70b-tp8", "qwen3-32b-tp4", "deepseek-v3-mla", "smollm2-135m"}) {
    for (auto const& pair : pairs) {
      BenchCase bench;
      bench.shape = find_workload(name);
      bool const one_head = bench.shape.heads == 1;
      if (one_head && pair.src != pair.dst) { continue; }  // all formats are the same bytes
      bench.src.format = pair.src;
      bench.dst.format = pair.dst;
      bench.num_blocks = blocks_for(bench.shape, options.bytes);
      bench.repeat = options.repeat;
      bench.budget_seconds = kEnoughSeconds;
      auto const what = fmt::format("{} -> {}", describe(bench.src), describe(bench.dst));
      options.step(fmt::format("{} {}", name, what));
      auto const result = run_case(manager, bench, options.folder);
      double const rate = static_cast<double>(result.bytes) / result.p50;
      auto const config = make_config(bench.shape, 1, 1);
      std::uint64_t const run = pair.src == pair.dst
                                    ? config.block_bytes()
                                    : config.head_dim() * config.dtype_width_bytes();
      table.add({name, what, bytes_cell(run), rate_cell(rate), rate_cell(rate / result.share),
                 share_cell(result.share), pair.goal});
    }
  }
  return table;
}

Table figure_disk(FigureOptions const& options) {
  bool const with_fio = options.fio && has_fio();
  Table table("disk",
              fmt::format("Pinned memory to disk and back, checksums included, {} a transfer",
                          format_bytes(options.disk_bytes)),
              {{"workload", "workload", false},
               {"direction", "direction", false},
               {"engine", "engine", false},
               {"block_bytes", "block"},
               {"blocks", "blocks"},
               {"bytes_per_second", "GB/s"},
               {"fio_bytes_per_second", "fio GB/s"},
               {"share_of_fio", "of fio"},
               {"raw_bytes_per_second", "raw GB/s"},
               {"share_of_raw", "of raw"},
               {"goal", "goal"}});
  auto const own = memory::make_disk_io()->engine();
  std::vector<memory::DiskEngine> engines{own};
  if (own != memory::DiskEngine::Threads) { engines.push_back(memory::DiskEngine::Threads); }
  for (auto const engine : engines) {
    auto manager = make_manager(options, engine);
    for (char const* const workload : {"llama3-8b", "smollm2-135m"}) {
      DiskComparison(options, manager, workload).add_rows(table, workload, with_fio);
    }
  }
  FioJob example;
  example.engine = own;
  example.block_bytes = std::uint64_t{2} << 20U;
  example.blocks = options.disk_bytes / example.block_bytes;
  example.file = "FILE";
  table.note(with_fio ? "fio, in turns with kvbm: " + shell_line(fio_command(example))
                      : "fio is not installed or was left out; its command: " +
                            shell_line(fio_command(example)));
  table.note("raw: the same engine, file size and block size without checksums and manifest");
  return table;
}

Table figure_checksum(FigureOptions const& options) {
  auto manager = make_manager(options, memory::DiskEngine::Auto);
  auto const shape = find_workload("llama3-8b");
  auto const num_blocks = blocks_for(shape, options.bytes);
  Table table(
      "checksum",
      fmt::format("Block checksums against a plain read of as much memory, {} threads, {}",
                  manager.context().copy_engine().num_threads(), format_bytes(options.bytes)),
      {{"what", "what", false},
       {"bytes_per_second", "GB/s"},
       {"read_bytes_per_second", "plain read GB/s"},
       {"share", "share"},
       {"goal", "goal"}});
  MemoryLimits limits(manager.context().copy_engine(), *manager.memory_source(), options.bytes);
  for (char const* const tier : {"system", "g2", "g1"}) {
    auto const side = side_of_tier(tier);
    auto const layout =
        manager.register_layout(make_layout(manager, make_config(shape, num_blocks, 1), side));
    auto const ids = make_ids(IdOrder::Contiguous, num_blocks, num_blocks, 0);
    manager.fill_blocks(layout, ids, {transfer::FillPattern::Kind::Hashed, 3});
    options.step(describe(side));
    auto const bytes = manager.layout(layout).config().block_bytes() * num_blocks;
    auto const rounds = in_turns(
        options.repeat, kEnoughSeconds,
        [&] { return seconds([&] { static_cast<void>(manager.block_checksums(layout, ids)); }); },
        [&] {
          return limits.plain_read() * static_cast<double>(bytes) /
                 static_cast<double>(limits.bytes());
        });
    table.add({fmt::format("{} {}", memory::to_string(side.storage), describe(side)),
               rate_cell(static_cast<double>(bytes) / rounds.candidate.median()),
               rate_cell(static_cast<double>(bytes) / rounds.limit.median()),
               share_cell(rounds.share()), "80%"});
    manager.unregister_layout(layout);
  }
  return table;
}

}  // namespace kvbm::cli
