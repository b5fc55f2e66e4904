// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <array>
#include <cstddef>
#include <cstring>
#include <random>
#include <vector>

#include "kernels/xxh3_parallel.hpp"
#include "kvbm/core/types.hpp"

namespace kvbm::kernels::xxh3 {
namespace {

using Lanes = std::array<std::uint64_t, kLanes>;

void add_stripe(Lanes& lanes, std::byte const* stripe, unsigned secret_byte) {
  for (unsigned lane = 0; lane < kLanes; ++lane) {
    std::uint64_t word = 0;
    std::memcpy(&word, stripe + 8UL * lane, sizeof word);
    lanes[lane ^ 1U] += word;
    lanes[lane] += product(word, secret_at(secret_byte + 8 * lane));
  }
}

/// The steps of the CUDA kernels, in their order: independent sums first, then the chain.
Checksum hash_in_two_steps(std::vector<std::byte> const& data) {
  std::uint64_t const bytes = data.size();
  std::vector<Lanes> sums(num_full_blocks(bytes));
  for (std::size_t block = 0; block < sums.size(); ++block) {
    for (unsigned stripe = 0; stripe < kBlockBytes / kStripeBytes; ++stripe) {
      add_stripe(sums[block], data.data() + block * kBlockBytes + stripe * kStripeBytes,
                 stripe_secret(stripe));
    }
  }
  Lanes lanes{};
  for (unsigned lane = 0; lane < kLanes; ++lane) {
    lanes[lane] = initial_lane(lane);
    for (auto const& sum : sums) {
      lanes[lane] = scramble(lanes[lane] + sum[lane], lane);
    }
  }
  for (unsigned stripe = 0; stripe < num_tail_stripes(bytes); ++stripe) {
    add_stripe(lanes, data.data() + sums.size() * kBlockBytes + stripe * kStripeBytes,
               stripe_secret(stripe));
  }
  add_stripe(lanes, data.data() + bytes - kStripeBytes, kLastStripeSecret);
  return {low_half(lanes.data(), bytes), high_half(lanes.data(), bytes)};
}

TEST(Xxh3Parallel, SumsAndChainGiveTheChecksumOfTheWhole) {
  std::mt19937_64 random(7);
  for (std::size_t const bytes : {241U, 256U, 511U, 1023U, 1024U, 1025U, 1088U, 1089U, 2047U, 2048U,
                                  2049U, 65536U, 41984U, 100003U, 360U * 1024}) {
    std::vector<std::byte> data(bytes);
    for (auto& byte : data) {
      byte = static_cast<std::byte>(random());
    }
    EXPECT_EQ(hash_in_two_steps(data), checksum_bytes(data.data(), data.size())) << bytes;
  }
}

}  // namespace
}  // namespace kvbm::kernels::xxh3
