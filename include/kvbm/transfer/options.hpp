// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <stop_token>
#include <vector>

#include "kvbm/core/types.hpp"
#include "kvbm/device/device.hpp"
#include "kvbm/layout/format.hpp"
#include "kvbm/layout/handle.hpp"

namespace kvbm::transfer {

/// Blocks of a registered layout to stage through where there is no direct path.
/// Fewer bounce blocks than blocks to move is fine: the hops run as a pipeline over halves of them.
/// Transfers that name the same bounce blocks take turns.
struct BounceBuffer {
  layout::LayoutHandle handle;
  std::vector<BlockId> block_ids;

  static BounceBuffer from_handle(layout::LayoutHandle handle, std::vector<BlockId> block_ids) {
    return {handle, std::move(block_ids)};
  }
  friend bool operator==(BounceBuffer const&, BounceBuffer const&) = default;
};

enum class Strategy;  // strategy.hpp

/// What a transfer should leave to others.
enum class Spare {
  Fastest,   ///< whatever is quickest
  SpareSms,  ///< leave the GPU's multiprocessors and its memory to the model
  SpareCpu,  ///< leave the CPU to others: host copies run in one thread
};

/// How one transfer is done. Every option works with every strategy, or the call is refused with
/// the reason; none is silently ignored.
class TransferOptions {
 public:
  class Builder;
  static Builder builder();

  /// Layers [begin, end) only, the same on both sides; default all.
  std::optional<IndexRange> layer_range;
  /// Heads of the source, of the destination; default all. Both must name as many heads. With
  /// them shards of different tensor-parallel ranks go into each other.
  std::optional<IndexRange> src_head_range;
  std::optional<IndexRange> dst_head_range;
  /// How to read the source's, the destination's bytes; default the layout's own format.
  std::optional<layout::KvBlockLayout> src_kv_layout;
  std::optional<layout::KvBlockLayout> dst_kv_layout;
  /// Where to stage if the transfer has to; default internal pinned memory.
  std::optional<BounceBuffer> bounce_buffer;
  /// Delivered to the peer after the data is visible there; refused where no remote side is.
  std::optional<std::uint64_t> nixl_write_notification;
  /// All work goes onto this stream in order, no event is recorded, the returned notification is
  /// ready, and the caller synchronises the stream. Refused for files (their errors could not be
  /// told) and together with timeout or cancellation.
  device::StreamPtr cuda_stream;
  /// The transfer starts when all of these are complete (as recorded when it is submitted).
  std::vector<device::EventPtr> wait_for;
  /// What is enqueued on these streams afterwards waits for the transfer.
  std::vector<device::StreamPtr> record_on;
  /// From submission on; the notification then fails with TimeoutError. What did not begin by then
  /// never will; what is under way ends at the next batch of blocks, before the failure is told.
  std::optional<std::chrono::nanoseconds> timeout;
  /// As timeout, by a token, failing with CancelledError.
  std::stop_token cancellation;
  /// Higher goes first where transfers queue for copy threads or file workers.
  int priority = 0;
  /// Limit of GPU multiprocessors; refused where no GPU takes part.
  std::optional<unsigned> max_sms;
  Spare spare = Spare::Fastest;
  /// Only this strategy, for measurements and tests; refused with the reason where it cannot work.
  std::optional<Strategy> strategy;
  /// Equal options, streams, events and tokens being the same ones.
  friend bool operator==(TransferOptions const&, TransferOptions const&) = default;
};

/// Fluent construction of TransferOptions, in the guide's spelling.
class TransferOptions::Builder {
 public:
  Builder& layer_range(IndexRange range);
  Builder& layer_range(std::uint64_t begin, std::uint64_t end);
  /// The same head range on both sides.
  Builder& head_range(IndexRange range);
  Builder& src_head_range(IndexRange range);
  Builder& dst_head_range(IndexRange range);
  Builder& src_kv_layout(layout::KvBlockLayout const& format);
  Builder& dst_kv_layout(layout::KvBlockLayout const& format);
  Builder& bounce_buffer(BounceBuffer bounce);
  Builder& nixl_write_notification(std::uint64_t value);
  /// @throws Error(InvalidArgument) null; so do wait_for and record_on
  Builder& cuda_stream(device::StreamPtr stream);
  Builder& wait_for(device::EventPtr event);
  Builder& record_on(device::StreamPtr stream);
  Builder& timeout(std::chrono::nanoseconds timeout);
  Builder& cancellation(std::stop_token token);
  Builder& priority(int priority);
  Builder& max_sms(unsigned max_sms);
  Builder& spare(Spare spare);
  Builder& strategy(Strategy strategy);
  /// @throws Error(InvalidArgument) timeout <= 0, max_sms 0
  [[nodiscard]] TransferOptions build() const;

 private:
  TransferOptions options_;
};

/// What this process may use. Both off by default; the `_if_supported` functions probe once.
struct TransferCapabilities {
  /// GPUDirect Storage: files <-> device without a bounce. Where cuFile works in compatibility mode
  /// only, which has a bounce, Strategy::DirectStorage still has to be asked for by name.
  bool allow_gds = false;
  bool allow_gpu_rdma = false;  ///< remote <-> device without a bounce

  /// A copy with the capability on if this machine has it; reason() of explain says why not.
  [[nodiscard]] TransferCapabilities with_gds_if_supported() const;
  [[nodiscard]] TransferCapabilities with_gpu_rdma_if_supported() const;
  friend bool operator==(TransferCapabilities const&, TransferCapabilities const&) = default;
};

/// Which of two working paths to take.
enum class NativeVsNixlPolicy { PreferNative, PreferNixl, Automatic };

/// Preferences among paths that all work.
struct TransferPreferences {
  NativeVsNixlPolicy native_vs_nixl = NativeVsNixlPolicy::Automatic;
  friend bool operator==(TransferPreferences const&, TransferPreferences const&) = default;
};

}  // namespace kvbm::transfer
