// SPDX-License-Identifier: Apache-2.0
#include "remote/http_client.hpp"

#include "kvbm/core/error.hpp"

#if KVBM_HAVE_CURL
#include <curl/curl.h>
#include <fmt/format.h>
#endif

#include <algorithm>
#include <limits>
#include <mutex>
#include <string_view>
#include <utility>
#include <vector>

namespace kvbm::remote {

#if KVBM_HAVE_CURL

namespace {

struct Cleanup {
  void operator()(CURL* handle) const { curl_easy_cleanup(handle); }
  void operator()(curl_slist* list) const { curl_slist_free_all(list); }
};
using Handle = std::unique_ptr<CURL, Cleanup>;

/// What libcurl hands the answer to.
struct Receiver {
  std::string body;
  std::size_t limit;
  bool is_too_long = false;

  static std::size_t take(char const* data, std::size_t, std::size_t bytes, void* self) noexcept {
    auto& receiver = *static_cast<Receiver*>(self);
    if (bytes > receiver.limit - receiver.body.size()) {
      receiver.is_too_long = true;
      return 0;
    }
    try {
      receiver.body.append(data, bytes);
    } catch (std::bad_alloc const&) { return 0; }
    return bytes;
  }
};

void check_global_state() {
  static CURLcode const code = curl_global_init(CURL_GLOBAL_DEFAULT);
  KVBM_EXPECTS(code == CURLE_OK, Internal,
               fmt::format("libcurl does not start: {}", curl_easy_strerror(code)));
}

[[noreturn]] void throw_failure(CURLcode code, std::string_view details) {
  std::string const why = details.empty() ? curl_easy_strerror(code) : std::string(details);
  switch (code) {
    case CURLE_OPERATION_TIMEDOUT: throw TimeoutError(why);
    case CURLE_UNSUPPORTED_PROTOCOL:
    case CURLE_WEIRD_SERVER_REPLY:
    case CURLE_BAD_CONTENT_ENCODING:
    case CURLE_PARTIAL_FILE: throw CorruptError(why);
    case CURLE_OUT_OF_MEMORY: throw_error(ErrorCode::OutOfMemory, why, code);
    default: throw_error(ErrorCode::Io, why, code);
  }
}

}  // namespace

struct HttpClient::Pool {
  Options options;
  std::unique_ptr<curl_slist, Cleanup> headers;
  std::mutex mutex;
  std::vector<Handle> idle;  // guarded by mutex; each keeps its connections

  Handle take() {
    {
      std::lock_guard const lock(mutex);
      if (!idle.empty()) {
        Handle handle = std::move(idle.back());
        idle.pop_back();
        return handle;
      }
    }
    Handle handle(curl_easy_init());
    KVBM_EXPECTS(handle != nullptr, OutOfMemory, "libcurl gives no handle");
    return handle;
  }

  void give_back(Handle handle) {
    constexpr std::size_t kMostIdle = 8;
    std::lock_guard const lock(mutex);
    if (idle.size() < kMostIdle) { idle.push_back(std::move(handle)); }
  }
};

HttpClient::HttpClient(Options options) : pool_(std::make_unique<Pool>()) {
  check_global_state();
  pool_->options = std::move(options);
  // "Expect: 100-continue" would cost a round trip for every chunk.
  for (char const* const header : {"Content-Type: application/json", "Expect:"}) {
    curl_slist* const longer = curl_slist_append(pool_->headers.get(), header);
    KVBM_EXPECTS(longer != nullptr, OutOfMemory, "no memory for HTTP headers");
    static_cast<void>(pool_->headers.release());
    pool_->headers.reset(longer);
  }
}

HttpClient::~HttpClient() = default;

HttpClient::Response HttpClient::post(std::string const& url, std::string const& body,
                                      Deadline const& deadline, std::size_t max_response) {
  Handle handle = pool_->take();
  CURL* const curl = handle.get();
  curl_easy_reset(curl);  // the options; connections stay
  Receiver receiver{{}, max_response};
  std::string details(CURL_ERROR_SIZE, '\0');
  auto const timeout_ms = static_cast<long>(std::clamp<std::int64_t>(
      deadline.left().count(), 1, std::numeric_limits<std::int32_t>::max()));
  curl_easy_setopt(curl, CURLOPT_URL, url.c_str());
  curl_easy_setopt(curl, CURLOPT_PROTOCOLS_STR, "http,https");
  curl_easy_setopt(curl, CURLOPT_HTTP_VERSION, static_cast<long>(CURL_HTTP_VERSION_1_1));
  // etcd is inside the cluster; a proxy that the environment names is for what is outside.
  curl_easy_setopt(curl, CURLOPT_NOPROXY, "*");
  curl_easy_setopt(curl, CURLOPT_NOSIGNAL, 1L);
  curl_easy_setopt(curl, CURLOPT_TIMEOUT_MS, timeout_ms);
  curl_easy_setopt(curl, CURLOPT_CONNECTTIMEOUT_MS, timeout_ms);
  curl_easy_setopt(curl, CURLOPT_HTTPHEADER, pool_->headers.get());
  curl_easy_setopt(curl, CURLOPT_POSTFIELDSIZE_LARGE, static_cast<curl_off_t>(body.size()));
  curl_easy_setopt(curl, CURLOPT_POSTFIELDS, body.data());
  curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, &Receiver::take);
  curl_easy_setopt(curl, CURLOPT_WRITEDATA, &receiver);
  curl_easy_setopt(curl, CURLOPT_ERRORBUFFER, details.data());
  auto const set_file = [curl](CURLoption option, std::filesystem::path const& file) {
    if (!file.empty()) { curl_easy_setopt(curl, option, file.c_str()); }
  };
  set_file(CURLOPT_CAINFO, pool_->options.ca_file);
  set_file(CURLOPT_SSLCERT, pool_->options.certificate_file);
  set_file(CURLOPT_SSLKEY, pool_->options.key_file);

  CURLcode const code = curl_easy_perform(curl);
  if (receiver.is_too_long) {
    throw CorruptError(fmt::format("the answer is longer than {} bytes", max_response));
  }
  if (code != CURLE_OK) { throw_failure(code, details.c_str()); }
  Response response;
  curl_easy_getinfo(curl, CURLINFO_RESPONSE_CODE, &response.status);
  response.body = std::move(receiver.body);
  // The handle must not point to what ends here.
  curl_easy_reset(curl);
  pool_->give_back(std::move(handle));
  return response;
}

#else

struct HttpClient::Pool {};

HttpClient::HttpClient(Options) {
  throw UnsupportedError(
      "this kvbm was built without libcurl, which the exchange over etcd needs; build it with "
      "libcurl4-openssl-dev, or exchange metadata over TCP or a folder");
}

HttpClient::~HttpClient() = default;

HttpClient::Response HttpClient::post(std::string const&, std::string const&, Deadline const&,
                                      std::size_t) {
  return {};
}

#endif

}  // namespace kvbm::remote
