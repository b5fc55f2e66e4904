// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

namespace kvbm::memory {

/// When the kernel backs ordinary memory with huge pages.
enum class TransparentHugePages { Always, Madvise, Never };

/// "always", "madvise" or "never".
std::string_view to_string(TransparentHugePages mode) noexcept;

/// The reserved huge pages of a machine.
struct HugePageInfo {
  std::uint64_t total = 0;       ///< pages
  std::uint64_t free = 0;        ///< pages
  std::uint64_t page_bytes = 0;  ///< 0: the kernel has none
};

/// Reads HugePages_Total, HugePages_Free and Hugepagesize out of the text of /proc/meminfo.
/// @return nullopt if a line is missing, not a number, or in an unknown unit
std::optional<HugePageInfo> parse_huge_page_info(std::string_view meminfo);

/// Reads the choice in brackets of /sys/kernel/mm/transparent_hugepage/enabled.
/// @return nullopt if no known word is in brackets, or more than one
std::optional<TransparentHugePages> parse_transparent_huge_pages(std::string_view text);

/// This machine's, by the functions above; nullopt where the kernel does not say.
std::optional<HugePageInfo> read_huge_page_info();
/// This machine's setting; nullopt where the kernel does not say.
std::optional<TransparentHugePages> read_transparent_huge_pages();

}  // namespace kvbm::memory
