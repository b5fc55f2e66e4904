// SPDX-License-Identifier: Apache-2.0
#include "kvbm/prefix/block_key.hpp"

#include <gtest/gtest.h>

#include <cstring>
#include <numeric>
#include <set>

#include "contract/transfer_fixture.hpp"

namespace kvbm::testing {
namespace {

using prefix::BlockKey;
using prefix::chain_keys;
using prefix::TokenId;

std::vector<TokenId> tokens(std::size_t count, TokenId first = 100) {
  std::vector<TokenId> list(count);
  std::iota(list.begin(), list.end(), first);
  return list;
}

BlockKey const kRoot = prefix::root_key({7, 8}, 16);

TEST(BlockKey, IsTheHashOfParentAndTokens) {
  auto const prompt = tokens(16);
  std::vector<std::byte> message(16 + 64);
  std::memcpy(message.data(), &kRoot.value.low, 8);
  std::memcpy(message.data() + 8, &kRoot.value.high, 8);
  std::memcpy(message.data() + 16, prompt.data(), 64);
  EXPECT_EQ(chain_keys(kRoot, prompt, 16).at(0).value,
            checksum_bytes(message.data(), message.size()));
}

TEST(BlockKey, OnlyFullPagesHaveOne) {
  EXPECT_TRUE(chain_keys(kRoot, {}, 16).empty());
  EXPECT_TRUE(chain_keys(kRoot, tokens(15), 16).empty());
  EXPECT_EQ(chain_keys(kRoot, tokens(16), 16).size(), 1U);
  EXPECT_EQ(chain_keys(kRoot, tokens(47), 16).size(), 2U);
}

TEST(BlockKey, SharedPrefixesShareKeysAndNothingElse) {
  auto a = tokens(64);
  auto b = a;
  b[33] += 1;  // in the third page
  auto const keys_a = chain_keys(kRoot, a, 16);
  auto const keys_b = chain_keys(kRoot, b, 16);
  EXPECT_EQ(keys_a[0], keys_b[0]);
  EXPECT_EQ(keys_a[1], keys_b[1]);
  EXPECT_NE(keys_a[2], keys_b[2]);
  EXPECT_NE(keys_a[3], keys_b[3]) << "equal tokens behind different ones are another block";
}

TEST(BlockKey, ChainsGoOnWhereTheyEnded) {
  auto const all = tokens(64);
  auto const whole = chain_keys(kRoot, all, 16);
  auto const first = chain_keys(kRoot, std::span(all).first(32), 16);
  auto const rest = chain_keys(first.back(), std::span(all).subspan(32), 16);
  EXPECT_EQ(whole[2], rest[0]);
  EXPECT_EQ(whole[3], rest[1]);
}

TEST(BlockKey, EverythingThatDecidesTheContentCounts) {
  auto const config = small_config(8);
  std::set<BlockKey> seen;
  for (auto const& fingerprint :
       {prefix::model_fingerprint("a", "float16", config),
        prefix::model_fingerprint("b", "float16", config),
        prefix::model_fingerprint("a", "bfloat16", config),
        prefix::model_fingerprint("af", "loat16", config),
        prefix::model_fingerprint("a", "float16", small_config(8, 4)),
        prefix::model_fingerprint("a", "float16", small_config(8, 2, 2)),
        prefix::model_fingerprint("a", "float16", small_config(8, 2, 4, 5))}) {
    for (std::uint64_t const page : {4U, 16U}) {
      EXPECT_TRUE(seen.insert(prefix::root_key(fingerprint, page)).second);
    }
  }
  EXPECT_EQ(prefix::model_fingerprint("a", "float16", config),
            prefix::model_fingerprint("a", "float16", small_config(99, 2, 4, 4, 4096)))
      << "how many blocks there are, and their alignment, is not part of the model";
}

TEST(BlockKey, TextIsReadBack) {
  auto const key = chain_keys(kRoot, tokens(16), 16).front();
  EXPECT_EQ(prefix::parse_block_key(to_string(key)), key);
  for (auto const* text :
       {"", "12", "0123456789abcdef0123456789abcdeg", "0123456789ABCDEF0123456789abcdef",
        "+123456789abcdef0123456789abcdef", "0123456789abcdef0123456789abcdef0"}) {
    EXPECT_EQ(failure_of_call([&] { return prefix::parse_block_key(text); }).code,
              ErrorCode::InvalidArgument)
        << text;
  }
}

TEST(BlockKey, RefusesPagesWithoutTokens) {
  EXPECT_EQ(failure_of_call([] { return chain_keys(kRoot, {}, 0); }).code,
            ErrorCode::InvalidArgument);
}

}  // namespace
}  // namespace kvbm::testing
