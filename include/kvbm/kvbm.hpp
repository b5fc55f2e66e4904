// SPDX-License-Identifier: Apache-2.0
#pragma once

/// Everything, with the guide's nouns directly in namespace kvbm.

#include "kvbm/core/checked.hpp"
#include "kvbm/core/error.hpp"
#include "kvbm/core/log.hpp"
#include "kvbm/core/types.hpp"
#include "kvbm/core/version.hpp"
#include "kvbm/device/device.hpp"
#include "kvbm/kernels/copy_engine.hpp"
#include "kvbm/layout/config.hpp"
#include "kvbm/layout/format.hpp"
#include "kvbm/layout/handle.hpp"
#include "kvbm/layout/physical_layout.hpp"
#include "kvbm/manager/transfer_manager.hpp"
#include "kvbm/memory/disk_io.hpp"
#include "kvbm/memory/memory_source.hpp"
#include "kvbm/prefix/block_key.hpp"
#include "kvbm/prefix/prefix_store.hpp"
#include "kvbm/remote/exchange.hpp"
#include "kvbm/remote/metadata.hpp"
#include "kvbm/remote/notices.hpp"
#include "kvbm/remote/resharding.hpp"
#include "kvbm/remote/tier.hpp"

namespace kvbm {

using layout::BlockDimension;
using layout::KvBlockLayout;
using layout::LayoutConfig;
using layout::LayoutHandle;
using layout::LayoutKind;
using layout::PhysicalLayout;
using manager::TransferManager;
using memory::StorageKind;
using prefix::BlockKey;
using prefix::PrefixStore;
using prefix::PrefixStoreOptions;
using remote::LogicalLayoutDescriptor;
using remote::LogicalLayoutHandle;
using remote::SerializedLayout;
using remote::WorkerAddress;
using transfer::BounceBuffer;
using transfer::EventSystem;
using transfer::FillPattern;
using transfer::KvBlocks;
using transfer::NativeVsNixlPolicy;
using transfer::PreparedTransfer;
using transfer::Spare;
using transfer::TransferCapabilities;
using transfer::TransferCompleteNotification;
using transfer::TransferExplanation;
using transfer::TransferOptions;
using transfer::TransferPreferences;

}  // namespace kvbm
