// SPDX-License-Identifier: Apache-2.0
#include <chrono>
#include <string>
#include <string_view>
#include <utility>

#include "metrics/samples.hpp"

namespace kvbm::metrics {
namespace {

using transfer::LatencyHistogram;
using transfer::TransferCounts;

double seconds(std::chrono::nanoseconds time) {
  return std::chrono::duration<double>(time).count();
}

Distribution distribution_of(LatencyHistogram const& latency) {
  Distribution result;
  std::uint64_t below = 0;
  for (std::size_t i = 0; i < LatencyHistogram::kNumBounds; ++i) {
    below += latency.buckets[i];
    result.buckets.push_back({seconds(LatencyHistogram::upper_bound(i)), below});
  }
  result.count = latency.count();
  result.sum = seconds(latency.sum);
  return result;
}

std::vector<Label> with(std::vector<Label> labels, char const* name, std::string_view value) {
  labels.emplace_back(name, value);
  return labels;
}

void add_route(Samples& samples, TransferCounts const& counts, std::vector<Label> const& route) {
  char const* const submitted = "Transfers that were accepted.";
  samples.counter("kvbm_transfers_submitted_total", submitted, counts.submitted, route);
  char const* const transfers = "Transfers that ended, by how.";
  auto const ended = [&](char const* outcome, std::uint64_t count) {
    samples.counter("kvbm_transfers_total", transfers, count, with(route, "outcome", outcome));
  };
  ended("completed", counts.completed);
  ended("failed", counts.failed);
  ended("cancelled", counts.cancelled);
  samples.gauge("kvbm_transfers_in_flight", "Transfers that have not ended yet.", counts.in_flight,
                route);
  samples.counter("kvbm_transfer_submitted_bytes_total",
                  "Bytes of the blocks of accepted transfers: the sum of kvbm_transfer_bytes_total "
                  "and kvbm_transfer_in_flight_bytes.",
                  counts.bytes_submitted, route);
  char const* const bytes = "Bytes of blocks that arrived (completed) or did not (failed).";
  samples.counter("kvbm_transfer_bytes_total", bytes, counts.bytes_completed,
                  with(route, "outcome", "completed"));
  samples.counter("kvbm_transfer_bytes_total", bytes, counts.bytes_failed,
                  with(route, "outcome", "failed"));
  samples.gauge("kvbm_transfer_in_flight_bytes", "Bytes of transfers that have not ended yet.",
                counts.bytes_in_flight, route);
  for (std::size_t i = 0; i < counts.errors.size(); ++i) {
    if (counts.errors[i] == 0) { continue; }
    samples.counter("kvbm_transfer_errors_total", "Transfers that failed, by error code.",
                    counts.errors[i],
                    with(route, "code", kvbm::to_string(static_cast<ErrorCode>(i))));
  }
  samples.histogram("kvbm_transfer_duration_seconds",
                    "Time from the submission of a transfer to its end, good or bad.",
                    distribution_of(counts.latency), route);
}

void add_remote(Samples& samples, remote::RemoteStats const& stats) {
  samples.counter("kvbm_remote_notifications_total", "Write notifications of peers received.",
                  stats.notifications);
  samples.counter("kvbm_remote_undelivered_notifications_total",
                  "Of these, dropped because nobody ever subscribed.", stats.undelivered);
  char const* const ignored = "Messages of peers that were not acted on, by why.";
  samples.counter("kvbm_remote_ignored_messages_total", ignored, stats.foreign_messages,
                  {{"reason", "foreign"}});
  samples.counter("kvbm_remote_ignored_messages_total", ignored, stats.duplicate_messages,
                  {{"reason", "duplicate"}});
  samples.counter("kvbm_remote_images_total", "Images of blocks copied for peers.", stats.images);
  samples.gauge("kvbm_remote_workers", "Workers that this one has imported.", stats.workers);
  samples.gauge("kvbm_remote_importers", "Workers that have imported this one.", stats.importers);
  samples.gauge("kvbm_remote_landing_lent_bytes", "Landing memory that peers borrow.",
                stats.landing_bytes_lent);
}

}  // namespace

std::vector<Sample> samples_of(manager::ManagerStats const& stats) {
  Samples samples;
  for (auto const& [route, counts] : stats.transfers.routes) {
    add_route(samples, counts,
              {{"route", to_string(route)}, {"reach", std::string(to_string(route.reach))}});
  }
  char const* const lookups = "Submissions by handles, by whether their plan was ready.";
  samples.counter("kvbm_plan_cache_lookups_total", lookups, stats.plan_cache.hits,
                  {{"result", "hit"}});
  samples.counter("kvbm_plan_cache_lookups_total", lookups, stats.plan_cache.misses,
                  {{"result", "miss"}});
  samples.gauge("kvbm_plan_cache_entries", "Plans that are kept.", stats.plan_cache.entries);
  samples.gauge("kvbm_memory_pool_reserved_bytes", "Held by the first device's pool, used or not.",
                stats.memory_pool.reserved_bytes);
  samples.gauge("kvbm_memory_pool_used_bytes", "Handed out by the first device's pool.",
                stats.memory_pool.used_bytes);
  samples.gauge("kvbm_layouts", "Layouts that are registered.", stats.num_layouts);
  samples.gauge("kvbm_pending_events", "Events that are not complete.", stats.num_pending_events);
  if (stats.remote) { add_remote(samples, *stats.remote); }
  return std::move(samples).take();
}

}  // namespace kvbm::metrics
