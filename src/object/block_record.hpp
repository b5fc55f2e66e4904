// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "kvbm/core/types.hpp"
#include "kvbm/object/s3_client.hpp"

namespace kvbm::object {

/// What the metadata of an object says of the blocks in it.
struct BlockRecord {
  std::uint64_t extent_bytes = 0;
  std::vector<std::optional<Checksum>> checksums;  ///< nullopt: that block was never written

  [[nodiscard]] S3Metadata to_metadata() const;
  /// @throws CorruptError the metadata is missing or damaged, or the object has blocks of another
  /// size or another number of them; Error(VersionMismatch) it is of a newer version
  static BlockRecord parse(S3Object const& object, std::uint64_t extent_bytes,
                           std::size_t num_blocks);
};

}  // namespace kvbm::object
