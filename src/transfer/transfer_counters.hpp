// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <mutex>

#include "kvbm/transfer/statistics.hpp"

namespace kvbm::transfer {

/// Where the transfers of a context are counted.
///
/// Threads  a lock for each route, held for some additions: a snapshot sees a transfer either in
///          flight or ended, never between.
class TransferCounters {
 public:
  [[nodiscard]] TransferStats snapshot() const;

 private:
  friend class TransferRecord;
  static constexpr std::size_t kNumKinds =
      static_cast<std::size_t>(memory::StorageKind::Object) + 1;
  struct alignas(64) Cell {  // a cache line apart, so that routes do not disturb each other
    mutable std::mutex mutex;
    TransferCounts counts;
  };
  [[nodiscard]] Cell& cell(Route const& route) noexcept;

  std::array<Cell, kNumKinds * kNumKinds * kNumReaches> cells_;
};

/// One transfer in the books: in flight from the constructor to the first end. Its counters must
/// live until then.
class TransferRecord {
 public:
  TransferRecord(TransferCounters& counters, Route const& route, std::uint64_t bytes_per_block,
                 std::size_t num_blocks) noexcept;
  /// Ends it as a failure (Internal) where nobody did.
  ~TransferRecord();
  TransferRecord(TransferRecord const&) = delete;
  TransferRecord& operator=(TransferRecord const&) = delete;

  /// Everything arrived. Ends after the first do nothing, here as below.
  void complete() noexcept { end(0, nullptr); }
  /// Nothing arrived. @param error  not null
  void fail(std::exception_ptr const& error) noexcept { end(num_blocks_, error); }
  /// @param num_failed  blocks that did not arrive
  /// @param error       null: a success
  void end(std::size_t num_failed, std::exception_ptr const& error) noexcept;

 private:
  void end_with(std::size_t num_failed, ErrorCode const* code) noexcept;

  TransferCounters::Cell& cell_;
  std::uint64_t const bytes_per_block_;
  std::size_t const num_blocks_;
  std::chrono::steady_clock::time_point const begin_ = std::chrono::steady_clock::now();
  bool ended_ = false;  // guarded by the cell's mutex
};

}  // namespace kvbm::transfer
