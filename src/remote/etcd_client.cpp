// SPDX-License-Identifier: Apache-2.0
#include "remote/etcd_client.hpp"

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include <algorithm>
#include <array>
#include <charconv>
#include <utility>

#include "kvbm/core/error.hpp"

namespace kvbm::remote {
namespace {

using Json = nlohmann::json;
using std::chrono::milliseconds;

// A chunk in base64 with what is around it, or a page of keys.
constexpr std::size_t kMaxResponseBytes = std::size_t{4} << 20;
// Of grpc's codes, which the gateway passes on.
constexpr int kGrpcNotFound = 5;
constexpr int kGrpcUnavailable = 14;

constexpr std::string_view kDigits =
    "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

std::string to_base64(std::string_view bytes) {
  std::string text((bytes.size() + 2) / 3 * 4, '=');
  char* out = text.data();
  for (std::size_t at = 0; at < bytes.size(); at += 3) {
    std::size_t const count = std::min<std::size_t>(3, bytes.size() - at);
    std::uint32_t group = 0;
    for (std::size_t i = 0; i < 3; ++i) {
      group = group << 8U | (i < count ? static_cast<unsigned char>(bytes[at + i]) : 0U);
    }
    for (std::size_t i = 0; i < 4; ++i) {
      if (i <= count) { out[i] = kDigits[group >> (18 - 6 * i) & 63U]; }
    }
    out += 4;
  }
  return text;
}

std::string from_base64(std::string_view text) {
  static constexpr std::array<std::uint8_t, 256> kValues = [] {
    std::array<std::uint8_t, 256> values{};
    values.fill(64);
    for (std::size_t i = 0; i < kDigits.size(); ++i) {
      values[static_cast<unsigned char>(kDigits[i])] = static_cast<std::uint8_t>(i);
    }
    return values;
  }();
  if (text.size() % 4 != 0) { throw CorruptError("base64 of a wrong length"); }
  std::size_t padding = 0;
  while (padding < 2 && padding < text.size() && text[text.size() - 1 - padding] == '=') {
    ++padding;
  }
  std::string bytes;
  bytes.reserve(text.size() / 4 * 3);
  std::uint32_t group = 0;
  for (std::size_t i = 0; i < text.size(); ++i) {
    bool const is_padding = i + padding >= text.size();
    auto const value = is_padding ? std::uint8_t{0} : kValues[static_cast<unsigned char>(text[i])];
    if (value == 64) { throw CorruptError("a character that is not base64"); }
    group = group << 6U | value;
    if (i % 4 == 3) {
      bytes += static_cast<char>(group >> 16U);
      bytes += static_cast<char>(group >> 8U);
      bytes += static_cast<char>(group);
      group = 0;
    }
  }
  bytes.resize(bytes.size() - padding);
  return bytes;
}

/// The key behind all that begin with `prefix`.
std::string end_of(std::string_view prefix) {
  std::string end(prefix);
  // Prefixes end with '/', so there is no carry.
  end.back() = static_cast<char>(end.back() + 1);
  return end;
}

/// The gateway writes 64-bit integers as strings, and leaves out zeros.
std::int64_t integer(Json const& object, char const* key) {
  auto const found = object.find(key);
  if (found == object.end()) { return 0; }
  if (found->is_number_integer()) { return found->get<std::int64_t>(); }
  auto const& text = found->get_ref<std::string const&>();
  std::int64_t value = 0;
  auto const parsed = std::from_chars(text.data(), text.data() + text.size(), value);
  if (parsed.ec != std::errc{} || parsed.ptr != text.data() + text.size()) {
    throw CorruptError(fmt::format("'{}' is no number", key));
  }
  return value;
}

std::string bytes_of(Json const& object, char const* key) {
  auto const found = object.find(key);
  return found == object.end() ? std::string() : from_base64(found->get_ref<std::string const&>());
}

EtcdClient::Entry to_entry(Json const& json) {
  return {bytes_of(json, "key"), bytes_of(json, "value"), integer(json, "mod_revision")};
}

Json put_request(std::string_view key, std::string_view value, std::int64_t lease) {
  return {{"key", to_base64(key)}, {"value", to_base64(value)}, {"lease", std::to_string(lease)}};
}

Json compare_revision(std::string_view key, std::int64_t revision) {
  return Json::array({{{"key", to_base64(key)},
                       {"target", "MOD"},
                       {"result", "EQUAL"},
                       {"mod_revision", std::to_string(revision)}}});
}

/// Runs `read` on an answer of etcd; what does not fit is CorruptError.
template <class Read>
auto parse(std::string const& answer, Read read) {
  try {
    return read(Json::parse(answer));
  } catch (Json::exception const& error) {
    throw CorruptError(fmt::format("etcd's answer cannot be read: {}", error.what()));
  }
}

struct Refusal {
  int code = 0;
  std::string message;
};

/// What an answer with another status than 200 says. @throws CorruptError when it is not etcd's
Refusal to_refusal(HttpClient::Response const& response) {
  try {
    Json const json = Json::parse(response.body);
    return {json.value("code", 0), json.value("message", json.value("error", std::string()))};
  } catch (Json::exception const&) {
    throw CorruptError(fmt::format("HTTP status {} and not etcd's words", response.status));
  }
}

std::vector<std::string> checked_endpoints(EtcdExchangeOptions const& options) {
  KVBM_EXPECTS(!options.endpoints.empty(), InvalidArgument,
               "endpoints is empty: name at least one, as http://host:2379");
  std::vector<std::string> endpoints;
  for (std::string endpoint : options.endpoints) {
    while (endpoint.ends_with('/')) {
      endpoint.pop_back();
    }
    bool const is_url = (endpoint.starts_with("http://") && endpoint.size() > 7) ||
                        (endpoint.starts_with("https://") && endpoint.size() > 8);
    // Nobody's password belongs into a URL, which messages quote.
    KVBM_EXPECTS(endpoint.find('@') == std::string::npos, InvalidArgument,
                 "an endpoint has a '@': user names and passwords in it are not supported");
    KVBM_EXPECTS(
        is_url && endpoint.find_first_of(" \t\r\n?#") == std::string::npos, InvalidArgument,
        fmt::format("endpoint '{}' must be http://host:port or https://host:port", endpoint));
    endpoints.push_back(std::move(endpoint));
  }
  return endpoints;
}

}  // namespace

EtcdClient::EtcdClient(EtcdExchangeOptions const& options)
    : endpoints_(checked_endpoints(options)),
      request_timeout_(options.request_timeout),
      http_({options.ca_file, options.certificate_file, options.key_file}) {}

std::string EtcdClient::call(std::string_view path, std::string const& request,
                             std::optional<milliseconds> timeout) {
  Deadline const deadline(timeout.value_or(request_timeout_));
  std::size_t const first = preferred_.load(std::memory_order_relaxed);
  std::string failures;
  ErrorCode code = ErrorCode::Io;
  for (std::size_t i = 0; i < endpoints_.size(); ++i) {
    std::size_t const index = (first + i) % endpoints_.size();
    // A silent endpoint must leave time for those behind it.
    auto const share = deadline.left() / static_cast<std::int64_t>(endpoints_.size() - i);
    std::string why;
    try {
      auto response = http_.post(endpoints_[index] + std::string(path), request, Deadline(share),
                                 kMaxResponseBytes);
      if (response.status == 200) {
        preferred_.store(index, std::memory_order_relaxed);
        return std::move(response.body);
      }
      auto const refusal = to_refusal(response);
      if (refusal.code != kGrpcUnavailable) {
        throw_error(
            refusal.code == kGrpcNotFound ? ErrorCode::NotFound : ErrorCode::Internal,
            fmt::format("etcd at {} refused {}: {}", endpoints_[index], path, refusal.message));
      }
      why = refusal.message;
      code = ErrorCode::Io;
    } catch (Error const& error) {
      code = error.code();
      if (code == ErrorCode::NotFound) { throw; }
      if (code == ErrorCode::Internal) { throw_error(ErrorCode::Io, error.what()); }
      why = error.what();
    }
    failures += fmt::format("{}{}: {}", failures.empty() ? "" : "; ", endpoints_[index], why);
  }
  throw_error(code, fmt::format("etcd cannot be used: {}", failures));
}

EtcdClient::Lease EtcdClient::grant(std::chrono::seconds ttl) {
  Json const request{{"TTL", std::to_string(ttl.count())}};
  return parse(call("/v3/lease/grant", request.dump()), [](Json const& answer) {
    Lease const lease{integer(answer, "ID"), std::chrono::seconds(integer(answer, "TTL"))};
    if (lease.id == 0 || lease.ttl.count() < 1) { throw CorruptError("etcd granted no lease"); }
    return lease;
  });
}

bool EtcdClient::keep_alive(std::int64_t lease, milliseconds timeout) {
  Json const request{{"ID", std::to_string(lease)}};
  return parse(call("/v3/lease/keepalive", request.dump(), timeout),
               [](Json const& answer) { return integer(answer.at("result"), "TTL") > 0; });
}

void EtcdClient::revoke(std::int64_t lease, milliseconds timeout) {
  Json const request{{"ID", std::to_string(lease)}};
  call("/v3/lease/revoke", request.dump(), timeout);
}

void EtcdClient::put(std::string_view key, std::string_view value, std::int64_t lease) {
  call("/v3/kv/put", put_request(key, value, lease).dump());
}

EtcdClient::PutResult EtcdClient::put_if(std::string_view key, std::string_view value,
                                         std::int64_t lease, std::int64_t revision) {
  Json const request{{"compare", compare_revision(key, revision)},
                     {"success", Json::array({{{"request_put", put_request(key, value, lease)}}})},
                     {"failure", Json::array({{{"request_range", {{"key", to_base64(key)}}}}})}};
  return parse(call("/v3/kv/txn", request.dump()), [](Json const& answer) {
    PutResult result;
    result.is_put = answer.value("succeeded", false);
    result.revision = integer(answer.at("header"), "revision");
    if (!result.is_put) {
      auto const& range = answer.at("responses").at(0).at("response_range");
      if (range.contains("kvs")) { result.there = to_entry(range.at("kvs").at(0)); }
    }
    return result;
  });
}

std::optional<EtcdClient::Entry> EtcdClient::get(std::string_view key) {
  Json const request{{"key", to_base64(key)}};
  return parse(call("/v3/kv/range", request.dump()), [](Json const& answer) {
    static_cast<void>(answer.at("header"));  // etcd's answers have one
    return answer.contains("kvs") ? std::optional(to_entry(answer.at("kvs").at(0))) : std::nullopt;
  });
}

std::vector<std::string> EtcdClient::keys(std::string_view prefix, std::string_view from,
                                          int limit) {
  Json const request{{"key", to_base64(std::max(prefix, from))},
                     {"range_end", to_base64(end_of(prefix))},
                     {"keys_only", true},
                     {"limit", std::to_string(limit)}};
  return parse(call("/v3/kv/range", request.dump()), [](Json const& answer) {
    static_cast<void>(answer.at("header"));
    std::vector<std::string> keys;
    for (auto const& entry : answer.value("kvs", Json::array())) {
      keys.push_back(bytes_of(entry, "key"));
    }
    return keys;
  });
}

bool EtcdClient::remove_if(std::string_view key, std::int64_t revision, std::string_view prefix) {
  Json const remove_key{{"request_delete_range", {{"key", to_base64(key)}}}};
  Json const remove_below{{"request_delete_range",
                           {{"key", to_base64(prefix)}, {"range_end", to_base64(end_of(prefix))}}}};
  Json const request{{"compare", compare_revision(key, revision)},
                     {"success", Json::array({remove_key, remove_below})}};
  return parse(call("/v3/kv/txn", request.dump()),
               [](Json const& answer) { return answer.value("succeeded", false); });
}

void EtcdClient::remove_all(std::string_view prefix) {
  Json const request{{"key", to_base64(prefix)}, {"range_end", to_base64(end_of(prefix))}};
  call("/v3/kv/deleterange", request.dump());
}

}  // namespace kvbm::remote
