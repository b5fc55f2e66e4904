// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "kvbm/core/types.hpp"

namespace kvbm::cli {

/// Seconds that `body` takes.
template <typename Body>
double seconds(Body&& body) {
  auto const start = std::chrono::steady_clock::now();
  body();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

/// Measured times of one thing.
class Samples {
 public:
  void add(double value) { values_.push_back(value); }
  [[nodiscard]] std::size_t size() const noexcept { return values_.size(); }
  /// @pre not empty  @param fraction  0.5 = median
  [[nodiscard]] double percentile(double fraction) const;
  [[nodiscard]] double median() const { return percentile(0.5); }
  [[nodiscard]] double best() const { return percentile(0); }
  [[nodiscard]] double operator[](std::size_t i) const { return values_[i]; }

 private:
  std::vector<double> values_;
};

/// Candidate and limit, measured in turns so that whatever else the machine does hits both alike.
struct Rounds {
  Samples candidate;
  Samples limit;

  /// Median over the rounds of limit / candidate: 1 is as fast as the limit.
  [[nodiscard]] double share() const;
};

/// Runs limit and candidate (returning seconds) in turns: `repeat` rounds, or fewer when `budget`
/// seconds are over (one at least).
template <typename Candidate, typename Limit>
Rounds in_turns(std::size_t repeat, double budget, Candidate&& candidate, Limit&& limit) {
  Rounds rounds;
  double spent = 0;
  for (std::size_t i = 0; i < repeat && (i == 0 || spent < budget); ++i) {
    spent += seconds([&] {
      rounds.limit.add(limit());
      rounds.candidate.add(candidate());
    });
  }
  return rounds;
}

/// How block ids are picked.
enum class IdOrder { Contiguous, Runs, Random };
/// @throws Error(InvalidArgument) listing the names
IdOrder parse_id_order(std::string const& text);
/// `count` different ids of `extent` ones; runs are of 8. Same seed, same ids.
std::vector<BlockId> make_ids(IdOrder order, std::uint64_t count, std::uint64_t extent,
                              std::uint32_t seed);

}  // namespace kvbm::cli
