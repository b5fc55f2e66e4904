// SPDX-License-Identifier: Apache-2.0
#include "transfer/transfer_counters.hpp"

#include <algorithm>
#include <bit>
#include <cctype>
#include <new>

namespace kvbm::transfer {
namespace {

constexpr std::array kKinds{memory::StorageKind::System, memory::StorageKind::Pinned,
                            memory::StorageKind::Device, memory::StorageKind::Disk,
                            memory::StorageKind::Object};
constexpr std::array kReaches{Reach::Local, Reach::FromPeer, Reach::ToPeer};
static_assert(kReaches.size() == kNumReaches);

ErrorCode code_of(std::exception_ptr const& error) noexcept {
  try {
    std::rethrow_exception(error);
  } catch (Error const& failure) { return failure.code(); } catch (std::bad_alloc const&) {
    return ErrorCode::OutOfMemory;
  } catch (...) { return ErrorCode::Internal; }
}

std::string lower_case(memory::StorageKind kind) {
  std::string text(memory::to_string(kind));
  for (char& c : text) {
    c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  }
  return text;
}

}  // namespace

// --- values

std::string_view to_string(Reach reach) noexcept {
  switch (reach) {
    case Reach::Local: return "local";
    case Reach::FromPeer: return "from_peer";
    case Reach::ToPeer: break;
  }
  return "to_peer";
}

std::string to_string(Route const& route) {
  return lower_case(route.src) + "_to_" + lower_case(route.dst);
}

void LatencyHistogram::add(std::chrono::nanoseconds latency) noexcept {
  auto const nanoseconds = static_cast<std::uint64_t>(std::max<std::int64_t>(1, latency.count()));
  std::uint64_t const microseconds = (nanoseconds - 1) / 1000 + 1;
  // The exponent of the smallest power of two that is not below it.
  auto const index = static_cast<std::size_t>(std::bit_width(microseconds - 1));
  ++buckets[std::min(index, kNumBounds)];
  sum += latency;
}

std::uint64_t LatencyHistogram::count() const noexcept {
  std::uint64_t total = 0;
  for (auto const bucket : buckets) {
    total += bucket;
  }
  return total;
}

TransferCounts& TransferCounts::operator+=(TransferCounts const& other) noexcept {
  submitted += other.submitted;
  completed += other.completed;
  failed += other.failed;
  cancelled += other.cancelled;
  in_flight += other.in_flight;
  bytes_submitted += other.bytes_submitted;
  bytes_completed += other.bytes_completed;
  bytes_failed += other.bytes_failed;
  bytes_in_flight += other.bytes_in_flight;
  for (std::size_t i = 0; i < errors.size(); ++i) {
    errors[i] += other.errors[i];
  }
  for (std::size_t i = 0; i < latency.buckets.size(); ++i) {
    latency.buckets[i] += other.latency.buckets[i];
  }
  latency.sum += other.latency.sum;
  return *this;
}

TransferCounts TransferStats::total() const noexcept {
  TransferCounts sum;
  for (auto const& route : routes) {
    sum += route.counts;
  }
  return sum;
}

TransferCounts TransferStats::of(Route const& route) const noexcept {
  auto const found = std::find_if(routes.begin(), routes.end(),
                                  [&route](auto const& stats) { return stats.route == route; });
  return found != routes.end() ? found->counts : TransferCounts{};
}

// --- counters

TransferCounters::Cell& TransferCounters::cell(Route const& route) noexcept {
  auto const src = static_cast<std::size_t>(route.src);
  auto const dst = static_cast<std::size_t>(route.dst);
  return cells_[(src * kNumKinds + dst) * kNumReaches + static_cast<std::size_t>(route.reach)];
}

TransferStats TransferCounters::snapshot() const {
  static_assert(kKinds.size() == kNumKinds);
  TransferStats stats;
  std::size_t index = 0;
  for (auto const src : kKinds) {
    for (auto const dst : kKinds) {
      for (auto const reach : kReaches) {
        auto const& cell = cells_[index++];
        std::lock_guard const lock(cell.mutex);
        if (cell.counts.submitted > 0) { stats.routes.push_back({{src, dst, reach}, cell.counts}); }
      }
    }
  }
  return stats;
}

TransferRecord::TransferRecord(TransferCounters& counters, Route const& route,
                               std::uint64_t bytes_per_block, std::size_t num_blocks) noexcept
    : cell_(counters.cell(route)), bytes_per_block_(bytes_per_block), num_blocks_(num_blocks) {
  std::uint64_t const bytes = bytes_per_block_ * num_blocks_;
  std::lock_guard const lock(cell_.mutex);
  auto& counts = cell_.counts;
  ++counts.submitted;
  ++counts.in_flight;
  counts.bytes_submitted += bytes;
  counts.bytes_in_flight += bytes;
}

TransferRecord::~TransferRecord() {
  if (ended_) { return; }  // nobody else has it any more
  ErrorCode const code = ErrorCode::Internal;
  end_with(num_blocks_, &code);
}

void TransferRecord::end(std::size_t num_failed, std::exception_ptr const& error) noexcept {
  if (error == nullptr) {
    end_with(num_failed, nullptr);
  } else {
    ErrorCode const code = code_of(error);
    end_with(num_failed, &code);
  }
}

void TransferRecord::end_with(std::size_t num_failed, ErrorCode const* code) noexcept {
  auto const latency = std::chrono::steady_clock::now() - begin_;
  std::uint64_t const bytes = bytes_per_block_ * num_blocks_;
  std::uint64_t const failed = bytes_per_block_ * std::min(num_failed, num_blocks_);
  std::lock_guard const lock(cell_.mutex);
  if (ended_) { return; }
  ended_ = true;
  auto& counts = cell_.counts;
  --counts.in_flight;
  counts.bytes_in_flight -= bytes;
  counts.bytes_failed += failed;
  counts.bytes_completed += bytes - failed;
  counts.latency.add(latency);
  if (code == nullptr) {
    ++counts.completed;
    return;
  }
  ++(*code == ErrorCode::Cancelled ? counts.cancelled : counts.failed);
  ++counts.errors[std::min(static_cast<std::size_t>(*code), kNumErrorCodes - 1)];
}

}  // namespace kvbm::transfer
