// SPDX-License-Identifier: Apache-2.0
//
// kvbm demo: the library's main job with synthetic blocks. One process offloads the cache of an
// engine G1 -> G2 -> G3 and ends; another one finds the file, brings everything back and proves it.

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <memory>
#include <optional>

#include "command.hpp"
#include "demo_tiers.hpp"
#include "exit_code.hpp"
#include "kvbm/core/error.hpp"
#include "kvbm/core/unique_fd.hpp"
#include "kvbm/memory/block_file.hpp"
#include "process.hpp"
#include "progress.hpp"
#include "shape.hpp"

namespace kvbm::cli {
namespace {

struct DemoOptions {
  ShapeFlags shape;
  DemoPlan plan;
  std::string path;
  std::optional<std::uint64_t> ranks;
  std::string device = "auto";
  std::string device_name;  ///< what G1 lies on, and why
  unsigned workers = 1;
  Output output;
};

/// What the first process leaves behind.
struct Offloaded {
  std::vector<Hop> hops;
  std::vector<std::string> checksums;
  BlockId damaged = 0;
};

/// Flips one bit in the middle of a stored block, behind the library's back.
void flip_bit(std::filesystem::path const& file, std::uint64_t offset) {
  UniqueFd const opened(::open(file.c_str(), O_RDWR | O_CLOEXEC));
  int const fd = opened.get();
  std::uint8_t byte = 0;
  bool const done = fd >= 0 && ::pread(fd, &byte, 1, static_cast<off_t>(offset)) == 1 &&
                    (byte ^= 0x10U, ::pwrite(fd, &byte, 1, static_cast<off_t>(offset)) == 1) &&
                    ::fsync(fd) == 0;
  int const error = errno;
  KVBM_EXPECTS(done, Io,
               fmt::format("cannot flip a bit of {}: {}", file.string(), describe_errno(error)));
}

/// Fill, offload both hops, wipe what is in memory, end: all handles are closed on return.
Offloaded offload(DemoPlan const& plan) {
  Offloaded result;
  std::uint64_t damaged_offset = 0;
  {
    DemoTiers tiers(plan);
    auto& manager = tiers.manager();
    auto const g1 = tiers.add_g1();
    auto const g2 = tiers.add_g2();
    auto const g3 = manager.register_layout(
        make_layout(manager, make_config(plan.workload, plan.num_blocks, memory::kFileAlignment),
                    side_of_tier("g3"), plan.file));
    manager.fill_blocks(g1, tiers.ids(), {transfer::FillPattern::Kind::Hashed, 1});
    tiers.wipe(g2);
    for (auto const& checksum : manager.block_checksums(g1, tiers.ids())) {
      result.checksums.push_back(to_string(checksum));
    }
    result.hops.push_back(tiers.measure("G1 -> G2", g1, g2, tiers.ids()));
    result.hops.push_back(tiers.measure("G2 -> G3", g2, g3, tiers.ids(), "write"));
    manager.sync(g3);
    tiers.wipe(g1);
    tiers.wipe(g2);
    result.damaged = static_cast<BlockId>(plan.num_blocks / 3);
    auto const layout = manager.layout(g3);
    auto const extent = layout.extent(result.damaged, 0);
    damaged_offset =
        layout.regions()[extent.region].store_offset() + extent.offset + extent.bytes / 2;
  }
  if (plan.corrupt) { flip_bit(plan.file, damaged_offset); }
  return result;
}

nlohmann::json onboard_in_new_process(DemoPlan const& plan) {
  auto const& shape = plan.workload;
  std::vector<std::string> arguments{own_path(), "demo-onboard", "--file", plan.file.string()};
  auto const add = [&arguments](char const* flag, std::uint64_t value) {
    arguments.insert(arguments.end(), {flag, fmt::format("{}", value)});
  };
  add("--blocks", plan.num_blocks);
  add("--ranks", plan.ranks);
  add("--rounds", plan.rounds);
  add("--layers", shape.layers);
  add("--outer", shape.outer);
  add("--page-size", shape.page_size);
  add("--heads", shape.heads);
  add("--head-dim", shape.head_dim);
  add("--width", shape.width);
  if (plan.corrupt) { arguments.emplace_back("--corrupt"); }
  if (plan.gpu) { arguments.emplace_back("--gpu"); }
  auto const result = run_process(arguments);
  KVBM_EXPECTS(result.exit_code == ExitOk, Internal,
               fmt::format("the onboarding process ended with exit code {}; its message is above",
                           result.exit_code));
  return nlohmann::json::parse(result.output);
}

/// The checks that the demo stands for.
struct Verdict {
  std::uint64_t equal = 0;
  std::uint64_t different = 0;
  bool refused_right = true;  ///< exactly the damaged block was refused, as corrupt
  bool ranks_equal = true;
  [[nodiscard]] bool good() const { return different == 0 && refused_right && ranks_equal; }
};

Verdict judge(DemoPlan const& plan, Offloaded const& offloaded, nlohmann::json const& onboarded) {
  Verdict verdict;
  auto const arrived = onboarded.at("arrived").get<std::vector<BlockId>>();
  auto const found = onboarded.at("checksums").get<std::vector<std::string>>();
  for (std::size_t i = 0; i < arrived.size(); ++i) {
    ++(found.at(i) == offloaded.checksums.at(arrived[i]) ? verdict.equal : verdict.different);
  }
  auto const& failed = onboarded.at("failed");
  if (plan.corrupt) {
    verdict.refused_right = failed.size() == 1 && failed[0].at("block") == offloaded.damaged &&
                            failed[0].at("code") == "Corrupt" &&
                            arrived.size() + 1 == plan.num_blocks;
  } else {
    verdict.refused_right = failed.empty() && arrived.size() == plan.num_blocks;
  }
  verdict.ranks_equal = onboarded.contains("tp") && onboarded.at("tp").at("equal").get<bool>();
  return verdict;
}

Table hop_table(std::vector<Hop> const& hops) {
  Table table("hops", "",
              {{"hop", "hop", false},
               {"blocks", "blocks"},
               {"bytes", "bytes"},
               {"seconds", "time"},
               {"bytes_per_second", "GB/s"},
               {"share_of_limit", "of the limit"},
               {"limit", "limit, same run", false}});
  for (auto const& hop : hops) {
    table.add({hop.name, count_cell(hop.blocks), bytes_cell(hop.bytes), time_cell(hop.seconds),
               rate_cell(static_cast<double>(hop.bytes) / hop.seconds), share_cell(hop.share),
               hop.limit});
  }
  return table;
}

void print(DemoOptions const& options, Offloaded const& offloaded, nlohmann::json const& onboarded,
           std::vector<Hop> const& hops, Verdict const& verdict) {
  auto const& plan = options.plan;
  auto const& output = options.output;
  auto const block_bytes = make_config(plan.workload, plan.num_blocks, 1).block_bytes();
  output.text(fmt::format("{} blocks of {} ({}), written by one process, read by another\n",
                          plan.num_blocks, options.shape.workload, format_bytes(block_bytes)));
  output.table(hop_table(hops));
  output.text("  G1 device, layer separate NHD; G2 pinned, UniversalTP; G3 " + plan.file.string());
  output.text("  device: " + options.device_name);
  for (auto const& failed : onboarded.at("failed")) {
    output.text(fmt::format("  refused: block {}: {}", failed.at("block").get<BlockId>(),
                            failed.at("message").get<std::string>()));
  }
  output.text(fmt::format(
      "  checksums: {} of {} blocks equal{}", verdict.equal, plan.num_blocks,
      plan.corrupt ? fmt::format("; block {} was damaged on purpose and {}", offloaded.damaged,
                                 verdict.refused_right ? "refused, alone" : "NOT handled rightly")
                   : std::string{}));
  if (onboarded.contains("tp")) {
    output.text(fmt::format(
        "  tensor parallelism: TP=1 blocks onboarded by {} ranks, {} head(s) "
        "each: {}",
        plan.ranks, plan.workload.heads / plan.ranks, verdict.ranks_equal ? "equal" : "DIFFERENT"));
  }
  output.text(!verdict.good() ? "\nSOMETHING DIFFERS"
              : plan.corrupt  ? "\nall other blocks equal"
                              : "\nall equal");
}

/// Takes a GPU where there is one and nothing else is asked for.
void choose_device(DemoOptions& options) {
  KVBM_EXPECTS(options.device == "auto" || options.device == "host" || options.device == "cuda",
               InvalidArgument, fmt::format("--device {}: say auto, host or cuda", options.device));
  auto const why = device::cuda_unavailable_reason();
  if (options.device == "cuda" && !why.empty()) {
    throw UnsupportedError("no CUDA device: " + why);
  }
  options.plan.gpu = options.device != "host" && why.empty();
  options.device_name = options.plan.gpu ? device::make_cuda_device(0)->name()
                        : why.empty()    ? std::string("emulated, as asked for")
                                         : "emulated: no CUDA device: " + why;
}

int run(DemoOptions& options) {
  auto& plan = options.plan;
  choose_device(options);
  plan.workload = options.shape.resolve();
  static_cast<void>(make_config(plan.workload, plan.num_blocks, 1));
  if (options.workers == 2) {
    return run_demo_workers(plan, options.shape.workload, options.device_name, options.output);
  }
  std::uint64_t const heads = plan.workload.heads;
  plan.ranks = options.ranks.value_or(heads % 3 == 0 ? 3 : heads % 2 == 0 ? 2 : 1);
  KVBM_EXPECTS(plan.ranks >= 1 && heads % plan.ranks == 0, InvalidArgument,
               fmt::format("--ranks {}: must divide the {} KV heads", plan.ranks, heads));
  std::optional<TempFolder> folder;
  if (options.path.empty()) {
    folder.emplace();
    plan.file = folder->path() / "demo.kvbm";
  } else {
    plan.file = std::filesystem::absolute(options.path);
  }

  Progress progress("demo", 2, options.output.json);
  progress.update(0, "offloading G1 -> G2 -> G3");
  auto const offloaded = offload(plan);
  progress.update(1, "onboarding G3 -> G2 -> G1 in a new process");
  auto const onboarded = onboard_in_new_process(plan);
  progress.clear();

  auto hops = offloaded.hops;
  for (auto const& hop : onboarded.at("hops")) {
    hops.push_back(hop.get<Hop>());
  }
  Verdict const verdict = judge(plan, offloaded, onboarded);
  print(options, offloaded, onboarded, hops, verdict);
  options.output.result({{"workload", options.shape.workload},
                         {"blocks", plan.num_blocks},
                         {"device", options.device_name},
                         {"gpu", plan.gpu},
                         {"file", plan.file.string()},
                         {"hops", hops},
                         {"blocks_equal", verdict.equal},
                         {"blocks_different", verdict.different},
                         {"failed", onboarded.at("failed")},
                         {"tp", onboarded.value("tp", nlohmann::json())},
                         {"ok", verdict.good()}});
  return verdict.good() ? ExitOk : ExitFinding;
}

}  // namespace

void add_demo(Commands& commands) {
  auto const options = std::make_shared<DemoOptions>();
  options->plan.num_blocks = 128;
  auto& verb = commands.add(
      "demo", "offload synthetic KV blocks to disk, bring them back in a new process, prove it",
      [options] { return run(*options); });
  options->shape.add_to(verb, "smollm2-135m");
  verb.add_option("--blocks", options->plan.num_blocks, "blocks to move")->capture_default_str();
  verb.add_option("--path", options->path,
                  "file for the G3 layout, which must not exist and is kept (default: a temporary "
                  "file)");
  verb.add_option("--ranks", options->ranks,
                  "tensor-parallel ranks that onboard the blocks (default: 3 or 2, what divides "
                  "the heads)");
  verb.add_option("--rounds", options->plan.rounds, "how often hops and limits are measured")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  verb.add_option(
          "--device", options->device,
          "where G1 lies: cuda (a GPU), host (emulated devices), auto: a GPU if there is one")
      ->capture_default_str();
  verb.add_option("--workers", options->workers,
                  "2: a prefill and a decode process instead of a disk, through NIXL; then the "
                  "prefill process is killed")
      ->check(CLI::Range(1, 2))
      ->capture_default_str();
  verb.add_flag("--corrupt", options->plan.corrupt,
                "flip one bit of the stored file: that block must be refused and named, the others "
                "must arrive");
  options->output.add_to(verb);
}

}  // namespace kvbm::cli
