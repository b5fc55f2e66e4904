// SPDX-License-Identifier: Apache-2.0
#include "http_text.hpp"

#include <array>
#include <cctype>
#include <cstdio>

namespace kvbm::testing {

std::string decode(std::string_view text) {
  std::string plain;
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '%' && i + 2 < text.size()) {
      plain += static_cast<char>(std::stoi(std::string(text.substr(i + 1, 2)), nullptr, 16));
      i += 2;
    } else {
      plain += text[i];
    }
  }
  return plain;
}

std::string encode(std::string_view text) {
  std::string encoded;
  for (char const c : text) {
    bool const is_plain = std::isalnum(static_cast<unsigned char>(c)) != 0 ||
                          std::string_view("-._~/").find(c) != std::string_view::npos;
    if (is_plain) {
      encoded += c;
    } else {
      std::array<char, 4> hex{};
      std::snprintf(hex.data(), hex.size(), "%%%02X", static_cast<unsigned char>(c));
      encoded += hex.data();
    }
  }
  return encoded;
}

std::string query_value(std::string const& query, std::string const& name) {
  std::string const all = "&" + query;
  auto const found = all.find("&" + name + "=");
  if (found == std::string::npos) { return {}; }
  auto const begin = found + name.size() + 2;
  return decode(all.substr(begin, all.find('&', begin) - begin));
}

}  // namespace kvbm::testing
