// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

namespace kvbm::cli {

/// What there is for objects (G4). Nothing here holds a secret.
struct ObjectFacts {
  std::string client;              ///< "libcurl 7.88.1"; empty: not in this build
  std::string credentials_source;  ///< "the environment"; empty: none were found
  std::string why_no_credentials;
  std::string endpoint;         ///< what the environment names; empty: nothing, so AWS itself
  bool was_asked = false;       ///< whether the server was asked for anything
  std::string why_unreachable;  ///< of a server that was asked; empty: it answers
  std::string bucket;           ///< the one that was asked for
  std::string why_no_bucket;    ///< of a bucket that was asked for; empty: it can be read
};

/// Asks the endpoint that the environment names, or AWS itself where a bucket is given.
/// @param bucket  empty: none
ObjectFacts find_object_facts(std::string const& bucket);

}  // namespace kvbm::cli
