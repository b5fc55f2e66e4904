// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <exception>
#include <optional>
#include <span>
#include <vector>

#include "object/object_store_impl.hpp"

namespace kvbm::object {

/// A change of some of the blocks that share an object.
struct ObjectMerge {
  struct Change {
    std::uint32_t slot = 0;
    std::byte const* data = nullptr;   ///< null: the block is forgotten
    std::optional<Checksum> checksum;  ///< of data
  };
  ObjectBlockStore::Impl* store = nullptr;
  Place place;  ///< of any of the blocks
  std::vector<Change> changes;
  std::exception_ptr error;  ///< after apply_merges
};

/// Reads each object, changes it, writes it, many at a time. Merges of one object exclude each
/// other, whoever calls. Errors are left in the merges.
void apply_merges(S3Client& client, std::span<ObjectMerge> merges);

}  // namespace kvbm::object
