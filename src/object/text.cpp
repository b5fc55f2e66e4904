// SPDX-License-Identifier: Apache-2.0
#include "object/text.hpp"

#include <algorithm>
#include <array>
#include <charconv>
#include <utility>

namespace kvbm::object {

std::string to_lower(std::string_view text) {
  std::string lower(text);
  for (char& c : lower) {
    if (c >= 'A' && c <= 'Z') { c = static_cast<char>(c - 'A' + 'a'); }
  }
  return lower;
}

std::string_view trim(std::string_view text) noexcept {
  constexpr std::string_view kSpace = " \t\r\n";
  auto const first = text.find_first_not_of(kSpace);
  if (first == std::string_view::npos) { return {}; }
  return text.substr(first, text.find_last_not_of(kSpace) - first + 1);
}

std::optional<std::uint64_t> parse_number(std::string_view text) noexcept {
  std::uint64_t value = 0;
  auto const [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size()) { return std::nullopt; }
  return value;
}

int hex_value(char digit) noexcept {
  if (digit >= '0' && digit <= '9') { return digit - '0'; }
  if (digit >= 'a' && digit <= 'f') { return digit - 'a' + 10; }
  if (digit >= 'A' && digit <= 'F') { return digit - 'A' + 10; }
  return -1;
}

std::string percent_encode(std::string_view text, bool keep_slashes) {
  constexpr std::string_view kDigits = "0123456789ABCDEF";
  std::string encoded;
  encoded.reserve(text.size());
  for (char const c : text) {
    if (is_alphanumeric(c) || c == '-' || c == '.' || c == '_' || c == '~' ||
        (c == '/' && keep_slashes)) {
      encoded += c;
    } else {
      auto const byte = static_cast<unsigned char>(c);
      encoded += '%';
      encoded += kDigits[byte >> 4U];
      encoded += kDigits[byte & 15U];
    }
  }
  return encoded;
}

std::string percent_decode(std::string_view text) {
  std::string decoded;
  decoded.reserve(text.size());
  for (std::size_t i = 0; i < text.size(); ++i) {
    int const high = text[i] == '%' && i + 2 < text.size() ? hex_value(text[i + 1]) : -1;
    int const low = high >= 0 ? hex_value(text[i + 2]) : -1;
    if (low >= 0) {
      decoded += static_cast<char>(high * 16 + low);
      i += 2;
    } else {
      decoded += text[i];
    }
  }
  return decoded;
}

namespace {

std::string resolve_entities(std::string_view text) {
  static constexpr std::array<std::pair<std::string_view, char>, 5> kEntities = {
      {{"&amp;", '&'}, {"&lt;", '<'}, {"&gt;", '>'}, {"&quot;", '"'}, {"&apos;", '\''}}};
  std::string resolved;
  resolved.reserve(text.size());
  while (!text.empty()) {
    auto const* const entity = std::find_if(
        kEntities.begin(), kEntities.end(),
        [text](auto const& each) { return text.substr(0, each.first.size()) == each.first; });
    if (text.front() == '&' && entity != kEntities.end()) {
      resolved += entity->second;
      text.remove_prefix(entity->first.size());
    } else {
      resolved += text.front();
      text.remove_prefix(1);
    }
  }
  return resolved;
}

/// Takes the next element of that name off the front of `xml`.
std::optional<std::string_view> next_element(std::string_view& xml, std::string_view name) {
  std::string const open = "<" + std::string(name) + ">";
  std::string const close = "</" + std::string(name) + ">";
  auto const begin = xml.find(open);
  if (begin == std::string_view::npos) { return std::nullopt; }
  auto const end = xml.find(close, begin + open.size());
  if (end == std::string_view::npos) { return std::nullopt; }
  auto const inside = xml.substr(begin + open.size(), end - begin - open.size());
  xml.remove_prefix(end + close.size());
  return inside;
}

}  // namespace

std::optional<std::string> xml_text(std::string_view xml, std::string_view name) {
  auto const inside = next_element(xml, name);
  if (!inside) { return std::nullopt; }
  return resolve_entities(*inside);
}

std::vector<std::string_view> xml_elements(std::string_view xml, std::string_view name) {
  std::vector<std::string_view> all;
  while (auto const inside = next_element(xml, name)) {
    all.push_back(*inside);
  }
  return all;
}

std::string printable(std::string_view text, std::size_t most) {
  std::string result(text.substr(0, most));
  for (char& c : result) {
    if (c < ' ' || c > '~') { c = '?'; }
  }
  return result;
}

}  // namespace kvbm::object
