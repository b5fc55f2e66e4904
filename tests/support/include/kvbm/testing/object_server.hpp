// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace kvbm::testing {

/// What an ObjectServer does to a request instead of serving it well.
struct ObjectFault {
  enum class Kind {
    Status,     ///< answers `number` with an S3 error body
    Delay,      ///< waits for `delay`, then serves
    Silence,    ///< reads the request and never answers
    Stall,      ///< answers the head and half of the body, then nothing more
    Truncate,   ///< announces the whole body, sends `number` bytes of it, closes
    Shorten,    ///< announces and sends `number` bytes less
    Lengthen,   ///< announces and sends `number` bytes more
    Corrupt,    ///< flips a bit of byte `number` of the body
    Reset,      ///< resets the connection before it answers
    ResetBody,  ///< takes half of the request's body, then resets the connection
    Garbage,    ///< answers with something that is not HTTP
    NoRange,    ///< serves the whole object where a range is asked for
  };
  Kind kind = Kind::Status;
  int number = 0;
  std::chrono::milliseconds delay{0};
  /// Which requests: empty, or "GET" and the like, and a part of the path.
  std::string method{};
  std::string path_part{};
  /// How many of them, from now on.
  int times = 1 << 30;
};

/// As much of S3 as kvbm uses, in memory, on loopback; with faults. One bucket is there from the
/// start. Knows nothing of signatures. A thread for each connection; thread-safe.
class ObjectServer {
 public:
  struct Object {
    std::string body;
    std::vector<std::pair<std::string, std::string>> metadata;  // names with x-amz-meta-
  };

  explicit ObjectServer(std::string bucket = "blocks", int port = 0);
  ~ObjectServer();
  ObjectServer(ObjectServer const&) = delete;
  ObjectServer& operator=(ObjectServer const&) = delete;

  [[nodiscard]] std::string endpoint() const;
  [[nodiscard]] int port() const noexcept;

  /// Added behind those there are; the first that fits a request is applied.
  void add_fault(ObjectFault fault);
  void clear_faults();
  /// Runs on a connection's thread when a request came and before it is served.
  void on_request(std::function<void(std::string const& method, std::string const& path)> hook);

  [[nodiscard]] std::vector<std::string> keys() const;
  [[nodiscard]] bool has(std::string const& key) const;
  [[nodiscard]] Object object(std::string const& key) const;
  void store(std::string const& key, Object object);

  /// "METHOD path?query" of every request that came, in order.
  [[nodiscard]] std::vector<std::string> requests() const;
  [[nodiscard]] std::size_t num_requests(std::string_view method) const;
  [[nodiscard]] std::size_t num_connections() const;
  /// Most requests that were being served at the same time.
  [[nodiscard]] std::size_t most_at_once() const;
  /// The value of a header of the last request; empty: it had none.
  [[nodiscard]] std::string last_header(std::string const& name) const;

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

/// A port of loopback on which nobody listens.
int closed_port();

}  // namespace kvbm::testing
