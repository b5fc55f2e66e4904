// SPDX-License-Identifier: Apache-2.0
#include "kvbm/object/s3_client.hpp"
#include "metrics/samples.hpp"

namespace kvbm::metrics {

std::vector<Sample> samples_of(object::S3Stats const& stats) {
  Samples samples;
  samples.counter("kvbm_s3_attempts_total", "Requests sent, retries included.", stats.requests);
  samples.counter("kvbm_s3_retries_total", "Requests that were sent again.", stats.retries);
  char const* const requests = "Requests that ended, by how.";
  samples.counter("kvbm_s3_requests_total", requests, stats.succeeded, {{"outcome", "completed"}});
  samples.counter("kvbm_s3_requests_total", requests, stats.failed, {{"outcome", "failed"}});
  samples.counter("kvbm_s3_sent_bytes_total", "Bodies of successful requests.", stats.bytes_sent);
  samples.counter("kvbm_s3_received_bytes_total", "Bodies of their answers.", stats.bytes_received);
  samples.counter("kvbm_s3_connections_total", "Connections opened.", stats.connections);
  for (std::size_t i = 0; i < object::kNumS3ErrorKinds; ++i) {
    if (stats.attempt_errors[i] == 0) { continue; }
    samples.counter("kvbm_s3_attempt_errors_total",
                    "Attempts that failed, also those that a retry made good.",
                    stats.attempt_errors[i],
                    {{"kind", std::string(to_string(static_cast<object::S3ErrorKind>(i)))}});
  }
  return std::move(samples).take();
}

}  // namespace kvbm::metrics
