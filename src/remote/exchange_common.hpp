// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "kvbm/remote/exchange.hpp"

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace kvbm::remote {

/// @throws Error(InvalidArgument) unless it is 1..128 characters of [A-Za-z0-9._-]
void check_exchange_name(std::string_view name);
[[nodiscard]] bool is_exchange_name(std::string_view name) noexcept;
/// @throws Error(InvalidArgument) naming size and limit
void check_metadata_bytes(std::string_view name, std::size_t bytes);

[[noreturn]] void throw_name_taken(std::string_view name, std::string_view by);
/// @param why  what was seen last; may be empty
[[noreturn]] void throw_not_published(std::string_view name, std::chrono::milliseconds timeout,
                                      std::string_view where, std::string_view why = {});

/// A number that no other owner has, from the system's random source. @throws Error(Io)
std::uint64_t random_id();

/// A point in time that cannot overflow, however long the timeout.
class Deadline {
 public:
  using Clock = std::chrono::steady_clock;

  explicit Deadline(std::chrono::milliseconds timeout);
  explicit Deadline(Clock::time_point at) : at_(at) {}

  [[nodiscard]] bool passed() const { return Clock::now() >= at_; }
  /// 0 once it passed; rounded up, so that waiting for it does not spin.
  [[nodiscard]] std::chrono::milliseconds left() const;
  [[nodiscard]] Clock::time_point at() const { return at_; }
  /// The earlier one of this and `timeout` from now.
  [[nodiscard]] Deadline within(std::chrono::milliseconds timeout) const;

 private:
  Clock::time_point at_;
};

/// Pauses between looks for something that should come soon: short ones first.
class GrowingPause {
 public:
  GrowingPause(std::chrono::milliseconds first, std::chrono::milliseconds longest)
      : next_(first), longest_(longest) {}

  /// The next pause, no longer than what is left.
  std::chrono::milliseconds next(Deadline const& deadline);

 private:
  std::chrono::milliseconds next_;
  std::chrono::milliseconds longest_;
};

}  // namespace kvbm::remote
