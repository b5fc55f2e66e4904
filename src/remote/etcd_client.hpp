// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "remote/exchange_common.hpp"
#include "remote/http_client.hpp"

#include <atomic>
#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace kvbm::remote {

/// The few requests of etcd's version 3 that the exchange needs, as JSON over HTTP. Keys and values
/// are bytes. Thread-safe.
///
/// Every method takes at most request_timeout, over all endpoints together, and throws TimeoutError
/// (silent), Error(Io) (unreachable or refused), each naming the endpoints, or CorruptError (the
/// answer is not etcd's). What etcd itself refuses is Error(NotFound) for a lease that is gone,
/// else Error(Io) with its words.
class EtcdClient {
 public:
  struct Entry {
    std::string key;
    std::string value;
    std::int64_t revision = 0;  ///< of its last change
  };
  struct Lease {
    std::int64_t id = 0;
    std::chrono::seconds ttl{};
  };
  struct PutResult {
    bool is_put = false;
    std::int64_t revision = 0;   ///< when it was put
    std::optional<Entry> there;  ///< what is there when it was not
  };

  explicit EtcdClient(EtcdExchangeOptions const& options);

  Lease grant(std::chrono::seconds ttl);
  /// @return false: etcd does not know the lease any more
  bool keep_alive(std::int64_t lease, std::chrono::milliseconds timeout);
  void revoke(std::int64_t lease, std::chrono::milliseconds timeout);

  void put(std::string_view key, std::string_view value, std::int64_t lease);
  /// Puts it when the key's last change was at `revision`; 0: when there is no such key.
  PutResult put_if(std::string_view key, std::string_view value, std::int64_t lease,
                   std::int64_t revision);
  std::optional<Entry> get(std::string_view key);
  /// Keys that begin with `prefix` and are not before `from`, in order, at most `limit`.
  std::vector<std::string> keys(std::string_view prefix, std::string_view from, int limit);
  /// Removes the key and everything below `prefix` when its last change was at `revision`.
  /// @return whether it was
  bool remove_if(std::string_view key, std::int64_t revision, std::string_view prefix);
  void remove_all(std::string_view prefix);

 private:
  std::string call(std::string_view path, std::string const& request,
                   std::optional<std::chrono::milliseconds> timeout = std::nullopt);

  std::vector<std::string> endpoints_;
  std::chrono::milliseconds request_timeout_;
  HttpClient http_;
  std::atomic<std::size_t> preferred_{0};  // the endpoint that answered last
};

}  // namespace kvbm::remote
