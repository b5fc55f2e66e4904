// SPDX-License-Identifier: Apache-2.0
#include <string>

#include "kvbm/prefix/stats.hpp"
#include "metrics/samples.hpp"

namespace kvbm::metrics {
namespace {

void add_tier(Samples& samples, prefix::TierStats const& stats) {
  std::vector<Label> const tier{{"tier", std::string(to_string(stats.tier))}};
  auto const counter = [&](char const* name, char const* help, std::uint64_t value) {
    samples.counter(name, help, value, tier);
  };
  auto const error = [&](char const* kind, std::uint64_t value) {
    auto labels = tier;
    labels.emplace_back("kind", kind);
    samples.counter("kvbm_prefix_tier_errors_total",
                    "Blocks that could not be read or written, that were damaged, and entries of "
                    "the index that were refused.",
                    value, std::move(labels));
  };
  samples.gauge("kvbm_prefix_tier_capacity_blocks", "Blocks within the tier's byte budget.",
                stats.capacity_blocks, tier);
  samples.gauge("kvbm_prefix_tier_blocks", "Blocks that the tier holds.", stats.blocks, tier);
  samples.gauge("kvbm_prefix_tier_pinned_blocks", "Of these, that must stay.", stats.pinned_blocks,
                tier);
  counter("kvbm_prefix_tier_hits_total", "Blocks that were found in the tier.", stats.hits);
  counter("kvbm_prefix_tier_written_blocks_total", "Blocks that arrived in the tier.",
          stats.written);
  counter("kvbm_prefix_tier_promoted_blocks_total", "Of these, from a slower tier.",
          stats.promoted);
  counter("kvbm_prefix_tier_read_bytes_total", "Read from the tier.", stats.bytes_read);
  counter("kvbm_prefix_tier_written_bytes_total", "Written to the tier.", stats.bytes_written);
  counter("kvbm_prefix_tier_evicted_blocks_total", "Blocks that left to make room.", stats.evicted);
  counter("kvbm_prefix_tier_lost_blocks_total", "Of these, the last copy.", stats.lost);
  counter("kvbm_prefix_tier_refused_blocks_total",
          "Blocks that could not come in: every block in use or pinned.", stats.refused);
  counter("kvbm_prefix_tier_recovered_blocks_total", "Blocks found when the store was opened.",
          stats.recovered);
  error("read", stats.read_errors);
  error("write", stats.write_errors);
  error("corrupt", stats.corrupt);
  error("index", stats.damaged_index);
}

}  // namespace

std::vector<Sample> samples_of(prefix::PrefixStats const& stats) {
  Samples samples;
  for (auto const& tier : stats.tiers) {
    add_tier(samples, tier);
  }
  samples.counter("kvbm_prefix_lookups_total", "Prompts that were looked up.", stats.lookups);
  samples.counter("kvbm_prefix_onboarded_blocks_total", "Blocks that arrived at the engine.",
                  stats.onboarded);
  samples.counter("kvbm_prefix_missed_blocks_total", "Blocks asked for that did not.",
                  stats.missed);
  samples.counter("kvbm_prefix_offloaded_blocks_total", "Blocks taken from the engine.",
                  stats.offloaded);
  samples.counter("kvbm_prefix_already_stored_blocks_total",
                  "Blocks offered that were there, or on their way.", stats.already_stored);
  samples.counter("kvbm_prefix_shared_reads_total", "Blocks that waited for somebody else's read.",
                  stats.shared_reads);
  samples.gauge("kvbm_prefix_queued_writes", "Blocks on their way down.", stats.queued_writes);
  samples.counter("kvbm_prefix_background_errors_total", "Errors in keeping records of keys.",
                  stats.background_errors);
  return std::move(samples).take();
}

}  // namespace kvbm::metrics
