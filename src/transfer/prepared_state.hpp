// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "kvbm/transfer/prepared_transfer.hpp"
#include "kvbm/transfer/validate.hpp"
#include "transfer/device_copy.hpp"
#include "transfer/memory_copy.hpp"
#include "transfer/remote_side.hpp"

namespace kvbm::transfer {

/// Everything about a transfer but its block ids; immutable.
class PreparedTransfer::State {
 public:
  std::weak_ptr<TransferContext> context;
  ValidatedPair pair;
  std::shared_ptr<LayoutUse> src_use;
  std::shared_ptr<LayoutUse> dst_use;
  std::optional<ResolvedBounce> bounce;
  TransferOptions options;
  CopyPlan plan;
  std::optional<MemoryCopy> copy;         ///< where the CPU reaches both sides
  std::optional<DeviceCopy> device_copy;  ///< where a side is device memory
  std::optional<RemoteSide> remote;       ///< where a side is another worker's and not mapped
  std::shared_ptr<Peer> src_peer;         ///< whose the source is; null: this worker's
  std::shared_ptr<Peer> dst_peer;         ///< likewise
  ChoiceInput choice;                     ///< but for what depends on the blocks of a submission

  /// Whether a deadline or a token may end a submission early.
  [[nodiscard]] bool can_stop() const noexcept {
    return options.timeout.has_value() || options.cancellation.stop_possible();
  }
  /// Whether submit() itself does the work, or hands it to the caller's stream and looks no more:
  /// then there is no job, and nothing is allocated for one.
  [[nodiscard]] bool ends_in_call(Strategy strategy) const noexcept {
    bool const on_device = strategy == Strategy::DmaCopy || strategy == Strategy::SmCopy ||
                           strategy == Strategy::StagedDma;
    return strategy == Strategy::HostCopy ? !can_stop() && !options.nixl_write_notification
                                          : on_device && options.cuda_stream != nullptr;
  }
  /// What it is counted by.
  [[nodiscard]] Route route() const noexcept {
    return {pair.src.storage_kind(), pair.dst.storage_kind(),
            src_peer != nullptr   ? Reach::FromPeer
            : dst_peer != nullptr ? Reach::ToPeer
                                  : Reach::Local};
  }
  /// Whether an event of wait_for is not complete yet.
  [[nodiscard]] bool must_wait() const;
  /// The inputs of choose() for one submission.
  [[nodiscard]] ChoiceInput choice_for(std::span<BlockId const> src_blocks,
                                       std::span<BlockId const> dst_blocks) const;

  std::string description;  ///< "Device FullyContiguous OperationalNHD -> Disk ...", for logs

  /// The file as GPUDirect Storage knows it, where that may move the blocks; goes before the file.
  std::shared_ptr<void const> storage_file;
  std::string storage_problem;  ///< why there is none
};

/// Sends the write notification that was asked for, if one was.
/// @throws PeerError the blocks arrived, but the peer could not be told
void notify_peer(PreparedTransfer::State const& state);

}  // namespace kvbm::transfer
