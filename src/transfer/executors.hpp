// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <span>

#include "kvbm/core/types.hpp"
#include "kvbm/transfer/notification.hpp"
#include "transfer/context_impl.hpp"
#include "transfer/prepared_state.hpp"

/// One executor a strategy, all with one shape: they run a prepared transfer on validated block
/// lists and own no policy.
namespace kvbm::transfer {

using SharedState = std::shared_ptr<PreparedTransfer::State const>;

/// HostCopy: done when it returns, without allocation where nothing can stop it.
TransferCompleteNotification execute_host_copy(TransferContext::Impl& context,
                                               SharedState const& state,
                                               std::span<BlockId const> src_blocks,
                                               std::span<BlockId const> dst_blocks);

/// StreamCopy: on the caller's stream, else on one of the pool of the device concerned.
TransferCompleteNotification execute_stream_copy(TransferContext::Impl& context,
                                                 SharedState const& state,
                                                 std::span<BlockId const> src_blocks,
                                                 std::span<BlockId const> dst_blocks);

/// DmaCopy, SmCopy and StagedDma: on the caller's stream, else on one of the pool of the device.
TransferCompleteNotification execute_device_copy(TransferContext::Impl& context,
                                                 SharedState const& state,
                                                 std::span<BlockId const> src_blocks,
                                                 std::span<BlockId const> dst_blocks,
                                                 Strategy strategy);

/// PinnedStaging, DirectFile, StagedFile, and whatever else has to go on batch by batch so that it
/// can be stopped: on a pipeline worker.
TransferCompleteNotification execute_pipeline(TransferContext::Impl& context,
                                              SharedState const& state,
                                              std::span<BlockId const> src_blocks,
                                              std::span<BlockId const> dst_blocks,
                                              Strategy strategy);

}  // namespace kvbm::transfer
