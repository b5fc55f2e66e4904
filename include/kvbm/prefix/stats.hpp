// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <vector>

#include "kvbm/remote/tier.hpp"

namespace kvbm::prefix {

/// What happened in one tier since the store was made.
struct TierStats {
  remote::LogicalLayoutHandle tier = remote::LogicalLayoutHandle::G2;
  std::uint64_t capacity_blocks = 0;  ///< within the byte budget
  std::uint64_t blocks = 0;           ///< held now
  std::uint64_t pinned_blocks = 0;    ///< of them, that must stay
  std::uint64_t hits = 0;             ///< blocks that onboard() found here
  std::uint64_t written = 0;          ///< blocks that arrived from the engine or another tier
  std::uint64_t promoted = 0;         ///< of them, from a slower tier
  std::uint64_t bytes_read = 0;       ///< to the engine and to other tiers
  std::uint64_t bytes_written = 0;
  std::uint64_t evicted = 0;        ///< left to make room, whether or not another tier had them
  std::uint64_t lost = 0;           ///< of them, the last copy, with more tiers below
  std::uint64_t refused = 0;        ///< could not come in: every block in use or pinned
  std::uint64_t read_errors = 0;    ///< blocks that could not be read
  std::uint64_t corrupt = 0;        ///< of them, dropped: failed their checksum, or gone
  std::uint64_t write_errors = 0;   ///< blocks that could not be written
  std::uint64_t recovered = 0;      ///< found when the store was opened
  std::uint64_t damaged_index = 0;  ///< records and headers of the slot index that were refused
};

/// What happened since the store was made.
struct PrefixStats {
  std::vector<TierStats> tiers;         ///< fastest first
  std::uint64_t lookups = 0;            ///< calls
  std::uint64_t onboarded = 0;          ///< blocks that arrived at the engine
  std::uint64_t missed = 0;             ///< blocks asked for that did not
  std::uint64_t offloaded = 0;          ///< blocks taken from the engine
  std::uint64_t already_stored = 0;     ///< blocks offered that were there, or on their way
  std::uint64_t shared_reads = 0;       ///< blocks that waited for somebody else's read
  std::uint64_t queued_writes = 0;      ///< blocks on their way down at this moment
  std::uint64_t background_errors = 0;  ///< in keeping records of keys; the log names them
};

}  // namespace kvbm::prefix
