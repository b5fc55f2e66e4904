// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <span>
#include <vector>

#include "kvbm/memory/region.hpp"

/// The bytes of memory that the CPU may not be able to dereference. Complete when they return, and
/// never in the order of anybody's stream.
namespace kvbm::testing {

/// All bytes of a region in memory. @throws std::runtime_error the device refuses
std::vector<std::byte> read_region(memory::Region const& region);

/// Writes all bytes of a region in memory. @throws std::runtime_error the device refuses
/// @param bytes  as many as the region has
void write_region(memory::Region const& region, std::span<std::byte const> bytes);

}  // namespace kvbm::testing
