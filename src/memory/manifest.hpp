// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "kvbm/memory/block_file.hpp"

namespace kvbm::memory {

/// Version of the files that this code writes, and the newest that it reads.
inline constexpr std::uint64_t kManifestVersion = 1;

/// Nothing larger is parsed.
inline constexpr std::uint64_t kMaxManifestBytes = std::uint64_t{32} << 20;
inline constexpr std::uint64_t kMaxMetadataBytes = std::uint64_t{8} << 20;
inline constexpr std::uint64_t kMaxGroups = std::uint64_t{1} << 16;
/// Extents of one file: their records take 32 bytes each, in memory too.
inline constexpr std::uint64_t kMaxExtents = std::uint64_t{1} << 30;

/// What PATH.manifest says.
struct Manifest {
  std::uint64_t id = 0;  ///< random; binds the table's records to this file
  std::vector<ExtentGroup> groups;
  std::string metadata;
  /// Of a striped set: the paths of its files. Empty: a block file.
  std::vector<std::string> parts = {};
};

/// Files of one striped set.
inline constexpr std::size_t kMaxParts = 256;

/// What follows from the groups of a file.
struct FileGeometry {
  std::uint64_t data_bytes = 0;  ///< size of the data file, a multiple of kFileAlignment
  std::uint64_t num_extents = 0;
  std::vector<std::uint64_t> first_record;  ///< a group: index of its extent 0 in the table
};

/// Checks alignment, order, overlap and every sum.
/// @throws Error(InvalidArgument), Error(Overflow) naming group and field
FileGeometry check_groups(std::vector<ExtentGroup> const& groups);

/// The text of PATH.manifest, or of PATH.stripes where there are parts. @throws
/// Error(InvalidArgument) too large
std::string encode_manifest(Manifest const& manifest);

/// Wraps a JSON text with its checksum, as every version of the manifest is:
/// {"checksum":"<32 hex digits of XXH3-128 over body>","manifest":<body>}
std::string seal_manifest(std::string_view body);

/// The way back; trusts nothing. The checksum is verified before anything is parsed.
/// @param name  for messages
/// @throws CorruptError; Error(VersionMismatch) naming both versions
Manifest decode_manifest(std::string_view text, std::string_view name);

/// Likewise of PATH.stripes.
Manifest decode_stripes(std::string_view text, std::string_view name);

}  // namespace kvbm::memory
