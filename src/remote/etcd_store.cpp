// SPDX-License-Identifier: Apache-2.0
#include "remote/etcd_store.hpp"

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include <algorithm>
#include <string_view>
#include <utility>

#include "kvbm/core/error.hpp"
#include "kvbm/core/types.hpp"

namespace kvbm::remote {
namespace {

using Json = nlohmann::json;

constexpr int kVersion = 1;
constexpr std::size_t kChunkBytes = std::size_t{1} << 20;

std::size_t num_chunks(std::uint64_t bytes) { return (bytes + kChunkBytes - 1) / kChunkBytes; }

std::string encode(EtcdStore::Head const& head) {
  return Json{{"version", kVersion},
              {"owner_id", head.owner_id},
              {"owner", head.owner},
              {"upload", head.upload},
              {"bytes", head.bytes},
              {"checksum_low", head.checksum.low},
              {"checksum_high", head.checksum.high}}
      .dump(-1, ' ', true, Json::error_handler_t::replace);
}

EtcdStore::Head decode(std::string const& name, EtcdClient::Entry const& entry) {
  try {
    Json const json = Json::parse(entry.value);
    int const version = json.at("version").get<int>();
    KVBM_EXPECTS(version == kVersion, VersionMismatch,
                 fmt::format("the entry of '{}' in etcd has version {}; this kvbm reads {}", name,
                             version, kVersion));
    EtcdStore::Head head;
    json.at("owner_id").get_to(head.owner_id);
    json.at("owner").get_to(head.owner);
    json.at("upload").get_to(head.upload);
    json.at("bytes").get_to(head.bytes);
    json.at("checksum_low").get_to(head.checksum.low);
    json.at("checksum_high").get_to(head.checksum.high);
    head.revision = entry.revision;
    if (head.bytes > kMaxMetadataBytes) {
      throw CorruptError(fmt::format("the entry of '{}' in etcd claims {} bytes; at most {} can be",
                                     name, head.bytes, kMaxMetadataBytes));
    }
    return head;
  } catch (Json::exception const& error) {
    throw CorruptError(
        fmt::format("the entry of '{}' in etcd cannot be read: {}", name, error.what()));
  }
}

}  // namespace

std::string EtcdStore::head_key(std::string const& name) const { return prefix_ + "name/" + name; }

std::string EtcdStore::upload_prefix(std::string const& name, std::uint64_t upload) const {
  return fmt::format("{}data/{}/{:016x}/", prefix_, name, upload);
}

std::string EtcdStore::chunk_key(std::string const& name, std::uint64_t upload,
                                 std::size_t chunk) const {
  return fmt::format("{}{:04x}", upload_prefix(name, upload), chunk);
}

EtcdStore::Head EtcdStore::upload(std::string const& name, std::span<std::byte const> metadata,
                                  std::int64_t lease, std::function<void()> const& before_chunk) {
  Head head;
  head.upload = random_id();
  head.bytes = metadata.size();
  head.checksum = checksum_bytes(metadata.data(), metadata.size());
  std::string_view const all(reinterpret_cast<char const*>(metadata.data()), metadata.size());
  for (std::size_t i = 0; i < num_chunks(head.bytes); ++i) {
    if (before_chunk) { before_chunk(); }
    client_.put(chunk_key(name, head.upload, i), all.substr(i * kChunkBytes, kChunkBytes), lease);
  }
  return head;
}

void EtcdStore::remove_upload(std::string const& name, std::uint64_t upload) {
  client_.remove_all(upload_prefix(name, upload));
}

EtcdStore::TakeResult EtcdStore::take(std::string const& name, Head const& head, std::int64_t lease,
                                      std::int64_t revision) {
  auto const put = client_.put_if(head_key(name), encode(head), lease, revision);
  if (put.is_put) { return {true, put.revision}; }
  if (!put.there) { return {}; }
  Head there = decode(name, *put.there);
  // An answer may get lost though the request was carried out, and another endpoint be asked again.
  if (there.owner_id == head.owner_id && there.upload == head.upload) {
    return {true, there.revision};
  }
  return {false, 0, std::move(there)};
}

bool EtcdStore::remove(std::string const& name, std::int64_t revision) {
  return client_.remove_if(head_key(name), revision, prefix_ + "data/" + name + "/");
}

std::optional<EtcdStore::Head> EtcdStore::find(std::string const& name) {
  auto const entry = client_.get(head_key(name));
  return entry ? std::optional(decode(name, *entry)) : std::nullopt;
}

std::optional<std::vector<std::byte>> EtcdStore::download(std::string const& name) {
  auto const head = find(name);
  if (!head) { return std::nullopt; }
  std::vector<std::byte> metadata;
  for (std::size_t i = 0; i < num_chunks(head->bytes); ++i) {
    auto const chunk = client_.get(chunk_key(name, head->upload, i));
    std::size_t const wanted = std::min<std::size_t>(kChunkBytes, head->bytes - metadata.size());
    if (!chunk || chunk->value.size() != wanted) {
      auto const now = find(name);
      if (!now || now->revision != head->revision) { return std::nullopt; }
      throw CorruptError(fmt::format("chunk {} of '{}' in etcd has {} bytes instead of {}", i, name,
                                     chunk ? chunk->value.size() : 0, wanted));
    }
    auto const bytes = std::as_bytes(std::span(chunk->value.data(), chunk->value.size()));
    metadata.insert(metadata.end(), bytes.begin(), bytes.end());
  }
  if (checksum_bytes(metadata.data(), metadata.size()) != head->checksum) {
    throw CorruptError(fmt::format("the checksum of '{}' in etcd does not match", name));
  }
  return metadata;
}

std::vector<std::string> EtcdStore::names() {
  constexpr int kPage = 1000;
  std::string const prefix = prefix_ + "name/";
  std::vector<std::string> names;
  std::string from;
  while (true) {
    auto const page = client_.keys(prefix, from, kPage);
    for (auto const& key : page) {
      if (!key.starts_with(prefix) || key < from) {
        throw CorruptError("etcd listed a key that was not asked for");
      }
      std::string name = key.substr(prefix.size());
      if (is_exchange_name(name)) { names.push_back(std::move(name)); }
      from = key + '\0';
    }
    if (page.size() < static_cast<std::size_t>(kPage)) { break; }
  }
  std::sort(names.begin(), names.end());
  return names;
}

}  // namespace kvbm::remote
