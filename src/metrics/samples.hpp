// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

#include "kvbm/metrics/sample.hpp"

namespace kvbm::metrics {

/// Collects the samples of one source.
class Samples {
 public:
  void counter(char const* name, char const* help, std::uint64_t value,
               std::vector<Label> labels = {}) {
    add(name, help, Kind::Counter, static_cast<double>(value), std::move(labels));
  }
  void gauge(char const* name, char const* help, std::uint64_t value,
             std::vector<Label> labels = {}) {
    add(name, help, Kind::Gauge, static_cast<double>(value), std::move(labels));
  }
  void histogram(char const* name, char const* help, Distribution distribution,
                 std::vector<Label> labels) {
    add(name, help, Kind::Histogram, 0, std::move(labels));
    samples_.back().distribution = std::move(distribution);
  }
  std::vector<Sample> take() && { return std::move(samples_); }

 private:
  void add(char const* name, char const* help, Kind kind, double value, std::vector<Label> labels) {
    samples_.push_back({name, help, kind, std::move(labels), value, {}});
  }
  std::vector<Sample> samples_;
};

}  // namespace kvbm::metrics
