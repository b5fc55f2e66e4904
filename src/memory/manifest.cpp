// SPDX-License-Identifier: Apache-2.0
#include "memory/manifest.hpp"

#include <fmt/format.h>

#include <nlohmann/json.hpp>
#include <utility>

#include "kvbm/core/checked.hpp"
#include "kvbm/core/error.hpp"

namespace kvbm::memory {
namespace {

using Json = nlohmann::json;

constexpr std::string_view kFormat = "kvbm-block-file";
constexpr std::string_view kStripesFormat = "kvbm-stripe-set";
constexpr std::string_view kHead = R"({"checksum":")";
constexpr std::string_view kNeck = R"(","manifest":)";
constexpr std::string_view kTail = "}\n";
constexpr std::size_t kDigits = 32;

[[noreturn]] void throw_corrupt(std::string_view name, std::string_view what) {
  throw CorruptError(fmt::format("{}: damaged manifest: {}", name, what));
}

bool is_utf8(std::string const& text) {
  // nlohmann's own idea of it counts, since it decides whether dump() throws.
  try {
    static_cast<void>(Json(text).dump());
    return true;
  } catch (Json::exception const&) { return false; }
}

std::string to_hex(std::string_view bytes) {
  std::string text;
  text.reserve(bytes.size() * 2);
  for (char const byte : bytes) {
    fmt::format_to(std::back_inserter(text), "{:02x}", static_cast<unsigned char>(byte));
  }
  return text;
}

unsigned hex_digit(char digit, std::string_view name) {
  if (digit >= '0' && digit <= '9') { return static_cast<unsigned>(digit - '0'); }
  if (digit >= 'a' && digit <= 'f') { return static_cast<unsigned>(digit - 'a') + 10; }
  throw_corrupt(name, "a hexadecimal digit was expected");
}

std::string from_hex(std::string_view text, std::string_view name) {
  if (text.size() % 2 != 0) { throw_corrupt(name, "an odd number of hexadecimal digits"); }
  std::string bytes(text.size() / 2, '\0');
  for (std::size_t i = 0; i < bytes.size(); ++i) {
    bytes[i] =
        static_cast<char>(hex_digit(text[2 * i], name) << 4U | hex_digit(text[2 * i + 1], name));
  }
  return bytes;
}

std::uint64_t read_number(Json const& object, char const* field, std::string_view name) {
  auto const it = object.find(field);
  if (it == object.end() || !it->is_number_unsigned()) {
    throw_corrupt(name, fmt::format("field {} is missing or not a number", field));
  }
  return it->get<std::uint64_t>();
}

std::string read_string(Json const& object, char const* field, std::string_view name) {
  auto const it = object.find(field);
  if (it == object.end() || !it->is_string()) {
    throw_corrupt(name, fmt::format("field {} is missing or not a string", field));
  }
  return it->get<std::string>();
}

std::string_view unseal(std::string_view text, std::string_view name) {
  if (text.size() > kMaxManifestBytes) {
    throw_corrupt(name,
                  fmt::format("{} bytes, at most {} are read", text.size(), kMaxManifestBytes));
  }
  std::size_t const body_at = kHead.size() + kDigits + kNeck.size();
  if (text.size() < body_at + kTail.size() || !text.starts_with(kHead) ||
      text.substr(kHead.size() + kDigits, kNeck.size()) != kNeck || !text.ends_with(kTail)) {
    throw_corrupt(name, "it does not start and end as one");
  }
  std::string_view const body = text.substr(body_at, text.size() - body_at - kTail.size());
  std::string const expected(text.substr(kHead.size(), kDigits));
  std::string const found = to_string(checksum_bytes(body.data(), body.size()));
  if (found != expected) {
    throw_corrupt(name, fmt::format("checksum is {}, it says {}", found, expected));
  }
  return body;
}

std::vector<ExtentGroup> read_groups(Json const& body, std::string_view name) {
  auto const it = body.find("groups");
  if (it == body.end() || !it->is_array() || it->size() > kMaxGroups) {
    throw_corrupt(name, "field groups is missing, not a list, or too long");
  }
  std::vector<ExtentGroup> groups;
  groups.reserve(it->size());
  for (auto const& group : *it) {
    if (!group.is_object()) { throw_corrupt(name, "a group is not an object"); }
    groups.push_back(
        {read_number(group, "file_offset", name), read_number(group, "extent_bytes", name),
         read_number(group, "extent_stride", name), read_number(group, "count", name)});
  }
  return groups;
}

std::vector<std::string> read_parts(Json const& body, std::string_view name) {
  auto const it = body.find("parts_hex");
  if (it == body.end() || !it->is_array() || it->empty() || it->size() > kMaxParts) {
    throw_corrupt(name, "field parts_hex is missing, not a list, empty or too long");
  }
  std::vector<std::string> parts;
  for (auto const& part : *it) {
    if (!part.is_string()) { throw_corrupt(name, "a part is not a string"); }
    parts.push_back(from_hex(part.get<std::string>(), name));
    if (parts.back().empty()) { throw_corrupt(name, "a part without a path"); }
  }
  return parts;
}

Manifest read_body(Json const& body, std::string_view name, std::string_view format) {
  if (!body.is_object()) { throw_corrupt(name, "not an object"); }
  if (read_string(body, "format", name) != format) { throw_corrupt(name, "of another format"); }
  std::uint64_t const version = read_number(body, "version", name);
  if (version > kManifestVersion) {
    throw_error(ErrorCode::VersionMismatch,
                fmt::format("{}: version {} was written by a newer kvbm; this one reads up to {}",
                            name, version, kManifestVersion));
  }
  if (version == 0) { throw_corrupt(name, "version 0"); }

  Manifest manifest;
  manifest.id = read_number(body, "id", name);
  manifest.groups = read_groups(body, name);
  if (format == kStripesFormat) { manifest.parts = read_parts(body, name); }
  manifest.metadata = body.contains("metadata_hex")
                          ? from_hex(read_string(body, "metadata_hex", name), name)
                          : read_string(body, "metadata", name);
  if (manifest.metadata.size() > kMaxMetadataBytes) { throw_corrupt(name, "metadata too large"); }
  FileGeometry const geometry = check_groups(manifest.groups);
  if (read_number(body, "data_bytes", name) != geometry.data_bytes) {
    throw_corrupt(
        name, fmt::format("data_bytes is not the {} that the groups need", geometry.data_bytes));
  }
  return manifest;
}

}  // namespace

FileGeometry check_groups(std::vector<ExtentGroup> const& groups) {
  KVBM_EXPECTS(!groups.empty(), InvalidArgument, "a block file needs at least one extent group");
  KVBM_EXPECTS(groups.size() <= kMaxGroups, InvalidArgument,
               fmt::format("{} extent groups, at most {} are possible", groups.size(), kMaxGroups));
  FileGeometry geometry;
  geometry.first_record.reserve(groups.size());
  for (std::size_t i = 0; i < groups.size(); ++i) {
    ExtentGroup const& group = groups[i];
    KVBM_EXPECTS(group.extent_bytes >= 1 && group.count >= 1, InvalidArgument,
                 fmt::format("extent group {}: extent_bytes {} and count {} must be at least 1", i,
                             group.extent_bytes, group.count));
    KVBM_EXPECTS(
        group.file_offset % kFileAlignment == 0 && group.extent_stride % kFileAlignment == 0,
        InvalidArgument,
        fmt::format("extent group {}: file_offset {} and extent_stride {} must be multiples of {}",
                    i, group.file_offset, group.extent_stride, kFileAlignment));
    KVBM_EXPECTS(group.extent_stride >= group.extent_bytes, InvalidArgument,
                 fmt::format("extent group {}: extent_stride {} is below extent_bytes {}", i,
                             group.extent_stride, group.extent_bytes));
    KVBM_EXPECTS(group.file_offset >= geometry.data_bytes, InvalidArgument,
                 fmt::format("extent group {}: file_offset {} lies before {}, the end of the group "
                             "before it",
                             i, group.file_offset, geometry.data_bytes));
    std::uint64_t const body = checked_mul(group.count - 1, group.extent_stride);
    std::uint64_t const last = checked_align_up(group.extent_bytes, kFileAlignment);
    geometry.data_bytes = checked_add(checked_add(group.file_offset, body), last);
    geometry.first_record.push_back(geometry.num_extents);
    geometry.num_extents = checked_add(geometry.num_extents, group.count);
    KVBM_EXPECTS(geometry.num_extents <= kMaxExtents, InvalidArgument,
                 fmt::format("extent group {}: count {} makes more than {} extents", i, group.count,
                             kMaxExtents));
  }
  return geometry;
}

std::string seal_manifest(std::string_view body) {
  return fmt::format("{}{}{}{}{}", kHead, to_string(checksum_bytes(body.data(), body.size())),
                     kNeck, body, kTail);
}

std::string encode_manifest(Manifest const& manifest) {
  KVBM_EXPECTS(manifest.metadata.size() <= kMaxMetadataBytes, InvalidArgument,
               fmt::format("metadata of {} bytes, at most {} fit into a manifest",
                           manifest.metadata.size(), kMaxMetadataBytes));
  Json groups = Json::array();
  for (auto const& group : manifest.groups) {
    groups.push_back({{"file_offset", group.file_offset},
                      {"extent_bytes", group.extent_bytes},
                      {"extent_stride", group.extent_stride},
                      {"count", group.count}});
  }
  Json body = {{"format", manifest.parts.empty() ? kFormat : kStripesFormat},
               {"version", kManifestVersion},
               {"id", manifest.id},
               {"data_bytes", check_groups(manifest.groups).data_bytes},
               {"groups", std::move(groups)}};
  // Paths are bytes, not text; the readable ones are for people.
  KVBM_EXPECTS(manifest.parts.size() <= kMaxParts, InvalidArgument,
               fmt::format("{} parts, at most {} are possible", manifest.parts.size(), kMaxParts));
  for (auto const& part : manifest.parts) {
    body["parts_hex"].push_back(to_hex(part));
    if (is_utf8(part)) { body["parts"].push_back(part); }
  }
  if (is_utf8(manifest.metadata)) {
    body["metadata"] = manifest.metadata;
  } else {
    body["metadata_hex"] = to_hex(manifest.metadata);
  }
  std::string text = seal_manifest(body.dump());
  KVBM_EXPECTS(text.size() <= kMaxManifestBytes, InvalidArgument,
               fmt::format("the manifest would take {} bytes, at most {} are possible; shorten the "
                           "metadata",
                           text.size(), kMaxManifestBytes));
  return text;
}

namespace {

Manifest decode(std::string_view text, std::string_view name, std::string_view format) {
  std::string_view const body = unseal(text, name);
  Json const json = Json::parse(body.begin(), body.end(), nullptr, /*allow_exceptions=*/false);
  if (json.is_discarded()) { throw_corrupt(name, "not JSON"); }
  try {
    return read_body(json, name, format);
  } catch (Error const& error) {
    if (error.code() != ErrorCode::InvalidArgument && error.code() != ErrorCode::Overflow) {
      throw;
    }
    throw_corrupt(name, error.what());
  }
}

}  // namespace

Manifest decode_manifest(std::string_view text, std::string_view name) {
  return decode(text, name, kFormat);
}

Manifest decode_stripes(std::string_view text, std::string_view name) {
  return decode(text, name, kStripesFormat);
}

}  // namespace kvbm::memory
