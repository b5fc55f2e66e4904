// SPDX-License-Identifier: Apache-2.0
#include "object/sigv4.hpp"

#include <string.h>
#include <time.h>

#include <algorithm>
#include <array>
#include <map>

#include "object/sha256.hpp"
#include "object/text.hpp"

namespace kvbm::object {

namespace {

using Pairs = std::vector<std::pair<std::string, std::string>>;

/// Runs of spaces count as one, those at the ends not at all.
std::string canonical_value(std::string_view value) {
  std::string result;
  for (char const c : trim(value)) {
    if (c != ' ' || result.empty() || result.back() != ' ') { result += c; }
  }
  return result;
}

/// Names in lower case, sorted, values of equal names joined.
Pairs canonical_headers(Pairs const& headers) {
  std::map<std::string, std::string> joined;
  for (auto const& [name, value] : headers) {
    auto const [header, is_first] = joined.try_emplace(to_lower(name), canonical_value(value));
    if (!is_first) { header->second += "," + canonical_value(value); }
  }
  return {joined.begin(), joined.end()};
}

std::string signed_names(Pairs const& headers) {
  std::string names;
  for (auto const& header : headers) {
    if (!names.empty()) { names += ';'; }
    names += header.first;
  }
  return names;
}

std::string canonical_request(SigningRequest const& request, Pairs const& headers) {
  std::string text =
      request.method + "\n" + request.path + "\n" + canonical_query(request.query) + "\n";
  for (auto const& [name, value] : headers) {
    text += name;
    text += ':';
    text += value;
    text += '\n';
  }
  return text + "\n" + signed_names(headers) + "\n" + request.payload_hash;
}

}  // namespace

std::string amz_date(std::chrono::system_clock::time_point time) {
  std::time_t const seconds = std::chrono::system_clock::to_time_t(time);
  std::tm parts{};
  gmtime_r(&seconds, &parts);
  std::array<char, 24> text{};
  std::size_t const length = std::strftime(text.data(), text.size(), "%Y%m%dT%H%M%SZ", &parts);
  return {text.data(), length};
}

std::string canonical_query(Pairs const& query) {
  Pairs encoded;
  for (auto const& [name, value] : query) {
    encoded.emplace_back(percent_encode(name, false), percent_encode(value, false));
  }
  std::sort(encoded.begin(), encoded.end());
  std::string text;
  for (auto const& [name, value] : encoded) {
    if (!text.empty()) { text += '&'; }
    text += name;
    text += '=';
    text += value;
  }
  return text;
}

std::string canonical_request(SigningRequest const& request) {
  return canonical_request(request, canonical_headers(request.headers));
}

std::string authorization(SigningRequest const& request, Credentials const& credentials,
                          std::string_view date, std::string_view region,
                          std::string_view service) {
  Pairs const headers = canonical_headers(request.headers);
  std::string const day(date.substr(0, 8));
  std::string const scope =
      day + "/" + std::string(region) + "/" + std::string(service) + "/aws4_request";
  std::string const to_sign = "AWS4-HMAC-SHA256\n" + std::string(date) + "\n" + scope + "\n" +
                              to_hex(sha256(canonical_request(request, headers)));

  std::string secret = "AWS4" + credentials.secret_access_key;
  Sha256 key = hmac_sha256(
      std::span(reinterpret_cast<unsigned char const*>(secret.data()), secret.size()), day);
  explicit_bzero(secret.data(), secret.size());
  for (auto const part : {region, service, std::string_view("aws4_request")}) {
    key = hmac_sha256(key, part);
  }
  std::string const signature = to_hex(hmac_sha256(key, to_sign));
  explicit_bzero(key.data(), key.size());
  return "AWS4-HMAC-SHA256 Credential=" + credentials.access_key_id + "/" + scope +
         ", SignedHeaders=" + signed_names(headers) + ", Signature=" + signature;
}

}  // namespace kvbm::object
