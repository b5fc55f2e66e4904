// SPDX-License-Identifier: Apache-2.0
#include "object/object_manifest.hpp"

#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "kvbm/core/error.hpp"
#include "kvbm/core/types.hpp"
#include "kvbm/object/object_keys.hpp"
#include "object/sha256.hpp"
#include "object/text.hpp"

namespace kvbm::object {

namespace {

constexpr char const* kChecksum = "kvbm-xxh3";

std::string from_hex(std::string const& text) {
  std::string bytes;
  for (std::size_t i = 0; i + 1 < text.size(); i += 2) {
    int const high = hex_value(text[i]);
    int const low = hex_value(text[i + 1]);
    if (high < 0 || low < 0) { break; }
    bytes += static_cast<char>(high * 16 + low);
  }
  if (2 * bytes.size() != text.size()) { throw CorruptError("its metadata is not hexadecimal"); }
  return bytes;
}

template <typename T>
T member(nlohmann::json const& json, char const* name) {
  auto const found = json.find(name);
  bool is_good = found != json.end();
  if constexpr (std::is_same_v<T, std::string>) {
    is_good = is_good && found->is_string();
  } else {
    is_good = is_good && found->is_number_unsigned() &&
              found->template get<std::uint64_t>() <= std::numeric_limits<T>::max();
  }
  if (!is_good) { throw CorruptError(fmt::format("'{}' is missing or of another type", name)); }
  return found->template get<T>();
}

}  // namespace

std::string ObjectManifest::to_body() const {
  nlohmann::ordered_json json;
  json["format_version"] = ObjectKeyScheme::kFormatVersion;
  json["extent_bytes"] = extent_bytes;
  json["num_blocks"] = num_blocks;
  json["blocks_per_object"] = blocks_per_object;
  json["metadata_hex"] =
      to_hex(std::span(reinterpret_cast<unsigned char const*>(metadata.data()), metadata.size()));
  return json.dump(2) + "\n";
}

S3Metadata ObjectManifest::metadata_of(std::string_view body) {
  return {{kChecksum, to_string(checksum_bytes(body.data(), body.size()))}};
}

ObjectManifest ObjectManifest::parse(std::string_view body, S3Object const& object) {
  if (object.find(kChecksum) != to_string(checksum_bytes(body.data(), body.size()))) {
    throw CorruptError("its checksum is another one or missing");
  }
  auto const json = nlohmann::json::parse(body, nullptr, false);
  if (!json.is_object()) { throw CorruptError("it is no JSON object"); }
  auto const version = member<std::uint64_t>(json, "format_version");
  KVBM_EXPECTS(version <= ObjectKeyScheme::kFormatVersion, VersionMismatch,
               fmt::format("it is of format version {}, this kvbm reads {}", version,
                           ObjectKeyScheme::kFormatVersion));
  ObjectManifest manifest;
  manifest.extent_bytes = member<std::uint64_t>(json, "extent_bytes");
  manifest.num_blocks = member<std::uint64_t>(json, "num_blocks");
  manifest.blocks_per_object = member<std::uint32_t>(json, "blocks_per_object");
  manifest.metadata = from_hex(member<std::string>(json, "metadata_hex"));
  return manifest;
}

}  // namespace kvbm::object
