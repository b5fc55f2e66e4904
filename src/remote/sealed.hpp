// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <nlohmann/json.hpp>

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

/// The envelope of what workers tell each other: magic, version, length, CBOR, checksum. Reading
/// treats all of it as hostile.
namespace kvbm::remote::detail {

/// What an envelope is for.
struct Envelope {
  char const* what;        ///< names it in messages ("worker metadata")
  std::string_view magic;  ///< 8 characters
  std::uint32_t version;
  std::size_t max_bytes;  ///< of the whole blob
};

inline constexpr std::size_t kEnvelopeHeaderBytes = 8 + 4 + 8;
inline constexpr std::size_t kEnvelopeChecksumBytes = 16;

/// @throws Error(InvalidArgument) if the blob would be larger than the envelope allows
std::vector<std::byte> seal(Envelope const& envelope, nlohmann::json const& value);

/// Appends the checksum of `bytes` to them: what a hostile sender can do as well.
void append_checksum(std::vector<std::byte>& bytes);

/// The value inside. CBOR is read only as seal writes it: definite lengths, shortest numbers,
/// sorted keys, no tags, no negative or fractional numbers.
/// @throws Error(VersionMismatch); CorruptError
nlohmann::json unseal(Envelope const& envelope, std::span<std::byte const> bytes);

/// Refuses CBOR that is not written so, or nested or branched more than we ever write.
/// @throws CorruptError naming the position
void check_cbor(char const* what, std::span<std::byte const> bytes);

}  // namespace kvbm::remote::detail
