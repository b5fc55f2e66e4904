// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>

#include "memory/file_handle.hpp"

namespace kvbm::memory {

/// For the names that bind files together.
std::uint64_t random_number();

/// Whether anything stands under this name; false where not even a look is possible.
bool is_taken(std::filesystem::path const& path);

/// Takes the lock of an open file, which also keeps a second opener of this process out.
/// @throws Error(Busy) naming the holder; Error(Io)
void lock_file(FileHandle const& file, std::filesystem::path const& path, bool exclusive);

/// Renames without replacing where the file system can; elsewhere the caller has looked before.
/// @return 0 or an errno
int rename_new(std::filesystem::path const& from, std::filesystem::path const& to);

/// @throws CorruptError too large to be one; Error(NotFound), Error(Io)
std::string read_manifest_text(std::filesystem::path const& path);

/// The name appears with all of its content, on the disk if `durable`, or not at all.
/// @throws Error(Io)
void write_manifest(std::filesystem::path const& path, std::string const& text, bool durable);

}  // namespace kvbm::memory
