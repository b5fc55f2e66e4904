// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "kvbm/core/error.hpp"
#include "kvbm/object/credentials.hpp"

namespace kvbm::object {

/// Whether the signature of a PUT covers its body.
enum class PayloadSigning {
  Auto,      ///< over plain HTTP yes, over HTTPS no: there TLS protects the body
  Signed,    ///< always: costs a SHA-256 of every body
  Unsigned,  ///< never
};

/// How an S3 endpoint is reached.
struct S3Options {
  /// "http://host:port" or "https://host[:port]"; empty: AWS's endpoint of the region.
  std::string endpoint;
  std::string region = "us-east-1";
  std::string bucket;
  /// endpoint/bucket/key instead of bucket.endpoint/key. Empty: yes with an own endpoint.
  std::optional<bool> path_style;
  /// Empty: Credentials::from_chain() when the client is made, and again before they end.
  std::optional<Credentials> credentials;
  PayloadSigning payload_signing = PayloadSigning::Auto;
  std::string ca_file;           ///< PEM; empty: the system's authorities
  std::size_t connections = 32;  ///< 1..1024: requests in flight
  std::size_t threads = 0;       ///< 1..16 threads that move bytes; 0: by the number of CPUs
  std::chrono::milliseconds connect_timeout{3000};
  /// An attempt during which nothing moves for this long is given up.
  std::chrono::milliseconds stall_timeout{5000};
  /// The longest a request may take with all its attempts, from the time it is sent.
  std::chrono::milliseconds deadline{30000};
  std::uint32_t max_retries = 5;  ///< further attempts after the first
  /// Before attempt n + 1 the client waits a random time below min(cap, base * 2^(n - 1)).
  std::chrono::milliseconds backoff_base{50};
  std::chrono::milliseconds backoff_cap{2000};
};

/// What went wrong, in S3's terms.
enum class S3ErrorKind {
  NoSuchKey,     ///< Error(NotFound)
  NoSuchBucket,  ///< Error(NotFound)
  AccessDenied,  ///< Error(Io), native code EACCES: 401 or 403, wrong or missing credentials
  Unreachable,   ///< Error(Io), native code of the socket: refused, no such host, no route, TLS
  Silent,        ///< TimeoutError: nothing came within the limits
  Interrupted,   ///< Error(Io), ECONNRESET: the connection broke before the answer
  Truncated,     ///< CorruptError: the body ended early
  WrongSize,     ///< CorruptError: the object is longer or shorter than asked for
  Throttled,     ///< Error(Busy): 429 or 503 SlowDown
  Server,        ///< Error(Io), EIO: 5xx
  Refused,       ///< Error(Io), EPROTO: any other answer that is no success
  Cancelled,     ///< Error(ShuttingDown): the client was destroyed
};
inline constexpr std::size_t kNumS3ErrorKinds = 12;

/// "NoSuchKey", ...
std::string_view to_string(S3ErrorKind kind) noexcept;

/// What errors of this room carry besides kvbm::Error: see s3_failure().
class S3Failure {
 public:
  S3Failure(S3ErrorKind kind, int http_status, std::uint32_t attempts) noexcept
      : kind_(kind), http_status_(http_status), attempts_(attempts) {}
  virtual ~S3Failure() = default;
  S3Failure(S3Failure const&) = default;
  S3Failure& operator=(S3Failure const&) = default;

  [[nodiscard]] S3ErrorKind kind() const noexcept { return kind_; }
  /// 0: there was no answer.
  [[nodiscard]] int http_status() const noexcept { return http_status_; }
  [[nodiscard]] std::uint32_t attempts() const noexcept { return attempts_; }

 private:
  S3ErrorKind kind_;
  int http_status_;
  std::uint32_t attempts_;
};

/// What S3 said, where `error` came from an S3Client; else null. Lives as long as `error`.
S3Failure const* s3_failure(Error const& error) noexcept;

/// Counts since the client was made.
struct S3Stats {
  std::uint64_t requests = 0;    ///< attempts sent
  std::uint64_t retries = 0;     ///< of these, all but the first of each request
  std::uint64_t succeeded = 0;   ///< requests that ended well
  std::uint64_t failed = 0;      ///< requests that ended with an error
  std::uint64_t bytes_sent = 0;  ///< bodies of successful requests
  std::uint64_t bytes_received = 0;
  std::uint64_t connections = 0;  ///< opened
  /// Attempts that failed, by S3ErrorKind (also those that a retry made good).
  std::uint64_t attempt_errors[kNumS3ErrorKinds] = {};
};

/// Names and values of x-amz-meta-* headers, names without that prefix and in lower case.
using S3Metadata = std::vector<std::pair<std::string, std::string>>;

/// What is known of an object.
struct S3Object {
  std::uint64_t bytes = 0;  ///< of the whole object, also where a range was read
  S3Metadata metadata;
  /// The value of a metadata entry; nullopt: there is none.
  [[nodiscard]] std::optional<std::string_view> find(std::string_view name) const noexcept;
};

/// A piece of memory that receives bytes; null data: that many bytes are dropped.
struct S3Piece {
  std::byte* data = nullptr;
  std::uint64_t bytes = 0;
};

/// How one request of a batch ended.
struct S3Outcome {
  std::exception_ptr error;  ///< null: it succeeded
  S3Object object;           ///< of GET and HEAD
  std::uint32_t attempts = 0;
};

/// One entry of a list.
struct S3Listed {
  std::string key;
  std::uint64_t bytes = 0;
};

class S3Batch;

/// A client of one bucket: its own signatures (AWS Signature Version 4) over libcurl. A few
/// threads of the client drive all requests; connections are kept and used again.
///
/// Errors  every request ends within S3Options::deadline. Connections that break, timeouts and
///         answers 429, 500, 502, 503, 504 are tried again; 403, 404 and the like never. All
///         errors name the request's method and key, none holds credentials.
/// Threads all methods are thread-safe. The destructor ends what is under way with
///         Error(ShuttingDown).
class S3Client {
 public:
  /// Sends nothing.
  /// @throws Error(InvalidArgument) a bad option; Error(NotFound) no credentials;
  ///         UnsupportedError a build without libcurl or libcrypto
  explicit S3Client(S3Options options);
  ~S3Client();
  S3Client(S3Client const&) = delete;
  S3Client& operator=(S3Client const&) = delete;

  /// The options with everything resolved but without credentials.
  [[nodiscard]] S3Options const& options() const noexcept;
  /// "http://host:port/bucket".
  [[nodiscard]] std::string const& url() const noexcept;
  [[nodiscard]] S3Stats stats() const;

  /// Stores an object at once, in whole or not at all.
  void put(std::string const& key, std::span<std::byte const> body, S3Metadata metadata = {});
  /// Reads `into.size()` bytes from `offset`.
  /// @throws S3ErrorKind::NoSuchKey, WrongSize where the object is not as long as that
  S3Object get_range(std::string const& key, std::uint64_t offset, std::span<std::byte> into);
  /// Reads an object that is exactly as long as `into`. @throws as get_range
  S3Object get(std::string const& key, std::span<std::byte> into);
  /// Reads an object of unknown length. @throws also WrongSize where it is longer than `max_bytes`
  std::string get_all(std::string const& key, std::uint64_t max_bytes, S3Object* object = nullptr);
  /// nullopt: there is no such object (or no such bucket: S3's answer is the same).
  std::optional<S3Object> head(std::string const& key);
  /// An object that is not there is no error.
  void delete_object(std::string const& key);
  /// Calls `each` for every object whose key starts with `prefix`, in order, page by page; false
  /// ends the list. `each` runs on the calling thread.
  void list(std::string const& prefix, std::function<bool(S3Listed const&)> const& each);

  /// Checks in one request without retries that the endpoint answers, the bucket is there and the
  /// credentials may read it. @throws Unreachable, Silent, NoSuchBucket, AccessDenied, ...
  void probe();
  /// Makes the bucket; one that is there and ours is no error.
  void create_bucket();

  class Impl;

 private:
  friend class S3Batch;
  std::shared_ptr<Impl> impl_;
};

/// Requests that run at the same time, at most S3Options::connections of them on the wire. They
/// start at once; wait() waits for all. Used by one thread at a time; the destructor waits.
class S3Batch {
 public:
  explicit S3Batch(S3Client& client);
  ~S3Batch();
  S3Batch(S3Batch const&) = delete;
  S3Batch& operator=(S3Batch const&) = delete;

  /// The object is the pieces in a row. Their memory must stay as it is until wait().
  void put(std::string key, std::vector<std::span<std::byte const>> pieces, S3Metadata metadata);
  /// Reads from `offset` into the pieces in a row; `object_bytes`, where it is known, must be the
  /// length of the whole object. Memory of what fails holds anything.
  void get(std::string key, std::uint64_t offset, std::vector<S3Piece> pieces,
           std::optional<std::uint64_t> object_bytes = {});
  void head(std::string key);
  void delete_object(std::string key);

  /// Requests added since the last wait().
  [[nodiscard]] std::size_t size() const noexcept;
  /// Waits for request `index` of those.
  S3Outcome const& wait_for(std::size_t index);
  /// Waits for all and forgets them. @return in the order in which they were added
  std::vector<S3Outcome> wait();

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace kvbm::object
