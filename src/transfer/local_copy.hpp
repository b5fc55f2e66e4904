// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <optional>
#include <span>
#include <variant>

#include "kvbm/transfer/options.hpp"
#include "transfer/device_copy.hpp"
#include "transfer/memory_copy.hpp"

namespace kvbm::transfer {

/// One hop between two memories, done when run() returns: by copy threads where the CPU reaches
/// both, else by the device.
/// Lifetime holds addresses only: the layouts must be kept alive beside it.
class LocalCopy {
 public:
  /// @throws like MemoryCopy and DeviceCopy
  LocalCopy(TransferContext::Impl& context, CopyPlan const& plan, layout::PhysicalLayout const& src,
            layout::PhysicalLayout const& dst);

  /// @param wanted  the way a device should take; by default the cheapest
  /// @throws Error(Device), Error(OutOfMemory): no longer running when it is thrown
  void run(TransferContext::Impl& context, std::span<BlockId const> src_blocks,
           std::span<BlockId const> dst_blocks, TransferOptions const& options,
           std::optional<Strategy> wanted = {}) const;

 private:
  using Way = std::variant<MemoryCopy, DeviceCopy>;
  static Way make(TransferContext::Impl& context, CopyPlan const& plan,
                  layout::PhysicalLayout const& src, layout::PhysicalLayout const& dst);
  Way way_;
};

}  // namespace kvbm::transfer
