// SPDX-License-Identifier: Apache-2.0
#include "object/block_record.hpp"

#include <fmt/format.h>

#include "kvbm/core/error.hpp"
#include "kvbm/object/object_keys.hpp"
#include "object/text.hpp"

namespace kvbm::object {

namespace {

constexpr char const* kVersion = "kvbm-format";
constexpr char const* kExtentBytes = "kvbm-extent-bytes";
constexpr char const* kChecksums = "kvbm-xxh3";

std::uint64_t number_in(S3Object const& object, char const* name) {
  auto const text = object.find(name);
  auto const value = text ? parse_number(*text) : std::nullopt;
  if (!value) {
    throw CorruptError(fmt::format("its metadata {} is {}: it was not written by kvbm, or damaged",
                                   name, text ? "'" + printable(*text, 40) + "'" : "missing"));
  }
  return *value;
}

std::optional<Checksum> parse_checksum(std::string_view text) {
  if (text == "-") { return std::nullopt; }
  constexpr std::size_t kDigits = 32;
  Checksum checksum;
  bool is_good = text.size() == kDigits;
  for (std::size_t i = 0; is_good && i < kDigits; ++i) {
    int const digit = hex_value(text[i]);
    is_good = digit >= 0;
    auto& half = i < kDigits / 2 ? checksum.high : checksum.low;
    half = half << 4U | static_cast<std::uint64_t>(digit & 15);
  }
  if (!is_good) {
    throw CorruptError(fmt::format("'{}' in its metadata is no checksum", printable(text, 40)));
  }
  return checksum;
}

}  // namespace

S3Metadata BlockRecord::to_metadata() const {
  std::string text;
  for (auto const& checksum : checksums) {
    if (!text.empty()) { text += ','; }
    text += checksum ? to_string(*checksum) : "-";
  }
  return {{kVersion, std::to_string(ObjectKeyScheme::kFormatVersion)},
          {kExtentBytes, std::to_string(extent_bytes)},
          {kChecksums, std::move(text)}};
}

BlockRecord BlockRecord::parse(S3Object const& object, std::uint64_t extent_bytes,
                               std::size_t num_blocks) {
  std::uint64_t const version = number_in(object, kVersion);
  KVBM_EXPECTS(version <= ObjectKeyScheme::kFormatVersion, VersionMismatch,
               fmt::format("it is of format version {}, this kvbm reads {}", version,
                           ObjectKeyScheme::kFormatVersion));
  BlockRecord record;
  record.extent_bytes = number_in(object, kExtentBytes);
  if (record.extent_bytes != extent_bytes) {
    throw CorruptError(fmt::format("its blocks have {} bytes, this store's have {}",
                                   record.extent_bytes, extent_bytes));
  }
  std::string_view text = object.find(kChecksums).value_or("");
  while (!text.empty()) {
    auto const comma = text.find(',');
    record.checksums.push_back(parse_checksum(text.substr(0, comma)));
    text.remove_prefix(comma == std::string_view::npos ? text.size() : comma + 1);
  }
  if (record.checksums.size() != num_blocks || object.bytes != num_blocks * extent_bytes) {
    throw CorruptError(
        fmt::format("it has {} bytes and {} checksums, {} blocks of {} bytes were expected",
                    object.bytes, record.checksums.size(), num_blocks, extent_bytes));
  }
  return record;
}

}  // namespace kvbm::object
