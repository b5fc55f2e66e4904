// SPDX-License-Identifier: Apache-2.0
#include "object/s3_endpoint.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <thread>

#include "object/text.hpp"

namespace kvbm::object {

namespace {

void check_name(char const* option, std::string const& value, std::size_t least, std::size_t most,
                std::string_view also) {
  bool const is_good = value.size() >= least && value.size() <= most &&
                       std::all_of(value.begin(), value.end(), [also](char c) {
                         return is_alphanumeric(c) || also.find(c) != std::string_view::npos;
                       });
  KVBM_EXPECTS(is_good, InvalidArgument,
               fmt::format("{} '{}' is not {} to {} letters, digits or any of '{}'", option,
                           printable(value, 80), least, most, also));
}

void check_limits(S3Options const& options) {
  auto const check = [](char const* option, auto value, auto least, auto most) {
    KVBM_EXPECTS(value >= least && value <= most, InvalidArgument,
                 fmt::format("{} is {}, it can be {} to {}", option, value, least, most));
  };
  using std::chrono::milliseconds;
  constexpr long kDay = 24L * 60 * 60 * 1000;
  check("connections", options.connections, std::size_t{1}, std::size_t{1024});
  check("threads", options.threads, std::size_t{0}, std::size_t{16});
  check("max_retries", options.max_retries, 0U, 1000U);
  check("connect_timeout", options.connect_timeout.count(), 1L, kDay);
  check("stall_timeout", options.stall_timeout.count(), 1L, kDay);
  check("deadline", options.deadline.count(), 1L, kDay);
  check("backoff_base", options.backoff_base.count(), 0L, kDay);
  check("backoff_cap", options.backoff_cap.count(), 0L, kDay);
}

}  // namespace

std::string S3Endpoint::origin() const { return (is_https ? "https://" : "http://") + host; }

S3Endpoint resolve_endpoint(S3Options const& options) {
  check_name("bucket", options.bucket, 3, 255, "-._");
  check_name("region", options.region, 1, 64, "-");
  S3Endpoint endpoint;
  if (options.endpoint.empty()) {
    endpoint.is_aws = true;
    endpoint.host = "s3." + options.region + ".amazonaws.com";
  } else {
    std::string_view rest = options.endpoint;
    // Said without the value: it may hold a password.
    KVBM_EXPECTS(rest.find('@') == std::string_view::npos, InvalidArgument,
                 "endpoint: a URL with a user in it; credentials go into S3Options::credentials");
    if (rest.substr(0, 7) == "http://") {
      endpoint.is_https = false;
      rest.remove_prefix(7);
    } else {
      KVBM_EXPECTS(rest.substr(0, 8) == "https://", InvalidArgument,
                   fmt::format("endpoint '{}' starts with neither http:// nor https://",
                               printable(rest, 200)));
      rest.remove_prefix(8);
    }
    if (!rest.empty() && rest.back() == '/') { rest.remove_suffix(1); }
    bool const is_host = !rest.empty() && std::all_of(rest.begin(), rest.end(), [](char c) {
      return is_alphanumeric(c) || std::string_view("-._:[]").find(c) != std::string_view::npos;
    });
    KVBM_EXPECTS(is_host, InvalidArgument,
                 fmt::format("endpoint '{}' is not http[s]://HOST[:PORT]",
                             printable(options.endpoint, 200)));
    endpoint.host = std::string(rest);
  }
  // TLS certificates for *.s3... do not cover names with further dots.
  bool const has_dots = options.bucket.find('.') != std::string::npos;
  bool const path_style = options.path_style.value_or(!endpoint.is_aws || has_dots);
  if (path_style) {
    endpoint.path_prefix = "/" + options.bucket;
  } else {
    endpoint.host = options.bucket + "." + endpoint.host;
  }
  return endpoint;
}

void check_options(S3Options& options) {
  check_limits(options);
  if (options.threads == 0) {
    // One thread moves one to two GB/s, and there is other work for half of the CPUs.
    std::size_t const cpus = std::max(1U, std::thread::hardware_concurrency());
    options.threads = std::clamp<std::size_t>(cpus / 2, 1, 4);
  }
  options.threads = std::min(options.threads, options.connections);
}

}  // namespace kvbm::object
