// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <vector>

#include "object_server.hpp"
#include "report.hpp"

namespace kvbm::cli {

/// What blocks that share objects are measured with.
struct SharingPlan {
  std::vector<std::uint64_t> block_bytes;
  std::vector<std::uint32_t> blocks_per_object;
  std::size_t connections = 32;
  std::uint64_t bytes = std::uint64_t{32} << 20U;  ///< all blocks of a round, 512 blocks at most
  std::size_t repeat = 3;
};

/// Blocks of several sizes, several to an object: all written and read, single ones read and
/// written at random.
Table sharing_table(SharingPlan const& plan, ObjectServer const& server);

}  // namespace kvbm::cli
