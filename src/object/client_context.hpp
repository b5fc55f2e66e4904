// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "kvbm/object/s3_client.hpp"
#include "object/request.hpp"
#include "object/s3_endpoint.hpp"

namespace kvbm::object {

/// Counters of S3Stats; requests of all threads count here.
struct Counters {
  std::atomic<std::uint64_t> requests{0};
  std::atomic<std::uint64_t> retries{0};
  std::atomic<std::uint64_t> succeeded{0};
  std::atomic<std::uint64_t> failed{0};
  std::atomic<std::uint64_t> bytes_sent{0};
  std::atomic<std::uint64_t> bytes_received{0};
  std::atomic<std::uint64_t> connections{0};
  std::array<std::atomic<std::uint64_t>, kNumS3ErrorKinds> attempt_errors{};

  [[nodiscard]] S3Stats read() const;
};

/// Credentials as long as they last, then new ones from the chain. Thread-safe.
class CredentialsSource {
 public:
  /// Empty: from the chain. @throws Error(NotFound)
  explicit CredentialsSource(std::optional<Credentials> fixed);
  std::shared_ptr<Credentials const> get();

 private:
  bool is_fixed_;
  std::mutex mutex_;
  std::shared_ptr<Credentials const> current_;        // guarded by mutex_
  std::chrono::system_clock::time_point next_try_{};  // guarded by mutex_
};

/// A request as it goes over the wire.
struct SignedRequest {
  std::string url;
  std::vector<std::string> headers;  // "name: value"
};

/// What all loops of a client share.
struct ClientContext {
  explicit ClientContext(S3Options given);

  S3Options options;  // without credentials
  S3Endpoint endpoint;
  std::string url;
  CredentialsSource credentials;
  Counters counters;

  [[nodiscard]] bool signs_payloads() const noexcept;
  [[nodiscard]] SignedRequest sign(Request const& request);
  /// "PUT http://host/bucket/key".
  [[nodiscard]] std::string describe(Request const& request) const;
};

/// @throws Error(InvalidArgument) a key or metadata that S3 or HTTP cannot take
void check_key(std::string const& key);
void check_metadata(S3Metadata const& metadata);

}  // namespace kvbm::object
