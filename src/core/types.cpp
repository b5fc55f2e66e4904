// SPDX-License-Identifier: Apache-2.0
#include "kvbm/core/types.hpp"

#include <fmt/format.h>

#include "kvbm/core/error.hpp"

namespace kvbm {

std::string to_string(IndexRange range) { return fmt::format("[{}, {})", range.begin, range.end); }

void check_range(IndexRange range, std::uint64_t extent, char const* what) {
  KVBM_EXPECTS(range.begin < range.end, InvalidArgument,
               fmt::format("{} {} is empty or reversed", what, to_string(range)));
  KVBM_EXPECTS(range.end <= extent, OutOfRange,
               fmt::format("{} {} ends beyond {}", what, to_string(range), extent));
}

}  // namespace kvbm
