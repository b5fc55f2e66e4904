// SPDX-License-Identifier: Apache-2.0
#include "kvbm/object/environment.hpp"

#include <cstdlib>
#include <initializer_list>
#include <utility>

#include "object/http_get.hpp"

namespace kvbm::object {
namespace {

/// The first of these variables that is set and not empty.
std::string first_of(std::initializer_list<char const*> names) {
  for (char const* const name : names) {
    char const* const value = std::getenv(name);
    if (value != nullptr && *value != '\0') { return value; }
  }
  return {};
}

}  // namespace

S3Options options_from_environment(std::string bucket) {
  S3Options options;
  options.bucket = std::move(bucket);
  options.endpoint = first_of({"AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"});
  if (auto region = first_of({"AWS_REGION", "AWS_DEFAULT_REGION"}); !region.empty()) {
    options.region = std::move(region);
  }
  options.ca_file = first_of({"AWS_CA_BUNDLE"});
  return options;
}

std::string client_name() {
  auto const version = curl_version_text();
  return version.empty() ? version : "libcurl " + version;
}

}  // namespace kvbm::object
