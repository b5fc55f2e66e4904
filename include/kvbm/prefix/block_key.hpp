// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <compare>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "kvbm/core/types.hpp"
#include "kvbm/layout/config.hpp"

namespace kvbm::prefix {

/// A token id as the model's tokenizer gives it.
using TokenId = std::uint32_t;

/// Names the content of one KV block: the model and every token from the beginning to the end of
/// the block's page. Equal keys mean equal blocks, whatever process made them.
struct BlockKey {
  Checksum value;
  friend auto operator<=>(BlockKey const&, BlockKey const&) = default;
};

/// 32 hexadecimal digits, most significant first.
std::string to_string(BlockKey const& key);
/// Reads what to_string wrote. @throws Error(InvalidArgument) anything else
BlockKey parse_block_key(std::string_view text);

/// XXH3-128 of what decides the content of a model's blocks apart from the tokens: name, element
/// type, layers, outer_dim, inner_dim, heads and element width. Neither format nor number of
/// blocks.
/// @param name   of model and weights ("HuggingFaceTB/SmolLM2-135M@main"), adapters included
/// @param dtype  "bfloat16", "float8_e4m3fn", ...: widths alone do not tell types apart
Checksum model_fingerprint(std::string_view name, std::string_view dtype,
                           layout::LayoutConfig const& config);

/// What the keys of a model's first blocks are chained to.
BlockKey root_key(Checksum const& fingerprint, std::uint64_t page_size);

/// Keys of the full pages of `tokens`: key i = XXH3-128(key i-1, tokens of page i as 32-bit little
/// endian), the first one after `parent`. A last page that is not full has none.
/// @param parent  root_key(), or the last key before `tokens`
/// @throws Error(InvalidArgument) page_size 0
std::vector<BlockKey> chain_keys(BlockKey const& parent, std::span<TokenId const> tokens,
                                 std::uint64_t page_size);

}  // namespace kvbm::prefix

/// The keys are hashes already.
template <>
struct std::hash<kvbm::prefix::BlockKey> {
  std::size_t operator()(kvbm::prefix::BlockKey const& key) const noexcept {
    return static_cast<std::size_t>(key.value.low);
  }
};
