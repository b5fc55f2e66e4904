// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <concepts>
#include <cstdint>

#include "kvbm/core/error.hpp"

/// Size and address arithmetic that refuses to wrap. Everything that computes bytes uses it.
namespace kvbm {

/// a + b; throws Error(Overflow) naming both operands where the sum does not fit.
std::uint64_t checked_add(std::uint64_t a, std::uint64_t b);

/// a * b; throws Error(Overflow) naming both operands where the product does not fit.
std::uint64_t checked_mul(std::uint64_t a, std::uint64_t b);

/// Product of all operands; throws Error(Overflow).
template <std::same_as<std::uint64_t>... Rest>
std::uint64_t checked_mul(std::uint64_t a, std::uint64_t b, Rest... rest) {
  return checked_mul(checked_mul(a, b), rest...);
}

/// Whether `value` is 1, 2, 4, 8, ...
[[nodiscard]] constexpr bool is_power_of_two(std::uint64_t value) noexcept {
  return value != 0 && (value & (value - 1)) == 0;
}

/// Smallest multiple of `alignment` (a power of two) that is >= value; throws Error(Overflow).
std::uint64_t checked_align_up(std::uint64_t value, std::uint64_t alignment);

/// Largest size or end address kvbm accepts, 2^63 - 1: strides are signed 64-bit.
inline constexpr std::uint64_t kMaxBytes = (std::uint64_t{1} << 63) - 1;

}  // namespace kvbm
