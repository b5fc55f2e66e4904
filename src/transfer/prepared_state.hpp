// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "kvbm/transfer/prepared_transfer.hpp"
#include "kvbm/transfer/validate.hpp"
#include "transfer/memory_copy.hpp"

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
  std::optional<MemoryCopy> copy;  ///< where both sides are memory
  ChoiceInput choice;              ///< for one block; num_blocks is filled in per submission

  /// "Device FullyContiguous OperationalNHD -> Disk ...", for logs.
  [[nodiscard]] std::string describe() const;
};

}  // namespace kvbm::transfer
