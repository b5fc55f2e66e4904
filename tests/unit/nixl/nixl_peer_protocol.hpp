// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

/// What a test and kvbm_nixl_peer say to each other over their channel.
namespace kvbm::nixl {

/// From the peer, first of all.
struct PeerGreeting {
  std::uint64_t address = 0;  ///< of its registered buffer
  std::uint64_t metadata_bytes = 0;
  std::byte metadata[8192] = {};
};

/// To the peer; each is answered by a PeerAnswer.
enum class PeerCommand : std::uint32_t {
  TakeMessage,  ///< waits for a message
  SumOfBuffer,
};

struct PeerAnswer {
  std::uint64_t bytes = 0;
  std::uint64_t sum = 0;
};

/// Differs when bytes differ or change places.
template <typename Bytes>
std::uint64_t sum_of(Bytes const& bytes) {
  std::uint64_t sum = 0;
  for (auto const byte : bytes) {
    sum = sum * 1099511628211ULL + static_cast<std::uint8_t>(byte);
  }
  return sum;
}

}  // namespace kvbm::nixl
