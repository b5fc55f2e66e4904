// SPDX-License-Identifier: Apache-2.0
#include "object/http_get.hpp"

#include "kvbm/core/error.hpp"

#if KVBM_HAVE_CURL
#include <curl/curl.h>
#include <fmt/format.h>
#endif

#include <memory>
#include <new>

namespace kvbm::object {

#if KVBM_HAVE_CURL

namespace {

constexpr std::size_t kMostBytes = 64 << 10;

struct Cleanup {
  void operator()(CURL* handle) const { curl_easy_cleanup(handle); }
  void operator()(curl_slist* list) const { curl_slist_free_all(list); }
};

std::size_t take(char const* data, std::size_t, std::size_t bytes, void* self) noexcept {
  auto& body = *static_cast<std::string*>(self);
  if (bytes > kMostBytes - body.size()) { return 0; }
  try {
    body.append(data, bytes);
  } catch (std::bad_alloc const&) { return 0; }
  return bytes;
}

}  // namespace

void start_curl() {
  static CURLcode const code = curl_global_init(CURL_GLOBAL_DEFAULT);
  KVBM_EXPECTS(code == CURLE_OK, Internal,
               std::string("libcurl does not start: ") + curl_easy_strerror(code));
}

std::string curl_version_text() { return curl_version_info(CURLVERSION_NOW)->version; }

HttpAnswer http_ask(char const* method, std::string const& url,
                    std::vector<std::pair<std::string, std::string>> const& headers,
                    std::chrono::milliseconds timeout) {
  start_curl();
  std::unique_ptr<CURL, Cleanup> const handle(curl_easy_init());
  KVBM_EXPECTS(handle != nullptr, OutOfMemory, "libcurl gives no handle");
  std::unique_ptr<curl_slist, Cleanup> list;
  for (auto const& [name, value] : headers) {
    curl_slist* const longer =
        curl_slist_append(list.get(), fmt::format("{}: {}", name, value).c_str());
    KVBM_EXPECTS(longer != nullptr, OutOfMemory, "no memory for HTTP headers");
    static_cast<void>(list.release());
    list.reset(longer);
  }
  HttpAnswer answer;
  CURL* const curl = handle.get();
  curl_easy_setopt(curl, CURLOPT_URL, url.c_str());
  curl_easy_setopt(curl, CURLOPT_PROTOCOLS_STR, "http,https");
  curl_easy_setopt(curl, CURLOPT_NOPROXY, "*");
  curl_easy_setopt(curl, CURLOPT_NOSIGNAL, 1L);
  curl_easy_setopt(curl, CURLOPT_CUSTOMREQUEST, method);
  curl_easy_setopt(curl, CURLOPT_TIMEOUT_MS, static_cast<long>(timeout.count()));
  curl_easy_setopt(curl, CURLOPT_HTTPHEADER, list.get());
  curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, &take);
  curl_easy_setopt(curl, CURLOPT_WRITEDATA, &answer.body);
  CURLcode const code = curl_easy_perform(curl);
  if (code == CURLE_OK) {
    curl_easy_getinfo(curl, CURLINFO_RESPONSE_CODE, &answer.status);
  } else {
    answer.why = curl_easy_strerror(code);
  }
  return answer;
}

#else

void start_curl() {
  throw UnsupportedError(
      "this kvbm was built without libcurl, which object stores are reached with; build it with "
      "libcurl4-openssl-dev");
}

std::string curl_version_text() { return {}; }

HttpAnswer http_ask(char const*, std::string const&,
                    std::vector<std::pair<std::string, std::string>> const&,
                    std::chrono::milliseconds) {
  return {0, {}, "this kvbm was built without libcurl"};
}

#endif

}  // namespace kvbm::object
