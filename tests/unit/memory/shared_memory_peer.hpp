// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>
#include <span>
#include <string_view>

#include "kvbm/core/error.hpp"
#include "kvbm/memory/shared_memory.hpp"

/// What the test of shared memory and its peer process say to each other.
namespace kvbm::memory::test {

enum class PeerCommand : std::uint32_t {
  Allocate,  ///< value: bytes; kind. Answers with where it is.
  Free,      ///< what was allocated
  Map,       ///< `memory`, as `kind`
  Unmap,
  Fill,      ///< value: seed. What was mapped, else what was allocated.
  Check,     ///< value: seed
  Shorten,   ///< tries to truncate what was allocated; fails if it cannot
  DropUser,  ///< becomes user 65534
};

/// Where memory is that a process shares.
struct SharedMemory {
  ProcessName owner;
  SharedMemoryName name;
  std::uint64_t bytes = 0;
};

struct PeerRequest {
  PeerCommand command = PeerCommand::Check;
  StorageKind kind = StorageKind::System;
  std::uint64_t value = 0;
  SharedMemory memory;
};

struct PeerAnswer {
  bool failed = false;
  ErrorCode code = ErrorCode::Internal;
  SharedMemory memory;
  std::array<char, 512> message{};
};

/// A byte for every position that other seeds do not have there.
inline std::byte pattern_at(std::uint64_t seed, std::uint64_t i) {
  return static_cast<std::byte>((i * 7 + i / 4096 + seed * 31) & 0xffU);
}

inline void fill_pattern(std::span<std::byte> bytes, std::uint64_t seed) {
  for (std::uint64_t i = 0; i < bytes.size(); ++i) {
    bytes[i] = pattern_at(seed, i);
  }
}

/// Position of the first byte that is not of the pattern.
inline std::optional<std::uint64_t> find_mismatch(std::span<std::byte const> bytes,
                                                  std::uint64_t seed) {
  for (std::uint64_t i = 0; i < bytes.size(); ++i) {
    if (bytes[i] != pattern_at(seed, i)) { return i; }
  }
  return std::nullopt;
}

}  // namespace kvbm::memory::test
