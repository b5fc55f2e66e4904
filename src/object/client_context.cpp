// SPDX-License-Identifier: Apache-2.0
#include "object/client_context.hpp"

#include <fmt/format.h>

#include <algorithm>

#include "kvbm/core/log.hpp"
#include "kvbm/object/object_keys.hpp"
#include "object/sha256.hpp"
#include "object/sigv4.hpp"
#include "object/text.hpp"

namespace kvbm::object {

namespace {

constexpr std::chrono::minutes kRenewBefore{5};
constexpr std::chrono::minutes kRenewAgain{1};

S3Options checked(S3Options options) {
  check_has_crypto();
  check_options(options);
  return options;
}

/// A line break in a header would be another header.
bool is_header_text(std::string_view text) {
  return std::all_of(text.begin(), text.end(), [](char c) { return c >= ' ' && c <= '~'; });
}

}  // namespace

S3Stats Counters::read() const {
  S3Stats stats;
  stats.requests = requests.load();
  stats.retries = retries.load();
  stats.succeeded = succeeded.load();
  stats.failed = failed.load();
  stats.bytes_sent = bytes_sent.load();
  stats.bytes_received = bytes_received.load();
  stats.connections = connections.load();
  for (std::size_t i = 0; i < kNumS3ErrorKinds; ++i) {
    stats.attempt_errors[i] = attempt_errors[i].load();
  }
  return stats;
}

CredentialsSource::CredentialsSource(std::optional<Credentials> fixed)
    : is_fixed_(fixed.has_value()),
      current_(std::make_shared<Credentials const>(fixed ? std::move(*fixed)
                                                         : Credentials::from_chain())) {
  for (auto const* const part :
       {&current_->access_key_id, &current_->secret_access_key, &current_->session_token}) {
    KVBM_EXPECTS(is_header_text(*part), InvalidArgument,
                 "credentials from " + current_->source + " have characters that none have");
  }
  KVBM_EXPECTS(!current_->access_key_id.empty() && !current_->secret_access_key.empty(),
               InvalidArgument, "credentials without an access key or its secret");
}

std::shared_ptr<Credentials const> CredentialsSource::get() {
  std::lock_guard const lock(mutex_);
  auto const now = std::chrono::system_clock::now();
  if (!is_fixed_ && current_->expiration && now + kRenewBefore >= *current_->expiration &&
      now >= next_try_) {
    next_try_ = now + kRenewAgain;
    try {
      current_ = std::make_shared<Credentials const>(Credentials::from_chain());
    } catch (Error const& error) {
      // Those there are may do for some minutes more.
      log::write(log::Level::Warning,
                 std::string("credentials for the object store end soon: ") + error.what());
    }
  }
  return current_;
}

ClientContext::ClientContext(S3Options given)
    : options(checked(std::move(given))),
      endpoint(resolve_endpoint(options)),
      url(endpoint.origin() + endpoint.path_prefix),
      credentials(std::exchange(options.credentials, std::nullopt)) {
  options.path_style = !endpoint.path_prefix.empty();
}

bool ClientContext::signs_payloads() const noexcept {
  return options.payload_signing == PayloadSigning::Signed ||
         (options.payload_signing == PayloadSigning::Auto && !endpoint.is_https);
}

SignedRequest ClientContext::sign(Request const& request) {
  auto const who = credentials.get();
  std::string const date = amz_date(std::chrono::system_clock::now());
  SigningRequest to_sign;
  to_sign.method = to_string(request.method);
  to_sign.path = endpoint.path_prefix;
  if (!request.key.empty() || to_sign.path.empty()) {
    to_sign.path += "/" + percent_encode(request.key, true);
  }
  to_sign.query = request.query;
  to_sign.payload_hash = request.payload_hash;
  to_sign.headers = {{"host", endpoint.host},
                     {"x-amz-content-sha256", request.payload_hash},
                     {"x-amz-date", date}};
  if (!who->session_token.empty()) {
    to_sign.headers.emplace_back("x-amz-security-token", who->session_token);
  }
  for (auto const& [name, value] : request.metadata) {
    to_sign.headers.emplace_back("x-amz-meta-" + name, value);
  }
  if (!request.copy_source.empty()) {
    to_sign.headers.emplace_back(
        "x-amz-copy-source",
        "/" + options.bucket + "/" + percent_encode(request.copy_source, true));
    to_sign.headers.emplace_back("x-amz-metadata-directive", "REPLACE");
  }
  if (request.has_range()) {
    to_sign.headers.emplace_back("range", fmt::format("bytes={}-{}", request.offset,
                                                      request.offset + request.into_bytes - 1));
  }

  SignedRequest result;
  result.url = endpoint.origin() + to_sign.path;
  if (!to_sign.query.empty()) { result.url += "?" + canonical_query(to_sign.query); }
  for (auto const& [name, value] : to_sign.headers) {
    result.headers.push_back(fmt::format("{}: {}", name, value));
  }
  result.headers.push_back("authorization: " +
                           authorization(to_sign, *who, date, options.region, "s3"));
  // libcurl would wait for "100 Continue" before a body, and announce a form.
  result.headers.emplace_back("expect:");
  result.headers.emplace_back("content-type:");
  return result;
}

std::string ClientContext::describe(Request const& request) const {
  std::string text = std::string(to_string(request.method)) + " " + url;
  if (!request.key.empty()) { text += "/" + printable(request.key, 300); }
  return text;
}

void check_key(std::string const& key) {
  KVBM_EXPECTS(!key.empty() && key.size() <= ObjectKeyScheme::kMaxKeyBytes, InvalidArgument,
               fmt::format("an object's key of {} bytes: S3 takes 1 to {}", key.size(),
                           ObjectKeyScheme::kMaxKeyBytes));
}

void check_metadata(S3Metadata const& metadata) {
  constexpr std::size_t kMostBytes = 2048;
  std::size_t bytes = 0;
  for (auto const& [name, value] : metadata) {
    bool const is_name = !name.empty() && std::all_of(name.begin(), name.end(), [](char c) {
      return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '-';
    });
    KVBM_EXPECTS(is_name && is_header_text(value), InvalidArgument,
                 fmt::format("metadata '{}' of an object: names are lower-case letters, digits and "
                             "'-', values printable ASCII",
                             printable(name, 80)));
    bytes += name.size() + value.size();
  }
  KVBM_EXPECTS(bytes <= kMostBytes, InvalidArgument,
               fmt::format("{} bytes of metadata for an object: S3 takes {}", bytes, kMostBytes));
}

}  // namespace kvbm::object
