// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "kvbm/object/credentials.hpp"

namespace kvbm::object {

/// What is signed in a request, as AWS Signature Version 4 sees it.
struct SigningRequest {
  std::string method;  ///< "GET"
  std::string path;    ///< percent-encoded, starts with '/'
  /// Neither encoded nor sorted.
  std::vector<std::pair<std::string, std::string>> query;
  /// Those that are signed, "host" among them; names in any case, in any order.
  std::vector<std::pair<std::string, std::string>> headers;
  std::string payload_hash;  ///< hexadecimal SHA-256 of the body, or "UNSIGNED-PAYLOAD"
};

/// "20150830T123600Z".
std::string amz_date(std::chrono::system_clock::time_point time);

/// The query as it goes into the URL and is signed: encoded and sorted.
std::string canonical_query(std::vector<std::pair<std::string, std::string>> const& query);

/// The canonical request, as AWS describes it.
std::string canonical_request(SigningRequest const& request);

/// The value of the header Authorization. A session token has to be among the headers already.
/// @param date  as of amz_date()
std::string authorization(SigningRequest const& request, Credentials const& credentials,
                          std::string_view date, std::string_view region, std::string_view service);

}  // namespace kvbm::object
