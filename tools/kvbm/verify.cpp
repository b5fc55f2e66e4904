// SPDX-License-Identifier: Apache-2.0
//
// kvbm verify: reads everything that a disk store holds and compares it with its checksums.

#include <fmt/format.h>

#include <algorithm>
#include <memory>

#include "command.hpp"
#include "exit_code.hpp"
#include "kvbm/core/error.hpp"
#include "kvbm/device/device.hpp"
#include "kvbm/memory/striped_file.hpp"
#include "measure.hpp"
#include "progress.hpp"
#include "report.hpp"
#include "verify_store.hpp"

namespace kvbm::cli {
namespace {

constexpr std::size_t kListed = 20;

struct Options {
  std::string path;
  bool strict = false;
  Output output;
};

std::string list(std::vector<std::uint64_t> const& ids) {
  if (ids.empty()) { return "0"; }
  std::string text = fmt::format("{}: {}", ids.size(), ids.front());
  for (std::size_t i = 1; i < std::min(ids.size(), kListed); ++i) {
    text += fmt::format(", {}", ids[i]);
  }
  return ids.size() > kListed ? text + ", ..." : text;
}

std::vector<std::uint64_t> ids_of(std::vector<Findings::Damage> const& damaged) {
  std::vector<std::uint64_t> ids;
  ids.reserve(damaged.size());
  for (auto const& damage : damaged) {
    ids.push_back(damage.unit);
  }
  return ids;
}

std::vector<std::shared_ptr<memory::BlockFile>> files_of(
    std::shared_ptr<memory::BlockStore> const& store) {
  if (auto const set = std::dynamic_pointer_cast<memory::StripedFile>(store)) {
    return set->parts();
  }
  if (auto const file = std::dynamic_pointer_cast<memory::BlockFile>(store)) { return {file}; }
  return {};
}

void print_text(Options const& options, StoreUnits const& units, Findings const& findings,
                double elapsed) {
  auto const& output = options.output;
  output.text(fmt::format("{}: {}", options.path,
                          units.layout ? units.layout->to_string()
                                       : "no layout, single extents: " + units.why_no_layout));
  auto const files = files_of(units.store);
  for (auto const& file : files) {
    auto const space = file->space();
    if (files.size() > 1) {
      output.text(fmt::format("  part           {}: {} of {} extents written, {}",
                              file->path().string(), space.extents_written, space.extents_total,
                              file->direct_reason()));
    }
  }
  output.text(fmt::format("  ok             {}", findings.ok));
  output.text(fmt::format("  never written  {}", list(findings.missing)));
  output.text(fmt::format("  torn           {}", list(findings.torn)));
  output.text(fmt::format("  corrupt        {}", list(ids_of(findings.damaged))));
  for (std::size_t i = 0; i < std::min(findings.damaged.size(), kListed); ++i) {
    output.text(fmt::format("    {} {}: {}", units.noun(), findings.damaged[i].unit,
                            findings.damaged[i].reason));
  }
  auto const space = units.store->space();
  output.text(fmt::format("  on disk        {}, {} free of {}", format_bytes(space.bytes_allocated),
                          format_bytes(space.file_system_free),
                          format_bytes(space.file_system_total)));
  output.text(fmt::format("  {} in {}, {:.2f} GB/s", format_bytes(findings.bytes),
                          format_time(elapsed),
                          static_cast<double>(findings.bytes) / elapsed / 1e9));
}

nlohmann::json to_json(memory::StoreSpace const& space) {
  return {
      {"bytes_allocated", space.bytes_allocated},    {"extents_total", space.extents_total},
      {"extents_written", space.extents_written},    {"extents_torn", space.extents_torn},
      {"extents_damaged", space.extents_damaged},    {"file_system_free", space.file_system_free},
      {"file_system_total", space.file_system_total}};
}

void print_json(Options const& options, StoreUnits const& units, Findings const& findings,
                double elapsed) {
  nlohmann::json corrupt = nlohmann::json::array();
  for (auto const& damage : findings.damaged) {
    corrupt.push_back({{units.noun(), damage.unit}, {"reason", damage.reason}});
  }
  nlohmann::json files = nlohmann::json::array();
  for (auto const& file : files_of(units.store)) {
    files.push_back({{"path", file->path().string()},
                     {"direct", file->is_direct()},
                     {"direct_reason", file->direct_reason()},
                     {"space", to_json(file->space())}});
  }
  options.output.result(
      {{"path", options.path},
       {"unit", units.noun()},
       {"layout", units.layout ? nlohmann::json(units.layout->to_string()) : nlohmann::json()},
       {units.layout ? "blocks" : "extents", units.count()},
       {"ok", findings.ok},
       {"never_written", findings.missing},
       {"torn", findings.torn},
       {"corrupt", corrupt},
       {"bytes", findings.bytes},
       {"seconds", elapsed},
       {"bytes_per_second", static_cast<double>(findings.bytes) / elapsed},
       {"space", to_json(units.store->space())},
       {"files", files}});
}

int run(Options const& options) {
  auto const source = device::make_memory_source({});
  auto const units = open_units(source, options.path);
  Findings findings;
  double elapsed = 0;
  {
    Progress progress("verify", units.count(), options.output.json);
    elapsed = seconds([&] { findings = verify_units(units, *source, progress); });
  }
  print_text(options, units, findings, elapsed);
  print_json(options, units, findings, elapsed);
  bool const is_bad = !findings.damaged.empty() || (options.strict && !findings.torn.empty());
  return is_bad ? ExitFinding : ExitOk;
}

}  // namespace

void add_verify(Commands& commands) {
  auto const options = std::make_shared<Options>();
  auto& verb = commands.add("verify", "compare everything in a disk store with its checksums",
                            [options] { return run(*options); });
  verb.add_option("path", options->path, "the data file, or the first of several; opened read-only")
      ->required();
  verb.add_flag("--strict", options->strict,
                "exit with 1 also where a write did not come to its end (torn)");
  options->output.add_to(verb);
}

}  // namespace kvbm::cli
