// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>

#include "memory/file_handle.hpp"

namespace kvbm::memory {

/// What huge pages of this machine measure.
inline constexpr std::uint64_t kHugePageBytes = std::uint64_t{2} << 20U;

/// Of this machine.
std::uint64_t page_bytes();

/// Whole pages of address space with zeroed memory behind them, unmapped at the end.
class Mapping {
 public:
  Mapping() = default;
  ~Mapping() { unmap(); }
  Mapping(Mapping&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)), bytes_(std::exchange(other.bytes_, 0)) {}
  Mapping& operator=(Mapping&& other) noexcept;
  Mapping(Mapping const&) = delete;
  Mapping& operator=(Mapping const&) = delete;

  /// Private memory whose address is `remainder` modulo `alignment`.
  /// @param bytes      whole pages
  /// @param alignment  power of two
  /// @param remainder  whole pages, below `alignment`
  /// @return an empty mapping with errno in `error` on failure
  static Mapping try_make(std::uint64_t bytes, std::uint64_t alignment, std::uint64_t remainder,
                          int& error);

  /// Puts what `file` has from `offset` (whole pages) on in the place of the private memory.
  /// @return 0 or an errno, with which the mapping is empty
  [[nodiscard]] int replace(FileHandle const& file, std::uint64_t offset) noexcept;

  /// Asks for huge pages where one fits in. A kernel without them refuses and nothing is lost.
  void advise_huge_pages() const noexcept;

  [[nodiscard]] std::byte* data() const noexcept { return data_; }
  [[nodiscard]] std::uint64_t bytes() const noexcept { return bytes_; }

 private:
  void unmap() noexcept;

  std::byte* data_ = nullptr;
  std::uint64_t bytes_ = 0;
};

}  // namespace kvbm::memory
