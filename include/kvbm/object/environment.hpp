// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

#include "kvbm/object/s3_client.hpp"

namespace kvbm::object {

/// A bucket where the environment says that S3 is: AWS_ENDPOINT_URL_S3 or AWS_ENDPOINT_URL (else
/// AWS itself), AWS_REGION or AWS_DEFAULT_REGION (else us-east-1), AWS_CA_BUNDLE. Credentials come
/// from Credentials::from_chain().
[[nodiscard]] S3Options options_from_environment(std::string bucket);

/// What reaches S3 in this build ("libcurl 7.88.1"); empty: it was built without.
[[nodiscard]] std::string client_name();

}  // namespace kvbm::object
