// SPDX-License-Identifier: Apache-2.0
//
// Which cases there are, and their tables.

#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "gpu_sections.hpp"

namespace kvbm::cli {
namespace {

/// Run lengths from 2 to 82 KiB first; then the rest.
constexpr std::array<char const*, 10> kOrder{
    "llama3-8b",   "llama3-70b-tp8",  "deepseek-v3-mla-fp8", "qwen3-32b-tp4", "smollm2-135m",
    "llama3.2-1b", "deepseek-v3-mla", "llama3-70b-tp1",      "gpt-oss-120b",  "qwen3-30b-a3b"};
constexpr std::size_t kMain = 3;

GpuCase make_case(GpuSections const& sections, std::string const& workload, GpuRoute route,
                  FarSide far) {
  GpuCase what;
  what.route = route;
  what.workload = workload;
  what.shape = find_workload(workload);
  what.far = far;
  what.blocks = blocks_for(sections.lab, what.shape, what.route, sections.bytes);
  return what;
}

constexpr std::array<FarSide, 3> kFarSides{FarSide::Contiguous, FarSide::Universal,
                                           FarSide::Scattered};

void add_links(GpuSections const& sections, std::string const& workload,
               std::vector<GpuCase>& cases) {
  for (auto const far : kFarSides) {
    cases.push_back(make_case(sections, workload, GpuRoute::D2H, far));
    cases.push_back(make_case(sections, workload, GpuRoute::H2D, far));
  }
}

void add_rest(GpuSections const& sections, std::string const& workload,
              std::vector<GpuCase>& cases) {
  for (auto const far : {FarSide::Scattered, FarSide::Universal}) {
    cases.push_back(make_case(sections, workload, GpuRoute::D2D, far));
  }
  for (auto const far : kFarSides) {
    cases.push_back(make_case(sections, workload, GpuRoute::Both, far));
  }
}

Cell rate_or_none(GpuWay const* way) {
  return way == nullptr ? none_cell() : rate_cell(way->rate());
}

}  // namespace

std::vector<GpuCase> core_cases(GpuSections const& sections) {
  std::vector<GpuCase> cases;
  for (std::size_t i = 0; i < kMain; ++i) {
    add_links(sections, kOrder[i], cases);
    add_rest(sections, kOrder[i], cases);
  }
  for (std::size_t i = kMain; i < kOrder.size(); ++i) {
    add_links(sections, kOrder[i], cases);
  }
  for (std::size_t i = kMain; i < kOrder.size(); ++i) {
    add_rest(sections, kOrder[i], cases);
  }
  return cases;
}

std::vector<GpuCase> sweep_cases(GpuSections const& sections) {
  std::vector<GpuCase> cases;
  auto const add = [&cases](GpuCase what) {
    what.baselines = false;
    cases.push_back(std::move(what));
  };
  for (std::uint64_t const blocks : {1U, 16U, 256U, 4096U}) {
    for (char const* const workload : {"llama3-8b", "llama3-70b-tp8", "smollm2-135m"}) {
      for (auto const route : {GpuRoute::D2H, GpuRoute::H2D}) {
        for (auto const far : {FarSide::Universal, FarSide::Contiguous}) {
          auto what = make_case(sections, workload, route, far);
          what.blocks = blocks;
          add(what);
        }
      }
    }
  }
  for (auto const ids : {IdOrder::Contiguous, IdOrder::Runs}) {
    for (std::size_t i = 0; i < kMain; ++i) {
      for (auto const route : {GpuRoute::D2H, GpuRoute::H2D, GpuRoute::D2D}) {
        for (auto const far : kFarSides) {
          auto what = make_case(sections, kOrder[i], route, far);
          what.ids = ids;
          add(what);
        }
      }
    }
  }
  for (std::size_t i = 0; i < kOrder.size(); ++i) {
    std::string const name = kOrder[i];
    if (name.size() > 4 && name.compare(name.size() - 4, 4, "-fp8") == 0) { continue; }
    std::vector<GpuCase> fp8;
    add_links(sections, name + "-fp8", fp8);
    for (auto const& what : fp8) {
      add(what);
    }
  }
  for (std::size_t i = 0; i < kMain; ++i) {
    for (auto const route : {GpuRoute::D2H, GpuRoute::H2D, GpuRoute::D2D}) {
      for (auto const far : kFarSides) {
        auto what = make_case(sections, kOrder[i], route, far);
        what.gpu_kind = "ls";
        add(what);
      }
    }
  }
  for (std::uint64_t const tokens : {32U, 64U, 128U}) {
    for (auto const route : {GpuRoute::D2H, GpuRoute::H2D}) {
      for (auto const far : {FarSide::Universal, FarSide::Scattered}) {
        auto what = make_case(sections, "llama3-70b-tp8", route, far);
        what.shape.page_size = tokens;
        what.blocks = blocks_for(sections.lab, what.shape, what.route, sections.bytes);
        add(what);
      }
    }
  }
  return cases;
}

Table rate_table(std::vector<GpuResult> const& results) {
  Table table(
      "rates",
      "GPU transfers: layer-separate NHD on the GPU, the other side as named; GB/s of bytes "
      "moved, median; limit: contiguous cudaMemcpyAsync of as many bytes, in turns",
      {{"direction", "direction", false},
       {"workload", "workload", false},
       {"gpu_layout", "GPU", false},
       {"far_side", "other side", false},
       {"ids", "ids", false},
       {"blocks", "blocks"},
       {"bytes", "bytes"},
       {"run_bytes", "run"},
       {"limit", "limit"},
       {"bytes_per_second", "kvbm"},
       {"share", "share"},
       {"strategy", "chosen", false},
       {"best", "best candidate", false},
       {"regret", "slower by"},
       {"spare_share", "SpareSms"},
       {"spare_strategy", "chosen", false},
       {"p50_seconds", "p50"},
       {"p99_seconds", "p99"},
       {"cpu_seconds", "CPU"},
       {"submit_seconds", "submit"},
       {"loop", "Async each"},
       {"batch", "BatchAsync"},
       {"kernel", "CTA kernel"}});
  for (auto const& result : results) {
    auto const* const chosen = result.automatic(false);
    if (chosen == nullptr) { continue; }
    auto const* const spare = result.automatic(true);
    auto const* const best = result.best_candidate();
    auto const regret = result.regret();
    auto const json = to_json(result);
    table.add(
        {json.at("direction").get<std::string>(),
         result.what.workload,
         result.what.gpu_kind,
         to_string(result.what.far),
         json.at("ids").get<std::string>(),
         count_cell(result.what.blocks),
         bytes_cell(result.bytes),
         bytes_cell(result.run_bytes),
         rate_cell(result.limit_rate()),
         rate_cell(chosen->rate()),
         Cell(fmt::format("{:.1f}%", 100 * chosen->rate() / result.limit_rate()),
              chosen->rate() / result.limit_rate()),
         chosen->strategy,
         best != nullptr ? Cell(best->strategy) : none_cell(),
         regret ? Cell(fmt::format("{:.1f}%", 100 * std::max(0.0, *regret)), *regret) : none_cell(),
         spare != nullptr ? share_cell(spare->rate() / result.limit_rate()) : none_cell(),
         spare != nullptr ? Cell(spare->strategy) : none_cell(),
         time_cell(chosen->wall.median()),
         time_cell(chosen->wall.percentile(0.99)),
         time_cell(chosen->cpu.median()),
         time_cell(chosen->submit_prepared.median()),
         rate_or_none(result.named("cudaMemcpyAsync each")),
         rate_or_none(result.named("cudaMemcpyBatchAsync")),
         rate_or_none(result.named("CTA-per-chunk kernel"))});
  }
  table.note("bytes of every row were compared after a transfer by each way");
  return table;
}

Table regret_table(std::vector<GpuResult> const& results) {
  Table table("regret", "Automatic choice against the best candidate of the same run",
              {{"case", "case", false},
               {"chosen", "chosen", false},
               {"chosen_seconds", "p50"},
               {"best", "best", false},
               {"best_seconds", "p50"},
               {"regret", "slower by"}});
  std::size_t total = 0;
  std::size_t within = 0;
  for (auto const& result : results) {
    auto const regret = result.regret();
    if (!regret) { continue; }
    ++total;
    if (*regret <= 0.05) {
      ++within;
      continue;
    }
    auto const* const chosen = result.automatic(false);
    auto const* const best = result.best_candidate();
    table.add({result.what.name(), chosen->strategy, time_cell(chosen->wall.median()),
               best->strategy, time_cell(best->wall.median()),
               Cell(fmt::format("{:.1f}%", *regret * 100), *regret)});
  }
  table.note(total == 0
                 ? std::string("no case measured")
                 : fmt::format("within 5% of the best candidate: {} of {} cases ({:.0f}%); "
                               "goal 95%; the others are the rows",
                               within, total,
                               100.0 * static_cast<double>(within) / static_cast<double>(total)));
  return table;
}

std::string to_csv(std::vector<GpuResult> const& results) {
  std::string text =
      "direction,workload,gpu_layout,far_side,ids,page_size,blocks,bytes,run_bytes,limit_gbps,way,"
      "strategy,automatic,spare,rounds,gbps,best_gbps,share_of_limit,p50_us,p99_us,cpu_us,"
      "submit_prepared_us,submit_fresh_us,verified,skipped\n";
  auto const number = [](nlohmann::json const& row, char const* key, double scale) {
    auto const found = row.find(key);
    return found == row.end() || !found->is_number()
               ? std::string{}
               : fmt::format("{:.4g}", found->get<double>() * scale);
  };
  for (auto const& result : results) {
    auto const json = to_json(result);
    auto const head =
        fmt::format("{},{},{},{},{},{},{},{},{},{:.2f}", json.at("direction").get<std::string>(),
                    result.what.workload, result.what.gpu_kind, to_string(result.what.far),
                    json.at("ids").get<std::string>(), result.what.shape.page_size,
                    result.what.blocks, result.bytes, result.run_bytes, result.limit_rate() / 1e9);
    for (auto const& way : json.at("ways")) {
      text +=
          fmt::format("{},{},{},{},{},{},{},{},{},{},{},{},{},{},{},{}\n", head,
                      way.at("name").get<std::string>(), way.at("strategy").get<std::string>(),
                      way.at("automatic").get<bool>() ? 1 : 0, way.at("spare").get<std::string>(),
                      way.at("rounds").get<std::size_t>(), number(way, "bytes_per_second", 1e-9),
                      number(way, "best_bytes_per_second", 1e-9), number(way, "share_of_limit", 1),
                      number(way, "p50_seconds", 1e6), number(way, "p99_seconds", 1e6),
                      number(way, "cpu_seconds", 1e6), number(way, "submit_prepared_seconds", 1e6),
                      number(way, "submit_fresh_seconds", 1e6),
                      way.at("verified").get<bool>() ? 1 : 0, way.value("skipped", ""));
    }
  }
  return text;
}

std::string summary_line(GpuResult const& result) {
  std::string line = fmt::format("{:<52} {:>9} run {:>9} limit {:7.1f} |", result.what.name(),
                                 format_bytes(result.bytes), format_bytes(result.run_bytes),
                                 result.limit_rate() / 1e9);
  for (auto const& way : result.ways) {
    std::string name = way.is_kvbm() ? way.strategy : way.name;
    if (way.is_kvbm() && way.automatic) { name.insert(0, "auto="); }
    if (way.spare_sms) { name += "(spare)"; }
    line += way.measured() ? fmt::format(" {} {:.1f}", name, way.rate() / 1e9)
                           : fmt::format(" {} -", name);
  }
  return line;
}

}  // namespace kvbm::cli
