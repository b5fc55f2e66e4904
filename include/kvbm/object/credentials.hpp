// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <optional>
#include <string>

namespace kvbm::object {

/// Who signs requests. Nothing of kvbm prints or logs the secret or the token.
struct Credentials {
  std::string access_key_id;
  std::string secret_access_key;
  std::string session_token;  ///< empty: long-lived credentials have none
  /// Where they came from ("the environment", "profile default of /home/me/.aws/credentials").
  std::string source;
  /// When they end; a client asks the chain again some minutes before.
  std::optional<std::chrono::system_clock::time_point> expiration;

  /// What AWS's own tools look at, in this order: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and
  /// AWS_SESSION_TOKEN; the profile AWS_PROFILE (default "default") of AWS_SHARED_CREDENTIALS_FILE
  /// (default ~/.aws/credentials), then of AWS_CONFIG_FILE (default ~/.aws/config); the endpoint of
  /// a container (AWS_CONTAINER_CREDENTIALS_RELATIVE_URI or _FULL_URI); the instance's metadata
  /// service unless AWS_EC2_METADATA_DISABLED is true. The two endpoints get a second each.
  /// @throws Error(NotFound) naming everything that was looked at and why it gave nothing
  static Credentials from_chain();
};

/// "AKIA...MPLE from the environment": at most four letters at each end of the key id, nothing of
/// the secret.
std::string to_string(Credentials const& credentials);

}  // namespace kvbm::object
