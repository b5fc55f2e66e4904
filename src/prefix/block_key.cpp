// SPDX-License-Identifier: Apache-2.0
#include "kvbm/prefix/block_key.hpp"

#include <fmt/format.h>

#include <bit>
#include <charconv>
#include <cstring>
#include <string>

#include "kvbm/core/checksum_stream.hpp"
#include "kvbm/core/error.hpp"

namespace kvbm::prefix {
namespace {

static_assert(std::endian::native == std::endian::little, "tokens are hashed as little endian");

// A length in front keeps neighbours from running into each other.
void append(ChecksumStream& stream, std::string_view text) {
  std::uint64_t const bytes = text.size();
  stream.update(&bytes, sizeof bytes);
  stream.update(text.data(), text.size());
}

void append(ChecksumStream& stream, std::uint64_t value) { stream.update(&value, sizeof value); }

}  // namespace

std::string to_string(BlockKey const& key) { return kvbm::to_string(key.value); }

BlockKey parse_block_key(std::string_view text) {
  auto const half = [](std::string_view digits, std::uint64_t& value) {
    // from_chars takes upper case as well, which to_string never writes.
    bool const plain = digits.find_first_not_of("0123456789abcdef") == std::string_view::npos;
    auto const [end, error] =
        std::from_chars(digits.data(), digits.data() + digits.size(), value, 16);
    return plain && error == std::errc() && end == digits.data() + digits.size();
  };
  BlockKey key;
  KVBM_EXPECTS(text.size() == 32 && half(text.substr(0, 16), key.value.high) &&
                   half(text.substr(16), key.value.low),
               InvalidArgument,
               fmt::format("'{}' is no block key: 32 lower case hexadecimal digits", text));
  return key;
}

Checksum model_fingerprint(std::string_view name, std::string_view dtype,
                           layout::LayoutConfig const& config) {
  ChecksumStream stream;
  append(stream, "kvbm.prefix.model.v1");
  append(stream, name);
  append(stream, dtype);
  append(stream, config.num_layers());
  append(stream, config.outer_dim());
  append(stream, config.inner_dim());
  append(stream, config.num_heads().value_or(0));
  append(stream, config.dtype_width_bytes());
  return stream.digest();
}

BlockKey root_key(Checksum const& fingerprint, std::uint64_t page_size) {
  ChecksumStream stream;
  append(stream, "kvbm.prefix.root.v1");
  append(stream, fingerprint.low);
  append(stream, fingerprint.high);
  append(stream, page_size);
  return {stream.digest()};
}

std::vector<BlockKey> chain_keys(BlockKey const& parent, std::span<TokenId const> tokens,
                                 std::uint64_t page_size) {
  KVBM_EXPECTS(page_size > 0, InvalidArgument, "page_size is 0: a page has at least one token");
  std::size_t const num_pages = tokens.size() / page_size;
  std::vector<BlockKey> keys;
  keys.reserve(num_pages);
  if (num_pages == 0) { return keys; }
  // Parent and tokens in one piece: one call that allocates nothing instead of a stream.
  std::vector<std::uint64_t> message(2 + (page_size + 1) / 2, 0);
  std::size_t const bytes = 16 + static_cast<std::size_t>(page_size) * sizeof(TokenId);
  BlockKey last = parent;
  for (std::size_t page = 0; page < num_pages; ++page) {
    message[0] = last.value.low;
    message[1] = last.value.high;
    std::memcpy(message.data() + 2, tokens.data() + page * page_size,
                static_cast<std::size_t>(page_size) * sizeof(TokenId));
    last = {checksum_bytes(message.data(), bytes)};
    keys.push_back(last);
  }
  return keys;
}

}  // namespace kvbm::prefix
