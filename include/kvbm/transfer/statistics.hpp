// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "kvbm/core/error.hpp"
#include "kvbm/memory/storage_kind.hpp"

namespace kvbm::transfer {

/// Whose memory the two sides of a transfer are.
enum class Reach {
  Local,     ///< both this worker's
  FromPeer,  ///< the source is another worker's, mapped or over the wire
  ToPeer,    ///< the destination is
};
inline constexpr std::size_t kNumReaches = 3;
/// "local", "from_peer", "to_peer".
std::string_view to_string(Reach reach) noexcept;

/// What transfers are counted by.
struct Route {
  memory::StorageKind src = memory::StorageKind::System;
  memory::StorageKind dst = memory::StorageKind::System;
  Reach reach = Reach::Local;
  friend bool operator==(Route const&, Route const&) = default;
};
/// Storage kinds alone: "device_to_pinned".
std::string to_string(Route const& route);

/// How long transfers took, from the start of their submission to their end, in buckets of powers
/// of two.
struct LatencyHistogram {
  static constexpr std::size_t kNumBounds = 28;
  /// The longest time that bucket `index` counts: 1 us, 2 us, 4 us, ... 134 s.
  [[nodiscard]] static constexpr std::chrono::nanoseconds upper_bound(std::size_t index) noexcept {
    return std::chrono::microseconds(std::int64_t{1} << index);
  }
  /// Adds one.
  void add(std::chrono::nanoseconds latency) noexcept;
  /// Transfers in all buckets.
  [[nodiscard]] std::uint64_t count() const noexcept;

  std::array<std::uint64_t, kNumBounds + 1> buckets{};  ///< not cumulative; the last: even longer
  std::chrono::nanoseconds sum{0};
};

inline constexpr std::size_t kNumErrorCodes = static_cast<std::size_t>(ErrorCode::Internal) + 1;

/// What became of transfers. At any time, exactly:
///   submitted       == completed + failed + cancelled + in_flight
///   bytes_submitted == bytes_completed + bytes_failed + bytes_in_flight
///   completed + failed + cancelled == latency.count(), failed + cancelled == the sum of errors
///
/// Counted is what was accepted: a call that is refused for its arguments counts nowhere, one that
/// fails later, even before it returns, counts as submitted and failed. Bytes are those of whole
/// blocks: of a transfer that failed in part, the blocks that arrived are completed and the others
/// failed. A transfer whose notification is ready has been counted. On a caller's stream a copy
/// that only that stream orders (DmaCopy, SmCopy, StagedDma) is completed once it is enqueued:
/// nobody looks at its end.
struct TransferCounts {
  std::uint64_t submitted = 0;  ///< transfers
  std::uint64_t completed = 0;  ///< without an error
  std::uint64_t failed = 0;     ///< in whole or in part, deadlines included
  std::uint64_t cancelled = 0;  ///< stopped by the caller's token
  std::uint64_t in_flight = 0;  ///< now
  std::uint64_t bytes_submitted = 0;
  std::uint64_t bytes_completed = 0;  ///< of blocks that arrived
  std::uint64_t bytes_failed = 0;     ///< of blocks that did not, cancelled ones included
  std::uint64_t bytes_in_flight = 0;  ///< now
  std::array<std::uint64_t, kNumErrorCodes> errors{};  ///< transfers by what they failed with
  LatencyHistogram latency;                            ///< of transfers that ended, well or not

  /// Transfers that failed with `code`.
  [[nodiscard]] std::uint64_t errors_of(ErrorCode code) const noexcept {
    return errors[static_cast<std::size_t>(code)];
  }
  TransferCounts& operator+=(TransferCounts const& other) noexcept;
};

/// One route's part of TransferStats.
struct RouteStats {
  Route route;
  TransferCounts counts;
};

/// What a context's transfers came to since it was made. A snapshot: each route is exact at one
/// moment, so sums over routes keep the equalities of TransferCounts.
struct TransferStats {
  std::vector<RouteStats> routes;  ///< those that were ever used

  /// Sum over all routes.
  [[nodiscard]] TransferCounts total() const noexcept;
  /// One route's; zeros where it was never used.
  [[nodiscard]] TransferCounts of(Route const& route) const noexcept;
};

}  // namespace kvbm::transfer
