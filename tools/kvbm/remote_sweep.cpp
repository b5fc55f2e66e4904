// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <algorithm>

#include "kvbm/core/error.hpp"
#include "remote_pair.hpp"
#include "worker_tasks.hpp"

namespace kvbm::cli {

using nlohmann::json;

namespace {

constexpr char const* kOrders[] = {"contiguous", "runs", "random"};

struct Case {
  std::string transport;
  bool reads = false;
  IdOrder order = IdOrder::Random;
  std::uint64_t run_bytes = 0;
  std::uint64_t blocks = 0;  ///< moved
  std::uint64_t extent = 0;  ///< of the layouts
  bool has_mapped = true;

  [[nodiscard]] std::string key() const { return fmt::format("{}", run_bytes); }
  [[nodiscard]] json near_ids() const { return make_ids_json(order, blocks, extent, 17); }
  [[nodiscard]] json far_ids() const { return make_ids_json(order, blocks, extent, 42); }
  [[nodiscard]] std::string describe() const {
    return fmt::format("{} {} {} x {}", transport, reads ? "read" : "write", blocks,
                       format_bytes(run_bytes));
  }
};

json strategy_of(std::string const& way) {
  if (way == "direct") { return {{"strategy", "DirectRemote"}}; }
  if (way == "staged") { return {{"strategy", "StagedRemote"}}; }
  if (way == "packed") { return {{"strategy", "PackedRemote"}}; }
  return json::object();
}

/// Moves the blocks of a case once, into memory that was wiped, and compares checksums.
void verify(RemotePair& pair, Case const& what, std::string const& way) {
  bool const mapped = way == "mapped";
  char const* const manager = mapped ? "mapped" : "wire";
  auto const checked = [&](WorkerProcess& process, char const* name, json const& ids) {
    return process
        .call({{"do", "checksums"},
               {"manager", name},
               {"key", what.key()},
               {"ids", ids},
               {"fold", true}})
        .at("fold");
  };
  auto const fill = [&](WorkerProcess& process, char const* name, json const& ids, bool wipe) {
    json question{{"do", "fill"}, {"manager", name}, {"key", what.key()}, {"ids", ids}};
    if (!wipe) { question["seed"] = what.reads ? 1 : 2; }
    process.call(question);
  };
  fill(pair.far, "there", what.far_ids(), !what.reads);
  fill(pair.near, manager, what.near_ids(), what.reads);
  json const here{{"key", what.key()}};
  pair.near.call({{"do", "move"},
                  {"manager", manager},
                  {"src", what.reads ? pair.there(what.key()) : here},
                  {"dst", what.reads ? here : pair.there(what.key())},
                  {"src_ids", what.reads ? what.far_ids() : what.near_ids()},
                  {"dst_ids", what.reads ? what.near_ids() : what.far_ids()},
                  {"options", strategy_of(way)}});
  if (checked(pair.far, "there", what.far_ids()) != checked(pair.near, manager, what.near_ids())) {
    throw CorruptError(fmt::format("{}: {} moved something else", what.describe(), way));
  }
}

Samples samples_of(json const& given) {
  Samples samples;
  for (auto const& value : given) {
    samples.add(value.get<double>());
  }
  return samples;
}

/// A case as it was measured; best times, because whatever else runs only ever adds.
class Measured {
 public:
  Measured(Case const& what, json const& answer) : what_(what), answer_(answer) {}

  [[nodiscard]] bool has(char const* way) const { return answer_.at("ways").contains(way); }
  [[nodiscard]] double best(char const* way) const {
    return samples_of(answer_.at("ways").at(way)).best();
  }
  [[nodiscard]] double bytes() const {
    return static_cast<double>(what_.run_bytes) * static_cast<double>(what_.blocks);
  }
  [[nodiscard]] Cell rate(char const* way) const {
    return has(way) ? rate_cell(bytes() / best(way)) : none_cell();
  }
  [[nodiscard]] Cell share(char const* way, char const* limit) const {
    return has(way) && has(limit) ? share_cell(best(limit) / best(way)) : none_cell();
  }
  /// The quickest way over the wire that can be asked for.
  [[nodiscard]] std::string best_forced() const {
    std::string found;
    for (char const* const way : {"direct", "staged", "packed"}) {
      if (found.empty() || best(way) < best(found.c_str())) { found = way; }
    }
    return found;
  }
  [[nodiscard]] double regret() const {
    auto const forced = best_forced();
    auto const chosen = answer_.at("strategy").get<std::string>();
    std::string const way = chosen == "DirectRemote"   ? "direct"
                            : chosen == "StagedRemote" ? "staged"
                                                       : "packed";
    return best(way.c_str()) / best(forced.c_str()) - 1;
  }
  [[nodiscard]] json to_json() const {
    json list = json::array();
    auto const pieces = answer_.at("pieces").get<double>();
    for (auto const& [way, times] : answer_.at("ways").items()) {
      auto const samples = samples_of(times);
      list.push_back({{"transport", what_.transport},
                      {"operation", what_.reads ? "read" : "write"},
                      {"ids", kOrders[static_cast<int>(what_.order)]},
                      {"run_bytes", what_.run_bytes},
                      {"blocks", what_.blocks},
                      {"bytes", bytes()},
                      {"pieces", answer_.at("pieces")},
                      {"way", way},
                      {"best_seconds", samples.best()},
                      {"median_seconds", samples.median()},
                      {"bytes_per_second", bytes() / samples.best()},
                      {"share_of_memcpy", best("memcpy") / samples.best()},
                      {"share_of_nixl", best("nixl") / samples.best()},
                      {"seconds_per_piece", samples.best() / pieces},
                      {"chosen", answer_.at("strategy")}});
    }
    return list;
  }
  [[nodiscard]] json const& answer() const { return answer_; }

 private:
  Case what_;
  json answer_;
};

Measured measure(RemotePair& pair, Case const& what, RemoteOptions const& options) {
  std::vector<std::string> ways{"memcpy", "memcpy2"};
  if (what.has_mapped) { ways.emplace_back("mapped"); }
  ways.insert(ways.end(), {"nixl", "direct", "staged", "packed", "auto"});
  for (auto const& way : ways) {
    if (way.starts_with("memcpy") || way == "nixl") { continue; }
    verify(pair, what, way);
  }
  auto const answer = pair.near.call({{"do", "compare"},
                                      {"reads", what.reads},
                                      {"near", what.key()},
                                      {"far", pair.there(what.key())},
                                      {"near_ids", what.near_ids()},
                                      {"far_ids", what.far_ids()},
                                      {"plain", pair.plain_address(what.key())},
                                      {"ways", ways},
                                      {"repeat", options.repeat},
                                      {"budget", options.budget}});
  return {what, answer};
}

}  // namespace

Table bench_sweep(RemoteOptions const& options, Output const& output, json& cases) {
  Table table(
      "sweep",
      fmt::format("DRAM to DRAM between two processes, {} a transfer out of {}, best of {}",
                  format_bytes(options.bytes), format_bytes(options.area_bytes), options.repeat),
      {{"transport", "transport", false},
       {"operation", "", false},
       {"ids", "ids", false},
       {"run_bytes", "run"},
       {"pieces", "pieces"},
       {"memcpy", "memcpy"},
       {"memcpy2", "2 threads"},
       {"mapped", "mapped"},
       {"mapped_share", "of memcpy"},
       {"nixl", "NIXL"},
       {"direct", "direct"},
       {"staged", "staged"},
       {"packed", "packed"},
       {"auto", "auto"},
       {"chosen", "chosen", false},
       {"regret", "regret"},
       {"share_of_nixl", "of NIXL"},
       {"seconds", "a transfer"},
       {"piece_seconds", "a piece"}});
  std::size_t right = 0;
  std::size_t all = 0;
  for (auto const& transport : options.transports) {
    RemotePair pair(transport);
    for (auto const run : options.runs) {
      pair.add_layout(fmt::format("{}", run), run_shape(run), options.area_bytes / run);
    }
    pair.meet();
    pair.meet_plainly();
    for (auto const run : options.runs) {
      for (auto const order : options.orders) {
        for (bool const reads : {true, false}) {
          Case const what{transport.name,
                          reads,
                          order,
                          run,
                          std::max<std::uint64_t>(1, options.bytes / run),
                          options.area_bytes / run,
                          transport.name == "default"};
          auto const measured = measure(pair, what, options);
          auto const regret = measured.regret();
          ++all;
          right += regret < 0.1 ? 1U : 0U;
          auto const pieces = measured.answer().at("pieces").get<std::uint64_t>();
          table.add({transport.name, reads ? "read" : "write", kOrders[static_cast<int>(order)],
                     bytes_cell(run), count_cell(pieces), measured.rate("memcpy"),
                     measured.rate("memcpy2"), measured.rate("mapped"),
                     measured.share("mapped", "memcpy"), measured.rate("nixl"),
                     measured.rate("direct"), measured.rate("staged"), measured.rate("packed"),
                     measured.rate("auto"), measured.answer().at("strategy").get<std::string>(),
                     share_cell(regret), measured.share("auto", "nixl"),
                     time_cell(measured.best("auto")),
                     time_cell(measured.best("direct") / static_cast<double>(pieces))});
          for (auto& entry : measured.to_json()) {
            cases.push_back(std::move(entry));
          }
          if (!output.json) {
            fmt::print(stderr, "{} {}: memcpy {}, mapped {}, NIXL {}, auto {} ({})\n",
                       what.describe(), kOrders[static_cast<int>(order)],
                       measured.rate("memcpy").text, measured.rate("mapped").text,
                       measured.rate("nixl").text, measured.rate("auto").text,
                       measured.answer().at("strategy").get<std::string>());
          }
        }
      }
    }
  }
  table.note(fmt::format(
      "GB/s of bytes moved. The automatic choice is within 10 % of the best of direct, staged and "
      "packed in {} of {} cases (regret: its distance). A piece: direct, by runs that adjoin.",
      right, all));
  return table;
}

}  // namespace kvbm::cli
