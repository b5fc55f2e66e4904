// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace kvbm::testing {

/// What a FaultyServer does to a request instead of serving it well.
struct ObjectFault {
  enum class Kind {
    Status,     ///< answers `number` with an S3 error body
    LateError,  ///< answers 200 with an S3 error body, as S3 may to a copy
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

/// A request of HTTP without its body.
struct HttpRequest {
  std::string method;
  std::string path;                            // decoded
  std::string query;                           // as it came
  std::map<std::string, std::string> headers;  // names in lower case
  std::string head;                            // as it came, without the empty line
  std::uint64_t body_bytes = 0;

  [[nodiscard]] std::string header(std::string const& name) const {
    auto const found = headers.find(name);
    return found == headers.end() ? std::string() : found->second;
  }
};

struct HttpAnswer {
  int status = 200;
  std::vector<std::pair<std::string, std::string>> headers;  // but Content-Length
  std::shared_ptr<std::string const> whole;                  // the body is this part of it
  std::size_t first = 0;
  std::size_t bytes = 0;

  void set_text(std::string text);
};

/// What answers the requests of a FaultyServer, on many threads.
class HttpService {
 public:
  virtual ~HttpService() = default;
  /// @param ignores_range  as if the request had none
  virtual HttpAnswer answer(HttpRequest const& request, std::string body, bool ignores_range) = 0;
};

/// An answer as S3 gives it; an empty `code` is the usual one of that status.
HttpAnswer s3_error(int status, std::string code = {});

/// HTTP on loopback, with faults between what asks and the service that answers. A thread for each
/// connection; thread-safe.
class FaultyServer {
 public:
  explicit FaultyServer(std::shared_ptr<HttpService> service, int port = 0);
  ~FaultyServer();
  FaultyServer(FaultyServer const&) = delete;
  FaultyServer& operator=(FaultyServer const&) = delete;

  [[nodiscard]] std::string endpoint() const;
  [[nodiscard]] int port() const noexcept;

  /// Added behind those there are; the first that fits a request is applied.
  void add_fault(ObjectFault fault);
  void clear_faults();
  /// Runs on a connection's thread when a request came and before it is served.
  void on_request(std::function<void(std::string const& method, std::string const& path)> hook);

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

/// Passes requests on to another server of this machine, and its answers back, with faults.
class FaultProxy : public FaultyServer {
 public:
  /// @param upstream  "http://127.0.0.1:PORT"
  explicit FaultProxy(std::string const& upstream);
};

}  // namespace kvbm::testing
