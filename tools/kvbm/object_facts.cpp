// SPDX-License-Identifier: Apache-2.0
#include "object_facts.hpp"

#include <utility>

#include "kvbm/core/error.hpp"
#include "kvbm/object/environment.hpp"
#include "kvbm/object/s3_client.hpp"

namespace kvbm::cli {
namespace {

/// A server that refuses us is there.
bool is_unreachable(object::S3Failure const& failure) {
  using Kind = object::S3ErrorKind;
  return failure.kind() == Kind::Unreachable || failure.kind() == Kind::Silent ||
         failure.kind() == Kind::Interrupted;
}

void ask(ObjectFacts& facts, object::S3Options options) {
  facts.was_asked = true;
  try {
    object::S3Client(std::move(options)).probe();
  } catch (Error const& error) {
    auto const* const failure = object::s3_failure(error);
    if (failure == nullptr || is_unreachable(*failure)) { facts.why_unreachable = error.what(); }
    if (!facts.bucket.empty()) { facts.why_no_bucket = error.what(); }
  }
}

}  // namespace

ObjectFacts find_object_facts(std::string const& bucket) {
  ObjectFacts facts;
  facts.client = object::client_name();
  facts.bucket = bucket;
  // Some bucket has to be named to ask for anything.
  auto options = object::options_from_environment(bucket.empty() ? "kvbm-doctor" : bucket);
  facts.endpoint = options.endpoint;
  if (facts.client.empty()) { return facts; }
  try {
    options.credentials = object::Credentials::from_chain();
    facts.credentials_source = options.credentials->source;
  } catch (Error const& error) {
    facts.why_no_credentials = error.what();
    // Whether a server is there can be asked with any.
    options.credentials = object::Credentials{"none", "none", {}, {}, {}};
  }
  if (!facts.endpoint.empty() || !bucket.empty()) { ask(facts, std::move(options)); }
  return facts;
}

}  // namespace kvbm::cli
