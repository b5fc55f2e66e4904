// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <compare>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>

namespace kvbm::layout {

/// Names a registered layout of a worker in 128 bits: worker_id in bits 0-63, layout_id in bits
/// 64-79, the other 48 reserved (zero in handles that kvbm makes, kept by to_bits/from_bits).
class LayoutHandle {
 public:
  constexpr LayoutHandle() = default;
  constexpr LayoutHandle(std::uint64_t worker_id, std::uint16_t layout_id) noexcept
      : low_(worker_id), high_(layout_id) {}

  [[nodiscard]] constexpr std::uint64_t worker_id() const noexcept { return low_; }
  [[nodiscard]] constexpr std::uint16_t layout_id() const noexcept {
    return static_cast<std::uint16_t>(high_ & 0xFFFFU);
  }
  /// The 48 reserved bits; a handle with any of them set is refused everywhere.
  [[nodiscard]] constexpr std::uint64_t reserved_bits() const noexcept { return high_ >> 16U; }

  /// {bits 0-63, bits 64-127}.
  [[nodiscard]] constexpr std::array<std::uint64_t, 2> to_bits() const noexcept {
    return {low_, high_};
  }
  static constexpr LayoutHandle from_bits(std::array<std::uint64_t, 2> bits) noexcept {
    LayoutHandle handle;
    handle.low_ = bits[0];
    handle.high_ = bits[1];
    return handle;
  }

  friend constexpr auto operator<=>(LayoutHandle const&, LayoutHandle const&) = default;

 private:
  std::uint64_t low_ = 0;
  std::uint64_t high_ = 0;
};

static_assert(sizeof(LayoutHandle) == 16);

/// "LayoutHandle(worker=W, layout=L)".
std::string to_string(LayoutHandle handle);

}  // namespace kvbm::layout

template <>
struct std::hash<kvbm::layout::LayoutHandle> {
  std::size_t operator()(kvbm::layout::LayoutHandle const& handle) const noexcept {
    auto const bits = handle.to_bits();
    return std::hash<std::uint64_t>{}(bits[0] ^ (bits[1] * 0x9E3779B97F4A7C15U));
  }
};
