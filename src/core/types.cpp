// SPDX-License-Identifier: Apache-2.0
#include "kvbm/core/types.hpp"

#include <fmt/format.h>
#include <xxhash.h>

#include "kvbm/core/error.hpp"

namespace kvbm {

std::string to_string(IndexRange range) { return fmt::format("[{}, {})", range.begin, range.end); }

void check_range(IndexRange range, std::uint64_t extent, char const* what) {
  KVBM_EXPECTS(range.begin < range.end, InvalidArgument,
               fmt::format("{} {} is empty or reversed", what, to_string(range)));
  KVBM_EXPECTS(range.end <= extent, OutOfRange,
               fmt::format("{} {} ends beyond {}", what, to_string(range), extent));
}

std::string to_string(Checksum checksum) {
  return fmt::format("{:016x}{:016x}", checksum.high, checksum.low);
}

Checksum checksum_bytes(void const* data, std::size_t bytes) noexcept {
  XXH128_hash_t const hash = XXH3_128bits(data, bytes);
  return {hash.low64, hash.high64};
}

}  // namespace kvbm
