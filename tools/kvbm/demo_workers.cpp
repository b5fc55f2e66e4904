// SPDX-License-Identifier: Apache-2.0
//
// kvbm demo --workers 2: a prefill process and a decode process, each with a G1 and a G2 of its
// own. Decode takes the blocks out of the prefill worker's G2; then prefill is killed, and decode
// goes on.
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <thread>

#include "demo_tiers.hpp"
#include "exit_code.hpp"
#include "kvbm/core/error.hpp"
#include "kvbm/remote/nixl_library.hpp"
#include "remote_pair.hpp"
#include "worker_tasks.hpp"

namespace kvbm::cli {
namespace {

using nlohmann::json;

constexpr int kTimeoutSeconds = 20;

double seconds_between(json const& from, json const& to) {
  return static_cast<double>(to.get<std::int64_t>() - from.get<std::int64_t>()) * 1e-9;
}

/// How decode reached prefill's G2, and what came of it.
struct Onboarded {
  std::string name;
  std::string how;
  std::string strategy;
  double seconds = 0;      ///< median of all blocks
  double told = 0;         ///< from the start of the notifying write
  double first_block = 0;  ///< likewise, until the first block is there
  std::uint64_t bytes = 0;
  std::uint64_t equal = 0;  ///< blocks
  bool notified_right = false;
};

class Workers {
 public:
  explicit Workers(DemoPlan const& plan)
      : plan_(plan),
        ids_(make_ids_json(IdOrder::Contiguous, plan.num_blocks, plan.num_blocks, 1)),
        prefill_("prefill", Transport{"default"}.environment()),
        decode_("decode", Transport{"default"}.environment()) {
    open(prefill_, "prefill", true);
    add_layout(prefill_, "prefill", "g1", "g1", shape(), plan.num_blocks);
    add_layout(prefill_, "prefill", "g2", "g2", shape(), plan.num_blocks);
    add_layout(prefill_, "prefill", "slip", "system", kSlip, 1);
    for (char const* const name : {"mapped", "wire"}) {
      open(decode_, name, name == std::string("mapped"));
      add_layout(decode_, name, "g1", "g1", shape(), plan.num_blocks);
      add_layout(decode_, name, "g2", "g2", shape(), plan.num_blocks);
      slips_[name] = add_layout(decode_, name, "slip", "system", kSlip, 1);
    }
  }

  /// Fills prefill's cache and offloads it. @return the hop
  Hop offload() {
    prefill_.call(
        {{"do", "fill"}, {"manager", "prefill"}, {"key", "g1"}, {"ids", ids_}, {"seed", 1}});
    expected_ = checksums(prefill_, "prefill");
    auto const moved = prefill_.call({{"do", "move"},
                                      {"manager", "prefill"},
                                      {"src", {{"key", "g1"}}},
                                      {"dst", {{"key", "g2"}}},
                                      {"src_ids", ids_},
                                      {"dst_ids", ids_},
                                      {"rounds", plan_.rounds}});
    Hop hop;
    hop.name = "prefill G1 -> prefill G2";
    hop.blocks = plan_.num_blocks;
    hop.bytes = moved.at("bytes").get<std::uint64_t>();
    hop.seconds = median(moved);
    // What comes later can only come from G2.
    prefill_.call({{"do", "fill"}, {"manager", "prefill"}, {"key", "g1"}, {"ids", ids_}});
    return hop;
  }

  Onboarded onboard(std::string const& manager) {
    Onboarded result;
    result.name = manager;
    auto const prefill = exchange(decode_, manager, prefill_, "prefill");
    exchange(prefill_, "prefill", decode_, manager);
    json const src{{"worker", prefill}, {"tier", "G2"}};
    json const dst{{"key", "g1"}};
    result.how = decode_.call({{"do", "reach"}, {"manager", manager}, {"of", src}}).at("how");
    decode_.call({{"do", "fill"}, {"manager", manager}, {"key", "g1"}, {"ids", ids_}});

    decode_.ask({{"do", "onboard"},
                 {"manager", manager},
                 {"src", src},
                 {"dst", dst},
                 {"ids", ids_},
                 {"timeout_s", kTimeoutSeconds}});
    auto const told = prefill_.call({{"do", "series"},
                                     {"manager", "prefill"},
                                     {"src", {{"key", "slip"}}},
                                     {"dst", slips_.at(manager)},
                                     {"src_ids", {0}},
                                     {"dst_ids", {0}},
                                     {"rounds", 1},
                                     {"options", {{"notify", plan_.num_blocks}}}});
    auto const onboarded = decode_.answer();
    auto const& written = told.at("submitted").at(0);
    result.told = seconds_between(written, onboarded.at("notified"));
    result.first_block = seconds_between(written, onboarded.at("first"));
    result.notified_right =
        onboarded.at("value") == plan_.num_blocks && onboarded.at("from") == prefill;
    auto const found = checksums(decode_, manager);
    for (std::size_t i = 0; i < expected_.size(); ++i) {
      result.equal += found.at(i) == expected_.at(i) ? 1U : 0U;
    }
    auto const moved = decode_.call({{"do", "move"},
                                     {"manager", manager},
                                     {"src", src},
                                     {"dst", dst},
                                     {"src_ids", ids_},
                                     {"dst_ids", ids_},
                                     {"rounds", plan_.rounds}});
    result.bytes = moved.at("bytes").get<std::uint64_t>();
    result.seconds = median(moved);
    result.strategy = moved.at("strategy").get<std::string>();
    sources_[manager] = src;
    return result;
  }

  /// Kills prefill while decode takes blocks from it. @return {code, message, seconds, goes_on}
  json lose_prefill(std::string const& manager) {
    decode_.ask({{"do", "until_failure"},
                 {"manager", manager},
                 {"src", sources_.at(manager)},
                 {"dst", {{"key", "g2"}}},
                 {"src_ids", ids_},
                 {"dst_ids", ids_},
                 {"options", {{"timeout_s", kTimeoutSeconds}}}});
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
    auto const killed = now_ns();
    prefill_.kill();
    auto failure = decode_.answer();
    failure["seconds"] = seconds_between(killed, failure.at("failed"));
    // Decode's own tiers still work, and what it took before is untouched.
    decode_.call({{"do", "move"},
                  {"manager", manager},
                  {"src", {{"key", "g1"}}},
                  {"dst", {{"key", "g2"}}},
                  {"src_ids", ids_},
                  {"dst_ids", ids_}});
    failure["goes_on"] = checksums(decode_, manager, "g2") == expected_;
    return failure;
  }

 private:
  void open(WorkerProcess& process, std::string const& name, bool map) const {
    auto const bytes =
        make_config(plan_.workload, plan_.num_blocks, 1).block_bytes() * plan_.num_blocks;
    process.call({{"do", "open"},
                  {"manager", name},
                  {"agent", fmt::format("demo-{}-{}", name, ::getpid())},
                  {"map", map},
                  {"gpu", plan_.gpu},
                  {"timeout_s", kTimeoutSeconds},
                  {"device_bytes", 2 * bytes + (std::uint64_t{1} << 30U)}});
  }
  [[nodiscard]] json shape() const {
    auto const& w = plan_.workload;
    return {w.layers, w.outer, w.page_size, w.heads, w.head_dim, w.width};
  }
  static json add_layout(WorkerProcess& process, std::string const& manager, std::string const& key,
                         std::string const& tier, json const& shape, std::uint64_t blocks) {
    return process.call({{"do", "layout"},
                         {"manager", manager},
                         {"key", key},
                         {"tier", tier},
                         {"shape", shape},
                         {"blocks", blocks}});
  }
  static std::uint64_t exchange(WorkerProcess& importer, std::string const& into,
                                WorkerProcess& exporter, std::string const& of) {
    auto const metadata = exporter.call({{"do", "export"}, {"manager", of}}).at("metadata");
    return importer.call({{"do", "import"}, {"manager", into}, {"metadata", metadata}})
        .at("worker");
  }
  json checksums(WorkerProcess& process, std::string const& manager,
                 std::string const& key = "g1") const {
    return process.call({{"do", "checksums"}, {"manager", manager}, {"key", key}, {"ids", ids_}})
        .at("checksums");
  }
  static double median(json const& moved) {
    Samples samples;
    for (auto const& value : moved.at("seconds")) {
      samples.add(value.get<double>());
    }
    return samples.median();
  }

  /// One block of 16 bytes: the write that carries the notification.
  inline static json const kSlip{1, 1, 16, 1, 1, 1};
  DemoPlan plan_;
  json ids_;
  WorkerProcess prefill_;
  WorkerProcess decode_;
  json slips_;
  json sources_;
  json expected_;
};

Table make_table(Hop const& offloaded, std::vector<Onboarded> const& onboarded) {
  Table table("hops", "",
              {{"hop", "hop", false},
               {"by", "by", false},
               {"blocks", "blocks"},
               {"bytes", "bytes"},
               {"seconds", "time"},
               {"bytes_per_second", "GB/s"},
               {"told_seconds", "told after"},
               {"first_block_seconds", "first block after"},
               {"equal", "equal"}});
  table.add({offloaded.name, "copy threads", count_cell(offloaded.blocks),
             bytes_cell(offloaded.bytes), time_cell(offloaded.seconds),
             rate_cell(static_cast<double>(offloaded.bytes) / offloaded.seconds), none_cell(),
             none_cell(), none_cell()});
  for (auto const& way : onboarded) {
    table.add({"prefill G2 -> decode G1",
               way.name == "mapped" ? "mapped memory" : "NIXL, " + way.strategy,
               count_cell(offloaded.blocks), bytes_cell(way.bytes), time_cell(way.seconds),
               rate_cell(static_cast<double>(way.bytes) / way.seconds), time_cell(way.told),
               time_cell(way.first_block), count_cell(way.equal)});
  }
  table.note("after: counted from the start of prefill's write that carries the notification");
  return table;
}

}  // namespace

int run_demo_workers(DemoPlan const& plan, std::string const& workload, std::string const& device,
                     Output const& output) {
  KVBM_EXPECTS(!plan.corrupt, InvalidArgument, "--corrupt is for the file of the demo on disk");
  auto const nixl = remote::find_nixl();
  auto const block_bytes = make_config(plan.workload, plan.num_blocks, 1).block_bytes();
  Workers workers(plan);
  output.text(fmt::format("{} blocks of {} ({}), a prefill and a decode process, NIXL {}\n",
                          plan.num_blocks, workload, format_bytes(block_bytes), nixl.version));
  auto const offloaded = workers.offload();
  std::vector<Onboarded> onboarded;
  bool good = true;
  for (char const* const manager : {"mapped", "wire"}) {
    auto const& way = onboarded.emplace_back(workers.onboard(manager));
    good = good && way.equal == plan.num_blocks && way.notified_right;
  }
  auto const table = make_table(offloaded, onboarded);
  output.table(table);
  output.text("  G1 device, layer separate NHD; G2 pinned, UniversalTP; device: " + device);
  json ways = json::array();
  for (auto const& way : onboarded) {
    output.text(fmt::format("  {}: {}", way.name, way.how));
    ways.push_back({{"way", way.name},
                    {"how", way.how},
                    {"strategy", way.strategy},
                    {"seconds", way.seconds},
                    {"bytes", way.bytes},
                    {"told_seconds", way.told},
                    {"first_block_seconds", way.first_block},
                    {"blocks_equal", way.equal},
                    {"notified", way.notified_right}});
  }
  auto const lost = workers.lose_prefill("wire");
  bool const lost_right = lost.at("code") == "PeerLost" && lost.at("seconds") < kTimeoutSeconds &&
                          lost.at("goes_on").get<bool>();
  output.text(fmt::format(
      "  prefill killed: decode's transfer failed with {} after {}: {}; decode's own blocks are {}",
      lost.at("code").get<std::string>(), format_time(lost.at("seconds").get<double>()),
      lost.at("message").get<std::string>(),
      lost.at("goes_on").get<bool>() ? "equal, and it goes on" : "NOT what they were"));
  good = good && lost_right;
  output.text(good ? "\nall equal" : "\nSOMETHING DIFFERS");
  output.result({{"workload", workload},
                 {"blocks", plan.num_blocks},
                 {"device", device},
                 {"nixl", nixl.version},
                 {"offload", offloaded},
                 {"ways", ways},
                 {"lost", lost},
                 {"ok", good}});
  return good ? ExitOk : ExitFinding;
}

}  // namespace kvbm::cli
