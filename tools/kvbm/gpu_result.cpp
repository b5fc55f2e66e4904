// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include "gpu_case.hpp"

namespace kvbm::cli {
namespace {

nlohmann::json percentile(Samples const& samples, double fraction) {
  if (samples.size() == 0) { return nullptr; }
  return samples.percentile(fraction);
}

char const* order_name(IdOrder order) {
  switch (order) {
    case IdOrder::Contiguous: return "contiguous";
    case IdOrder::Runs: return "runs";
    case IdOrder::Random: break;
  }
  return "random";
}

}  // namespace

char const* to_string(GpuRoute route) noexcept {
  switch (route) {
    case GpuRoute::H2D: return "h2d";
    case GpuRoute::D2H: return "d2h";
    case GpuRoute::Both: return "both";
    case GpuRoute::D2D: break;
  }
  return "d2d";
}

char const* to_string(FarSide far) noexcept {
  switch (far) {
    case FarSide::Contiguous: return "contiguous";
    case FarSide::Universal: return "universal";
    case FarSide::Scattered: break;
  }
  return "scattered";
}

std::string GpuCase::name() const {
  return fmt::format("{} {} {}, {} {} x {}", to_string(route), gpu_kind, to_string(far),
                     order_name(ids), blocks, workload);
}

GpuWay const* GpuResult::automatic(bool spare_sms) const {
  for (auto const& way : ways) {
    if (way.automatic && way.measured() && way.spare_sms == spare_sms) { return &way; }
  }
  return nullptr;
}

GpuWay const* GpuResult::best_candidate() const {
  GpuWay const* best = nullptr;
  for (auto const& way : ways) {
    if (!way.is_kvbm() || way.automatic || way.spare_sms || !way.measured()) { continue; }
    if (best == nullptr || way.wall.median() < best->wall.median()) { best = &way; }
  }
  return best;
}

GpuWay const* GpuResult::named(std::string const& name) const {
  for (auto const& way : ways) {
    if (way.name == name && way.measured()) { return &way; }
  }
  return nullptr;
}

std::optional<double> GpuResult::regret() const {
  auto const* const chosen = automatic(false);
  auto const* const best = best_candidate();
  if (chosen == nullptr || best == nullptr) { return std::nullopt; }
  // The same way measured twice differs by noise only.
  if (chosen->strategy == best->strategy) { return 0.0; }
  return chosen->wall.median() / best->wall.median() - 1;
}

nlohmann::json to_json(GpuResult const& result) {
  auto const& what = result.what;
  nlohmann::json ways = nlohmann::json::array();
  for (auto const& way : result.ways) {
    nlohmann::json row{
        {"name", way.name},           {"strategy", way.strategy},
        {"automatic", way.automatic}, {"spare", way.spare_sms ? "SpareSms" : "Fastest"},
        {"verified", way.verified},   {"bytes", way.bytes},
        {"rounds", way.wall.size()}};
    if (!way.skipped.empty()) { row["skipped"] = way.skipped; }
    if (way.measured()) {
      row["bytes_per_second"] = way.rate();
      row["best_bytes_per_second"] = way.best_rate();
      row["share_of_limit"] = way.rate() / result.limit_rate();
      row["p50_seconds"] = way.wall.median();
      row["p99_seconds"] = way.wall.percentile(0.99);
      row["cpu_seconds"] = percentile(way.cpu, 0.5);
      row["submit_prepared_seconds"] = percentile(way.submit_prepared, 0.5);
      row["submit_fresh_seconds"] = percentile(way.submit_fresh, 0.5);
    }
    ways.push_back(std::move(row));
  }
  auto const regret = result.regret();
  return {{"direction", to_string(what.route)},
          {"workload", what.workload},
          {"gpu_layout", what.gpu_kind},
          {"far_side", to_string(what.far)},
          {"ids", order_name(what.ids)},
          {"page_size", what.shape.page_size},
          {"blocks", what.blocks},
          {"bytes", result.bytes},
          {"run_bytes", result.run_bytes},
          {"limit_bytes_per_second", result.limit_rate()},
          {"regret", regret ? nlohmann::json(*regret) : nlohmann::json()},
          {"ways", std::move(ways)}};
}

}  // namespace kvbm::cli
