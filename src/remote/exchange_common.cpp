// SPDX-License-Identifier: Apache-2.0
#include "remote/exchange_common.hpp"

#include <fmt/format.h>
#include <sys/random.h>

#include <algorithm>
#include <cerrno>

#include "kvbm/core/error.hpp"

namespace kvbm::remote {

MetadataExchange::~MetadataExchange() = default;
TcpExchange::~TcpExchange() = default;

bool is_exchange_name(std::string_view name) noexcept {
  constexpr std::string_view kAllowed =
      "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-";
  return !name.empty() && name.size() <= kMaxExchangeNameLength &&
         name.find_first_not_of(kAllowed) == std::string_view::npos;
}

void check_exchange_name(std::string_view name) {
  if (is_exchange_name(name)) { return; }
  std::string shown;
  for (char const c : name.substr(0, kMaxExchangeNameLength)) {
    shown += c >= ' ' && c <= '~' ? c : '?';
  }
  throw_error(ErrorCode::InvalidArgument,
              fmt::format("name '{}' ({} characters) cannot be used: give 1 to {} characters of "
                          "[A-Za-z0-9._-]",
                          shown, name.size(), kMaxExchangeNameLength));
}

void check_metadata_bytes(std::string_view name, std::size_t bytes) {
  KVBM_EXPECTS(bytes <= kMaxMetadataBytes, InvalidArgument,
               fmt::format("the metadata of '{}' has {} bytes; at most {} can be published", name,
                           bytes, kMaxMetadataBytes));
}

void throw_name_taken(std::string_view name, std::string_view by) {
  throw_error(ErrorCode::AlreadyExists,
              fmt::format("the name '{}' is taken by {}; give this worker another one, or end that "
                          "one first",
                          name, by));
}

void throw_not_published(std::string_view name, std::chrono::milliseconds timeout,
                         std::string_view where, std::string_view why) {
  throw TimeoutError(fmt::format("nobody published '{}' in {} within {} ms{}{}", name, where,
                                 std::max<std::int64_t>(timeout.count(), 0),
                                 why.empty() ? "" : ": ", why));
}

std::uint64_t random_id() {
  std::uint64_t id = 0;
  while (getrandom(&id, sizeof id, 0) != static_cast<ssize_t>(sizeof id)) {
    KVBM_EXPECTS(errno == EINTR, Io, fmt::format("getrandom: {}", describe_errno(errno)));
  }
  return id;
}

namespace {

Deadline::Clock::time_point from_now(std::chrono::milliseconds timeout) {
  // A century stands for "forever": the clock counts nanoseconds and would wrap.
  constexpr std::chrono::milliseconds kLongest = std::chrono::hours(24 * 365 * 100);
  return Deadline::Clock::now() + std::clamp(timeout, std::chrono::milliseconds::zero(), kLongest);
}

}  // namespace

Deadline::Deadline(std::chrono::milliseconds timeout) : at_(from_now(timeout)) {}

std::chrono::milliseconds Deadline::left() const {
  auto const now = Clock::now();
  return now >= at_ ? std::chrono::milliseconds::zero()
                    : std::chrono::ceil<std::chrono::milliseconds>(at_ - now);
}

Deadline Deadline::within(std::chrono::milliseconds timeout) const {
  return Deadline(std::min(at_, from_now(timeout)));
}

std::chrono::milliseconds GrowingPause::next(Deadline const& deadline) {
  auto const pause = std::min(next_, deadline.left());
  next_ = std::min(next_ * 2, longest_);
  return pause;
}

}  // namespace kvbm::remote
