// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace kvbm::object {

[[nodiscard]] constexpr bool is_alphanumeric(char c) noexcept {
  return (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9');
}

std::string to_lower(std::string_view text);
std::string_view trim(std::string_view text) noexcept;

/// All of it is one decimal number that fits.
std::optional<std::uint64_t> parse_number(std::string_view text) noexcept;

/// Value of a hexadecimal digit, -1 if it is none.
int hex_value(char digit) noexcept;

/// As RFC 3986 and Signature Version 4 want it: all but letters, digits and "-._~" as %XX.
std::string percent_encode(std::string_view text, bool keep_slashes);
/// '%' without two digits stays.
std::string percent_decode(std::string_view text);

/// The text in the first <name>...</name>, with &amp; and the like resolved; nullopt: none.
std::optional<std::string> xml_text(std::string_view xml, std::string_view name);
/// What lies in each <name>...</name>, as it is; elements of that name do not nest in what S3 says.
std::vector<std::string_view> xml_elements(std::string_view xml, std::string_view name);

/// At most `most` characters of it, others than printable ASCII as '?'.
std::string printable(std::string_view text, std::size_t most);

}  // namespace kvbm::object
