// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "kvbm/memory/shared_memory.hpp"
#include "memory/file_handle.hpp"

namespace kvbm::memory {

/// A file of `bytes` zeros in memory that nobody can shorten or lengthen any more, whoever has it
/// mapped: touching a page beyond the end of a file kills a process.
/// @return an empty handle with errno in `error` on failure
FileHandle try_make_shared_file(std::uint64_t bytes, int& error);

/// How other processes find `file`, from its first byte on.
SharedMemoryName name_shared_file(FileHandle const& file, std::uint64_t file_bytes);

/// Whether `file` is one whose length can never change, and that can be written.
bool is_shared_file(FileHandle const& file) noexcept;

}  // namespace kvbm::memory
