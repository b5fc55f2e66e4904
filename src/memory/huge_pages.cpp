// SPDX-License-Identifier: Apache-2.0
#include "kvbm/memory/huge_pages.hpp"

#include <charconv>
#include <fstream>
#include <iterator>
#include <string>

#include "kvbm/core/checked.hpp"

namespace kvbm::memory {
namespace {

std::string_view trim(std::string_view text) {
  auto const first = text.find_first_not_of(" \t");
  if (first == std::string_view::npos) { return {}; }
  return text.substr(first, text.find_last_not_of(" \t\r") - first + 1);
}

std::optional<std::uint64_t> to_number(std::string_view text) {
  std::uint64_t value = 0;
  auto const [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc{} || end != text.data() + text.size()) { return std::nullopt; }
  return value;
}

// The rest of the line that starts with `name` and a colon.
std::optional<std::string_view> find_field(std::string_view text, std::string_view name) {
  while (!text.empty()) {
    auto const line = text.substr(0, text.find('\n'));
    text.remove_prefix(line.size() == text.size() ? text.size() : line.size() + 1);
    if (line.size() > name.size() && line.starts_with(name) && line[name.size()] == ':') {
      return trim(line.substr(name.size() + 1));
    }
  }
  return std::nullopt;
}

std::optional<std::uint64_t> find_count(std::string_view text, std::string_view name) {
  auto const field = find_field(text, name);
  return field ? to_number(*field) : std::nullopt;
}

std::optional<std::uint64_t> find_kib(std::string_view text, std::string_view name) {
  constexpr std::string_view kUnit = "kB";
  auto const field = find_field(text, name);
  if (!field || !field->ends_with(kUnit)) { return std::nullopt; }
  auto const number = to_number(trim(field->substr(0, field->size() - kUnit.size())));
  if (!number || *number > kMaxBytes / 1024) { return std::nullopt; }
  return *number * 1024;
}

std::string read_text(char const* path) {
  std::ifstream file(path);
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

}  // namespace

std::string_view to_string(TransparentHugePages mode) noexcept {
  switch (mode) {
    case TransparentHugePages::Always: return "always";
    case TransparentHugePages::Madvise: return "madvise";
    case TransparentHugePages::Never: return "never";
  }
  return "unknown";
}

std::optional<HugePageInfo> parse_huge_page_info(std::string_view meminfo) {
  auto const total = find_count(meminfo, "HugePages_Total");
  auto const free = find_count(meminfo, "HugePages_Free");
  auto const page_bytes = find_kib(meminfo, "Hugepagesize");
  if (!total || !free || !page_bytes) { return std::nullopt; }
  return HugePageInfo{*total, *free, *page_bytes};
}

std::optional<TransparentHugePages> parse_transparent_huge_pages(std::string_view text) {
  auto const open = text.find('[');
  if (open == std::string_view::npos) { return std::nullopt; }
  auto const close = text.find(']', open);
  if (close == std::string_view::npos || text.find('[', open + 1) != std::string_view::npos) {
    return std::nullopt;
  }
  auto const word = text.substr(open + 1, close - open - 1);
  for (auto const mode :
       {TransparentHugePages::Always, TransparentHugePages::Madvise, TransparentHugePages::Never}) {
    if (word == to_string(mode)) { return mode; }
  }
  return std::nullopt;
}

std::optional<HugePageInfo> read_huge_page_info() {
  return parse_huge_page_info(read_text("/proc/meminfo"));
}

std::optional<TransparentHugePages> read_transparent_huge_pages() {
  return parse_transparent_huge_pages(read_text("/sys/kernel/mm/transparent_hugepage/enabled"));
}

}  // namespace kvbm::memory
