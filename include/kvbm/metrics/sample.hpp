// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "kvbm/manager/transfer_manager.hpp"
#include "kvbm/object/s3_client.hpp"
#include "kvbm/prefix/stats.hpp"

namespace kvbm::metrics {

/// What the number of a metric means.
enum class Kind {
  Counter,    ///< only grows; its name ends with _total
  Gauge,      ///< goes up and down
  Histogram,  ///< a distribution
};

/// Counts of observations up to some bounds.
struct Distribution {
  /// Observations that are not larger than `upper_bound`, those of smaller bounds included.
  struct Bucket {
    double upper_bound = 0;
    std::uint64_t cumulative_count = 0;
  };
  std::vector<Bucket> buckets;  ///< ascending; without the one of infinity
  std::uint64_t count = 0;      ///< all observations
  double sum = 0;
};

/// Name and value of a label.
using Label = std::pair<std::string, std::string>;

/// One number, or one distribution, of one metric.
struct Sample {
  std::string name;           ///< "kvbm_transfers_total": letters, digits, '_'
  std::string help;           ///< one line; the first sample of a name speaks for it
  Kind kind = Kind::Gauge;    ///< likewise
  std::vector<Label> labels;  ///< names of letters, digits, '_'; values any UTF-8
  double value = 0;           ///< of a counter or gauge
  Distribution distribution;  ///< of a histogram
};

/// The samples of what a manager counts; docs/guides/metrics.md lists them.
[[nodiscard]] std::vector<Sample> samples_of(manager::ManagerStats const& stats);
/// Likewise of an S3 client's: exporter.add([client] { return samples_of(client->stats()); }).
[[nodiscard]] std::vector<Sample> samples_of(object::S3Stats const& stats);
/// Likewise of a prefix store's, each tier under its label: G2, G3, G4.
[[nodiscard]] std::vector<Sample> samples_of(prefix::PrefixStats const& stats);

}  // namespace kvbm::metrics
