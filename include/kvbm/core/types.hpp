// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <compare>
#include <cstddef>
#include <cstdint>
#include <string>

namespace kvbm {

/// Index of a KV block (page) inside one layout.
using BlockId = std::uint32_t;

/// Ordinal of a device of one backend (host device 0, CUDA device 0, ...).
using DeviceId = int;

/// Half-open range of indices [begin, end).
struct IndexRange {
  std::uint64_t begin = 0;
  std::uint64_t end = 0;

  [[nodiscard]] constexpr std::uint64_t size() const noexcept { return end - begin; }
  [[nodiscard]] constexpr bool empty() const noexcept { return end <= begin; }
  friend bool operator==(IndexRange const&, IndexRange const&) = default;
};

/// "[begin, end)".
std::string to_string(IndexRange range);

/// Throws Error(InvalidArgument) if `range` is empty or reversed, Error(OutOfRange) if it ends
/// beyond `extent`; `what` names it in the message ("layer_range").
void check_range(IndexRange range, std::uint64_t extent, char const* what);

/// XXH3-128 of some bytes, as a value. Ordered and hashable for use as a key.
struct Checksum {
  std::uint64_t low = 0;
  std::uint64_t high = 0;
  friend auto operator<=>(Checksum const&, Checksum const&) = default;
};

/// 32 hexadecimal digits, most significant first.
std::string to_string(Checksum checksum);

/// XXH3-128 of `bytes` bytes at `data`.
Checksum checksum_bytes(void const* data, std::size_t bytes) noexcept;

/// Binary size literals: 64_KiB, 2_MiB, 1_GiB (bytes).
namespace literals {
constexpr std::uint64_t operator""_KiB(unsigned long long value) { return value << 10U; }
constexpr std::uint64_t operator""_MiB(unsigned long long value) { return value << 20U; }
constexpr std::uint64_t operator""_GiB(unsigned long long value) { return value << 30U; }
}  // namespace literals

}  // namespace kvbm
