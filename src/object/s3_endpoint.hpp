// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

#include "kvbm/object/s3_client.hpp"

namespace kvbm::object {

/// Where requests of a bucket go.
struct S3Endpoint {
  bool is_https = true;
  bool is_aws = false;      ///< chosen by region, not named
  std::string host;         ///< with the port, as in the header Host
  std::string path_prefix;  ///< "/bucket" with path style, else empty

  /// "http://host:port", which paths are put behind.
  [[nodiscard]] std::string origin() const;
};

/// @throws Error(InvalidArgument) naming the option; never repeats an endpoint that holds a user
S3Endpoint resolve_endpoint(S3Options const& options);

/// Fills in defaults and checks limits. @throws Error(InvalidArgument)
void check_options(S3Options& options);

}  // namespace kvbm::object
