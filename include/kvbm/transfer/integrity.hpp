// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "kvbm/core/types.hpp"
#include "kvbm/layout/physical_layout.hpp"
#include "kvbm/transfer/context.hpp"

namespace kvbm::transfer {

/// What fill_blocks writes, as a function of the logical element, so that two layouts filled alike
/// hold the same tensor in any format.
struct FillPattern {
  enum class Kind {
    Constant,    ///< every byte is `value`
    Sequential,  ///< byte i of a block's logical tensor is (value + block + i) mod 256
    BlockLayer,  ///< every byte is a hash of (value, block, layer): tells blocks and layers apart
    Hashed,  ///< bytes of a 64-bit hash of (value, block, layer, outer, offset): tells all apart
  };
  Kind kind = Kind::Hashed;
  std::uint64_t value = 0;  ///< the constant, the start, or the seed
};

/// XXH3-128 of each block's logical tensor [nl, no, nt, nh, hd] in that order, whatever the format,
/// kind and storage: equal tensors have equal checksums.
/// Threads  synchronous; uses the context's copy threads.
/// @return  one a block id  @throws Error(OutOfRange); what reading a file throws
std::vector<Checksum> block_checksums(TransferContext& context,
                                      layout::PhysicalLayout const& layout,
                                      std::span<BlockId const> block_ids);

/// The same a layer: XXH3-128 of [no, nt, nh, hd]. @return [block][layer], flattened
std::vector<Checksum> layer_checksums(TransferContext& context,
                                      layout::PhysicalLayout const& layout,
                                      std::span<BlockId const> block_ids);

/// Writes the pattern into whole blocks. Padding bytes keep what they have.
void fill_blocks(TransferContext& context, layout::PhysicalLayout const& layout,
                 std::span<BlockId const> block_ids, FillPattern const& pattern);

}  // namespace kvbm::transfer
