// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <string>
#include <utility>
#include <vector>

namespace kvbm::object {

struct HttpAnswer {
  long status = 0;  ///< 0: none came
  std::string body;
  std::string why;  ///< where none came
};

/// Starts libcurl once for the process. @throws UnsupportedError in a build without it
void start_curl();

/// "7.88.1"; empty in a build without it.
std::string curl_version_text();

/// One small request (64 KiB of answer at most), bounded in time; never throws but for memory.
HttpAnswer http_ask(char const* method, std::string const& url,
                    std::vector<std::pair<std::string, std::string>> const& headers,
                    std::chrono::milliseconds timeout);

}  // namespace kvbm::object
