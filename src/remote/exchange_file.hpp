// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "remote/process_identity.hpp"

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <variant>
#include <vector>

namespace kvbm::remote {

/// Who published a file: a process, and which of its exchanges.
struct FileOwner {
  ProcessIdentity process;
  std::uint64_t exchange_id = 0;
};

/// One published file: a head with its own checksum (owner, length and checksum of the metadata),
/// then the metadata. Everything read is distrusted.
struct ExchangeFile {
  struct Absent {};
  /// Not what was written, or not all of it.
  struct Damaged {
    std::string why;
  };
  /// Written by another version of this format.
  struct OtherVersion {
    std::uint32_t version;
  };
  struct Found {
    FileOwner owner;
    std::vector<std::byte> metadata;  ///< empty after read_owner()
  };
  using Result = std::variant<Absent, Damaged, OtherVersion, Found>;

  /// Writes all of it to a new file `path`, mode 0600, and syncs it.
  /// @throws Error(Io) naming the path; the file may be there then
  static void write(std::filesystem::path const& path, FileOwner const& owner,
                    std::span<std::byte const> metadata);
  /// @throws Error(Io) when the file is there and cannot be read
  static Result read(std::filesystem::path const& path);
  /// The head alone, checked against the length of the file.
  static Result read_owner(std::filesystem::path const& path);
};

}  // namespace kvbm::remote
