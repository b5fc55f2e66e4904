// SPDX-License-Identifier: Apache-2.0
#include "measure.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>

#include "kvbm/core/error.hpp"

namespace kvbm::cli {

double Samples::percentile(double fraction) const {
  auto sorted = values_;
  std::sort(sorted.begin(), sorted.end());
  auto const last = static_cast<double>(sorted.size() - 1);
  return sorted[static_cast<std::size_t>(std::lround(fraction * last))];
}

double Rounds::share() const {
  Samples ratios;
  for (std::size_t i = 0; i < candidate.size(); ++i) {
    ratios.add(limit[i] / candidate[i]);
  }
  return ratios.median();
}

IdOrder parse_id_order(std::string const& text) {
  if (text == "contiguous") { return IdOrder::Contiguous; }
  if (text == "runs") { return IdOrder::Runs; }
  if (text == "random") { return IdOrder::Random; }
  throw Error(ErrorCode::InvalidArgument,
              fmt::format("unknown order of ids '{}': say random, runs or contiguous", text));
}

std::vector<BlockId> make_ids(IdOrder order, std::uint64_t count, std::uint64_t extent,
                              std::uint32_t seed) {
  constexpr std::size_t kRun = 8;
  std::vector<BlockId> ids(extent);
  std::iota(ids.begin(), ids.end(), BlockId{0});
  std::mt19937 random(seed);
  if (order == IdOrder::Random) {
    std::shuffle(ids.begin(), ids.end(), random);
  } else if (order == IdOrder::Runs) {
    std::vector<BlockId> starts((extent + kRun - 1) / kRun);
    std::iota(starts.begin(), starts.end(), BlockId{0});
    std::shuffle(starts.begin(), starts.end(), random);
    ids.clear();
    for (BlockId const start : starts) {
      std::uint64_t const begin = std::uint64_t{start} * kRun;
      for (std::uint64_t id = begin; id < std::min<std::uint64_t>(begin + kRun, extent); ++id) {
        ids.push_back(static_cast<BlockId>(id));
      }
    }
  }
  ids.resize(count);
  return ids;
}

}  // namespace kvbm::cli
