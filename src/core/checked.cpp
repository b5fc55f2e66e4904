// SPDX-License-Identifier: Apache-2.0
#include "kvbm/core/checked.hpp"

#include <fmt/format.h>

namespace kvbm {

std::uint64_t checked_add(std::uint64_t a, std::uint64_t b) {
  std::uint64_t sum = 0;
  bool const wrapped = __builtin_add_overflow(a, b, &sum);
  KVBM_EXPECTS(!wrapped && sum <= kMaxBytes, Overflow,
               fmt::format("{} + {} does not fit into 63 bits", a, b));
  return sum;
}

std::uint64_t checked_mul(std::uint64_t a, std::uint64_t b) {
  std::uint64_t product = 0;
  bool const wrapped = __builtin_mul_overflow(a, b, &product);
  KVBM_EXPECTS(!wrapped && product <= kMaxBytes, Overflow,
               fmt::format("{} * {} does not fit into 63 bits", a, b));
  return product;
}

std::uint64_t checked_align_up(std::uint64_t value, std::uint64_t alignment) {
  KVBM_EXPECTS(is_power_of_two(alignment), InvalidArgument,
               fmt::format("alignment {} is not a power of two", alignment));
  return checked_add(value, alignment - 1) & ~(alignment - 1);
}

}  // namespace kvbm
