// SPDX-License-Identifier: Apache-2.0
#include "object/choose_transport.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <limits>
#include <random>

#include "kvbm/core/error.hpp"
#include "kvbm/core/log.hpp"
#include "object/http_get.hpp"
#include "object/s3_client_impl.hpp"
#include "object/text.hpp"

namespace kvbm::object {

namespace {

// Of a measurement: objects of a round, and rounds, of which the best counts.
constexpr std::uint64_t kMostObjects = 8;
constexpr std::uint64_t kMostBytes = 16 << 20;
constexpr int kRounds = 3;
// Temporary objects of this age belong to nobody; the longest deadline is a day.
constexpr std::chrono::hours kLeastAge{1};

/// GB/s, or MB/s where that is below a tenth.
std::string rate_text(std::uint64_t bytes, double seconds) {
  double const rate = static_cast<double>(bytes) / seconds;
  return rate >= 1e8 ? fmt::format("{:.2f} GB/s", rate / 1e9)
                     : fmt::format("{:.1f} MB/s", rate / 1e6);
}

struct Measured {
  double put = std::numeric_limits<double>::max();  ///< seconds
  double get = std::numeric_limits<double>::max();
};

/// Temporary objects of a measurement, removed at its end.
class Trial {
 public:
  Trial(S3Client& client, ObjectKeyScheme const& scheme, std::uint64_t object_bytes)
      : client_(client),
        prefix_(scheme.temporary_prefix()),
        data_(object_bytes),
        num_objects_(std::clamp<std::uint64_t>(kMostBytes / object_bytes, 1, kMostObjects)) {
    for (std::size_t i = 0; i < data_.size(); ++i) {
      data_[i] = static_cast<std::byte>((i * 167) >> 3U);
    }
    auto const now = std::chrono::system_clock::now().time_since_epoch();
    name_ = fmt::format("{}{}-{:08x}-trial-", prefix_,
                        std::chrono::duration_cast<std::chrono::seconds>(now).count(),
                        std::random_device{}());
  }
  ~Trial() {
    try {
      S3Batch batch(client_);
      for (std::uint64_t i = 0; i < num_objects_; ++i) {
        batch.delete_object(key(i));
      }
      static_cast<void>(batch.wait());
    } catch (std::exception const& error) {
      log::write(log::Level::Warning,
                 std::string("temporary objects stay for now: ") + error.what());
    }
  }
  Trial(Trial const&) = delete;
  Trial& operator=(Trial const&) = delete;

  [[nodiscard]] std::uint64_t num_objects() const noexcept { return num_objects_; }
  [[nodiscard]] std::uint64_t bytes() const noexcept { return num_objects_ * data_.size(); }

  /// Another round. @throws the first error
  void run(ObjectBatch& batch, Measured& best) {
    best.put = std::min(best.put, put(batch));
    best.get = std::min(best.get, get(batch));
  }

 private:
  [[nodiscard]] std::string key(std::uint64_t index) const {
    return fmt::format("{}{}", name_, index);
  }
  static double finish(ObjectBatch& batch, std::chrono::steady_clock::time_point start) {
    for (auto const& outcome : batch.wait()) {
      if (outcome.error != nullptr) { std::rethrow_exception(outcome.error); }
    }
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  }
  double put(ObjectBatch& batch) {
    auto const start = std::chrono::steady_clock::now();
    for (std::uint64_t i = 0; i < num_objects_; ++i) {
      batch.put(key(i), {data_}, {}, prefix_);
    }
    return finish(batch, start);
  }
  double get(ObjectBatch& batch) {
    std::vector<std::byte> back(data_.size());
    auto const start = std::chrono::steady_clock::now();
    for (std::uint64_t i = 0; i < num_objects_; ++i) {
      // All into the same memory, the contents being equal.
      batch.get(key(i), 0, {{back.data(), back.size()}}, back.size());
    }
    double const seconds = finish(batch, start);
    if (back != data_) { throw CorruptError("what was read is not what was written"); }
    return seconds;
  }

  S3Client& client_;
  std::string prefix_;
  std::string name_;
  std::vector<std::byte> data_;
  std::uint64_t num_objects_;
};

/// What processes that died, or requests that were given up, left behind.
void remove_old_temporaries(S3Client& client, ObjectKeyScheme const& scheme) noexcept {
  try {
    std::string const prefix = scheme.temporary_prefix();
    auto const age = std::max<std::chrono::milliseconds>(kLeastAge, 2 * client.options().deadline);
    auto const limit = std::chrono::duration_cast<std::chrono::seconds>(
        (std::chrono::system_clock::now() - age).time_since_epoch());
    S3Batch batch(client);
    client.list(prefix, [&](S3Listed const& listed) {
      std::string_view const name = std::string_view(listed.key).substr(prefix.size());
      auto const born = parse_number(name.substr(0, name.find('-')));
      if (born && *born < static_cast<std::uint64_t>(limit.count())) {
        batch.delete_object(listed.key);
      }
      return true;
    });
    static_cast<void>(batch.wait());
  } catch (std::exception const& error) {
    // It may be that this store's user must not list.
    log::write(log::Level::Info, std::string("old temporary objects stay: ") + error.what());
  }
}

std::string curl_name() { return "libcurl " + curl_version_text(); }
std::string nixl_name(NixlObjects const& nixl) {
  return "NIXL" + (nixl.version().empty() ? "" : " " + nixl.version());
}

ChosenTransport measure(S3Client& client, ObjectStoreOptions const& options,
                        std::shared_ptr<NixlObjects> nixl, std::uint64_t object_bytes) {
  Trial trial(client, options.scheme, object_bytes);
  Measured curl;
  Measured other;
  auto const failures = nixl->failures();
  auto const curl_batch = make_curl_batch(client);
  auto const nixl_batch = make_nixl_batch(client, nixl);
  // In turns, so that whatever else happens meets both.
  for (int round = 0; round < kRounds; ++round) {
    trial.run(*curl_batch, curl);
    trial.run(*nixl_batch, other);
  }
  if (nixl->failures() != failures) {
    return {nullptr, curl_name() + ": " + nixl_name(*nixl) + " loads and moved nothing here"};
  }
  auto const text = [&trial](Measured const& measured) {
    return "put " + rate_text(trial.bytes(), measured.put) + ", get " +
           rate_text(trial.bytes(), measured.get);
  };
  bool const is_nixl = other.put + other.get < curl.put + curl.get;
  std::string const reason =
      fmt::format("{}: measured on this endpoint with {} objects of {} bytes: {}: {}; {}: {}",
                  is_nixl ? nixl_name(*nixl) : curl_name(), trial.num_objects(), object_bytes,
                  curl_name(), text(curl), nixl_name(*nixl), text(other));
  return {is_nixl ? std::move(nixl) : nullptr, reason};
}

ChosenTransport choose_automatically(S3Client& client, ObjectStoreOptions const& options,
                                     std::string const& problem, std::uint64_t object_bytes) {
  if (!problem.empty()) { return {nullptr, curl_name() + ": " + problem}; }
  if (options.read_only) {
    return {nullptr, curl_name() + ": a store that is opened read-only is not measured"};
  }
  try {
    auto nixl = S3Client::Impl::of(client).nixl(options.nixl_library.string());
    return measure(client, options, std::move(nixl), object_bytes);
  } catch (Error const& error) {
    return {nullptr, curl_name() + ": the ways could not be measured: " + error.what()};
  }
}

}  // namespace

std::string_view to_string(ObjectTransport transport) noexcept {
  switch (transport) {
    case ObjectTransport::Curl: return "Curl";
    case ObjectTransport::Nixl: return "Nixl";
    case ObjectTransport::Auto: return "Auto";
  }
  return "unknown";
}

std::string check_transport(ObjectStoreOptions const& options) {
  if (options.transport == ObjectTransport::Curl) { return {}; }
  std::string problem = nixl_objects_problem(options.nixl_library.string());
  if (options.transport == ObjectTransport::Nixl && !problem.empty()) {
    throw UnsupportedError(problem + "; ObjectTransport::Curl needs none of it");
  }
  return problem;
}

ChosenTransport choose_transport(S3Client& client, ObjectStoreOptions const& options,
                                 std::string const& problem, std::uint64_t object_bytes) {
  ChosenTransport chosen;
  switch (options.transport) {
    case ObjectTransport::Curl: return {nullptr, curl_name() + ": asked for (transport Curl)"};
    case ObjectTransport::Nixl:
      chosen.nixl = S3Client::Impl::of(client).nixl(options.nixl_library.string());
      chosen.reason = nixl_name(*chosen.nixl) + ", plugin OBJ: asked for (transport Nixl)";
      break;
    case ObjectTransport::Auto:
      chosen = choose_automatically(client, options, problem, object_bytes);
      break;
  }
  if (chosen.nixl != nullptr && !options.read_only) {
    remove_old_temporaries(client, options.scheme);
  }
  return chosen;
}

}  // namespace kvbm::object
