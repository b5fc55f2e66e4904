// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "kvbm/object/s3_client.hpp"

namespace kvbm::object {

/// What all blocks of a store have in common; an object of its own.
struct ObjectManifest {
  std::uint64_t extent_bytes = 0;
  std::uint64_t num_blocks = 0;
  std::uint32_t blocks_per_object = 1;
  std::string metadata;  ///< any bytes

  /// JSON.
  [[nodiscard]] std::string to_body() const;
  /// What goes with such a body.
  [[nodiscard]] static S3Metadata metadata_of(std::string_view body);
  /// @throws CorruptError, Error(VersionMismatch)
  static ObjectManifest parse(std::string_view body, S3Object const& object);
};

}  // namespace kvbm::object
