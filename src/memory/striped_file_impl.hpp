// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "kvbm/memory/striped_file.hpp"
#include "memory/manifest.hpp"

namespace kvbm::memory {

/// What a part says about itself in its own manifest.
struct StripePart {
  std::uint64_t set = 0;  ///< Manifest::id of the set
  std::uint64_t index = 0;
  std::uint64_t count = 0;
  friend bool operator==(StripePart const&, StripePart const&) = default;
};

/// The metadata of a part. @pre none
std::string encode_part(StripePart const& part);
/// nullopt: these are no part's.
std::optional<StripePart> decode_part(std::string_view metadata);

/// The extents of part `index` of `count`: at least one of each group, so that every part is a
/// block file. @throws Error(Overflow)
std::vector<ExtentGroup> part_groups(std::vector<ExtentGroup> const& groups, std::uint64_t index,
                                     std::uint64_t count);

/// "<first>.stripes".
std::filesystem::path stripes_path(std::filesystem::path const& first);

class StripedFile::Impl {
 public:
  std::filesystem::path stripes;
  Manifest manifest;
  std::vector<std::shared_ptr<BlockFile>> parts;
};

}  // namespace kvbm::memory
