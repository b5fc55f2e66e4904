// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <span>

#include "kvbm/core/types.hpp"
#include "kvbm/transfer/notification.hpp"
#include "transfer/context_impl.hpp"
#include "transfer/prepared_state.hpp"
#include "transfer/transfer_counters.hpp"

/// One executor a strategy, all with one shape: they run a prepared transfer on validated block
/// lists and own no policy. What they leave running ends the record; where they throw, or where
/// State::ends_in_call() and it is null, their caller does.
namespace kvbm::transfer {

using SharedState = std::shared_ptr<PreparedTransfer::State const>;
using SharedRecord = std::shared_ptr<TransferRecord>;

/// HostCopy: done when it returns, without allocation where nothing can stop it.
TransferCompleteNotification execute_host_copy(TransferContext::Impl& context,
                                               SharedState const& state,
                                               std::span<BlockId const> src_blocks,
                                               std::span<BlockId const> dst_blocks,
                                               SharedRecord record);

/// StreamCopy: on the caller's stream, else on one of the pool of the device concerned.
TransferCompleteNotification execute_stream_copy(TransferContext::Impl& context,
                                                 SharedState const& state,
                                                 std::span<BlockId const> src_blocks,
                                                 std::span<BlockId const> dst_blocks,
                                                 SharedRecord record);

/// DmaCopy, SmCopy and StagedDma: on the caller's stream, else on one of the pool of the device.
TransferCompleteNotification execute_device_copy(TransferContext::Impl& context,
                                                 SharedState const& state,
                                                 std::span<BlockId const> src_blocks,
                                                 std::span<BlockId const> dst_blocks,
                                                 SharedRecord record, Strategy strategy);

/// PinnedStaging, DirectFile, StagedFile, and whatever else has to go on batch by batch so that it
/// can be stopped: on a pipeline worker.
TransferCompleteNotification execute_pipeline(TransferContext::Impl& context,
                                              SharedState const& state,
                                              std::span<BlockId const> src_blocks,
                                              std::span<BlockId const> dst_blocks,
                                              SharedRecord record, Strategy strategy);

}  // namespace kvbm::transfer
