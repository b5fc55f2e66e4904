// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "remote/exchange_common.hpp"

#include <cstddef>
#include <filesystem>
#include <memory>
#include <string>

namespace kvbm::remote {

/// Sends POST requests with JSON, over connections that are kept. Thread-safe.
class HttpClient {
 public:
  struct Options {
    std::filesystem::path ca_file;  ///< PEM; empty: the system's authorities
    std::filesystem::path certificate_file;
    std::filesystem::path key_file;
  };
  struct Response {
    long status = 0;
    std::string body;
  };

  /// @throws UnsupportedError in a build without libcurl
  explicit HttpClient(Options options);
  ~HttpClient();
  HttpClient(HttpClient const&) = delete;
  HttpClient& operator=(HttpClient const&) = delete;

  /// @throws TimeoutError; Error(Io) when there is no answer; CorruptError when it is not HTTP or
  /// longer than `max_response`
  Response post(std::string const& url, std::string const& body, Deadline const& deadline,
                std::size_t max_response);

 private:
  struct Pool;
  std::unique_ptr<Pool> pool_;
};

}  // namespace kvbm::remote
