// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>

#ifdef __CUDACC__
#define KVBM_HOST_DEVICE __host__ __device__
#else
#define KVBM_HOST_DEVICE
#endif

/// XXH3-128 (default secret, seed 0, more than 240 bytes) cut so that many threads can share one
/// input. The algorithm adds 16 stripes of 64 bytes into 8 accumulators and then scrambles them,
/// 1024 bytes at a time (https://github.com/Cyan4973/xxHash/blob/dev/doc/xxhash_spec.md). The sums
/// of different 1024 bytes do not depend on each other, only the scrambling is a chain: so sums
/// are made in parallel at the speed of memory, and the chain walks over 64 bytes for every 1024.
namespace kvbm::kernels::xxh3 {

inline constexpr std::uint64_t kBlockBytes = 1024;
inline constexpr std::uint64_t kStripeBytes = 64;
inline constexpr unsigned kLanes = 8;
inline constexpr std::uint64_t kMinBytes = 241;

/// Words of the default secret from byte 0, 8, 16, ...
KVBM_HOST_DEVICE inline std::uint64_t secret_word(unsigned index) {
  constexpr std::uint64_t kSecret[24] = {
      0xbe4ba423396cfeb8U, 0x1cad21f72c81017cU, 0xdb979083e96dd4deU, 0x1f67b3b7a4a44072U,
      0x78e5c0cc4ee679cbU, 0x2172ffcc7dd05a82U, 0x8e2443f7744608b8U, 0x4c263a81e69035e0U,
      0xcb00c391bb52283cU, 0xa32e531b8b65d088U, 0x4ef90da297486471U, 0xd8acdea946ef1938U,
      0x3f349ce33f76faa8U, 0x1d4f0bc7c7bbdcf9U, 0x3159b4cd4be0518aU, 0x647378d9c97e9fc8U,
      0xc3ebd33483acc5eaU, 0xeb6313faffa081c5U, 0x49daf0b751dd0d17U, 0x9e68d429265516d3U,
      0xfca1477d58be162bU, 0xce31d07ad1b8f88fU, 0x280416958f3acb45U, 0x7e404bbbcafbd7afU};
  return kSecret[index];
}

/// Eight bytes of the secret from any byte on.
KVBM_HOST_DEVICE inline std::uint64_t secret_at(unsigned byte) {
  unsigned const index = byte / 8;
  unsigned const shift = byte % 8 * 8;
  std::uint64_t const low = secret_word(index);
  return shift == 0 ? low : (low >> shift) | (secret_word(index + 1) << (64 - shift));
}

/// What a word of a stripe adds to its own lane; its neighbour's lane gets the word itself.
KVBM_HOST_DEVICE inline std::uint64_t product(std::uint64_t word, std::uint64_t key) {
  std::uint64_t const mixed = word ^ key;
  return (mixed & 0xffffffffU) * (mixed >> 32U);
}

KVBM_HOST_DEVICE inline std::uint64_t initial_lane(unsigned lane) {
  constexpr std::uint64_t kInitial[kLanes] = {
      0xC2B2AE3DU,         0x9E3779B185EBCA87U, 0xC2B2AE3D27D4EB4FU, 0x165667B19E3779F9U,
      0x85EBCA77C2B2AE63U, 0x85EBCA77U,         0x27D4EB2F165667C5U, 0x9E3779B1U};
  return kInitial[lane];
}

/// The end of 1024 bytes, for one lane.
KVBM_HOST_DEVICE inline std::uint64_t scramble(std::uint64_t lane_value, unsigned lane) {
  std::uint64_t const folded = lane_value ^ (lane_value >> 47U) ^ secret_word(16 + lane);
  return folded * 0x9E3779B1U;
}

/// Byte of the secret that the words of stripe `stripe` of a block are mixed with, first lane.
KVBM_HOST_DEVICE constexpr unsigned stripe_secret(unsigned stripe) { return stripe * 8; }
/// The same for the last 64 bytes of the input, which are added at the very end.
inline constexpr unsigned kLastStripeSecret = 192 - 64 - 7;

KVBM_HOST_DEVICE inline std::uint64_t multiply_fold(std::uint64_t a, std::uint64_t b) {
#ifdef __CUDA_ARCH__
  return (a * b) ^ __umul64hi(a, b);
#else
  __extension__ using Wide = unsigned __int128;
  Wide const all = static_cast<Wide>(a) * b;
  return static_cast<std::uint64_t>(all) ^ static_cast<std::uint64_t>(all >> 64U);
#endif
}

KVBM_HOST_DEVICE inline std::uint64_t merge(std::uint64_t const* lanes, unsigned secret_byte,
                                            std::uint64_t start) {
  std::uint64_t sum = start;
  for (unsigned i = 0; i < kLanes; i += 2) {
    sum += multiply_fold(lanes[i] ^ secret_at(secret_byte + 8 * i),
                         lanes[i + 1] ^ secret_at(secret_byte + 8 * i + 8));
  }
  sum ^= sum >> 37U;
  sum *= 0x165667919E3779F9U;
  return sum ^ (sum >> 32U);
}

KVBM_HOST_DEVICE inline std::uint64_t low_half(std::uint64_t const* lanes, std::uint64_t bytes) {
  return merge(lanes, 11, bytes * 0x9E3779B185EBCA87U);
}
KVBM_HOST_DEVICE inline std::uint64_t high_half(std::uint64_t const* lanes, std::uint64_t bytes) {
  return merge(lanes, 192 - 64 - 11, ~(bytes * 0xC2B2AE3D27D4EB4FU));
}

/// Blocks of 1024 bytes that end in a scramble; what is left is 1 to 1024 bytes.
KVBM_HOST_DEVICE constexpr std::uint64_t num_full_blocks(std::uint64_t bytes) {
  return (bytes - 1) / kBlockBytes;
}
/// Whole stripes behind the full blocks; the input's last 64 bytes come after them.
KVBM_HOST_DEVICE constexpr unsigned num_tail_stripes(std::uint64_t bytes) {
  return static_cast<unsigned>((bytes - 1 - num_full_blocks(bytes) * kBlockBytes) / kStripeBytes);
}

}  // namespace kvbm::kernels::xxh3
