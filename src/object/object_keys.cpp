// SPDX-License-Identifier: Apache-2.0
#include "kvbm/object/object_keys.hpp"

#include <fmt/format.h>

#include "kvbm/core/error.hpp"
#include "object/text.hpp"

namespace kvbm::object {

namespace {

std::string escape(std::string_view text) {
  constexpr std::string_view kDigits = "0123456789abcdef";
  std::string escaped;
  for (char const c : text) {
    // Folders named "." and ".." vanish on their way through URL libraries and file systems.
    bool const is_leading_dot = c == '.' && escaped.empty();
    if ((is_alphanumeric(c) || c == '-' || c == '_' || c == '.') && !is_leading_dot) {
      escaped += c;
    } else {
      auto const byte = static_cast<unsigned char>(c);
      escaped += '~';
      escaped += kDigits[byte >> 4U];
      escaped += kDigits[byte & 15U];
    }
  }
  return escaped;
}

/// nullopt: escape() gives no such text.
std::optional<std::string> unescape(std::string_view text) {
  std::string plain;
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (text[i] != '~') {
      plain += text[i];
      continue;
    }
    if (i + 2 >= text.size()) { return std::nullopt; }
    int const high = hex_value(text[i + 1]);
    int const low = hex_value(text[i + 2]);
    if (high < 0 || low < 0) { return std::nullopt; }
    plain += static_cast<char>(high * 16 + low);
    i += 2;
  }
  if (escape(plain) != text) { return std::nullopt; }
  return plain;
}

void check_prefix(std::string_view prefix) {
  auto const refuse = [prefix](char const* why) {
    throw_error(ErrorCode::InvalidArgument,
                fmt::format("prefix '{}' of object keys {}", printable(prefix, 200), why));
  };
  for (char const c : prefix) {
    if (c < ' ' || c > '~') { refuse("has a character that is not printable ASCII"); }
  }
  while (!prefix.empty()) {
    auto const end = prefix.find('/');
    std::string_view const folder = prefix.substr(0, end);
    if (folder.empty() || folder == "." || folder == "..") {
      refuse("has an empty folder, '.' or '..'; write it without '/' at its ends");
    }
    if (end == std::string_view::npos) { return; }
    prefix.remove_prefix(end + 1);
    if (prefix.empty()) { refuse("ends with '/'"); }
  }
}

std::string checked(std::string key) {
  KVBM_EXPECTS(key.size() <= ObjectKeyScheme::kMaxKeyBytes, InvalidArgument,
               fmt::format("an object's key of {} bytes, S3 takes {}: '{}...'", key.size(),
                           ObjectKeyScheme::kMaxKeyBytes, printable(key, 80)));
  return key;
}

}  // namespace

void ObjectKeyScheme::check() const {
  KVBM_EXPECTS(!model.empty(), InvalidArgument,
               "the key scheme's model is empty; give the fingerprint of the model");
  KVBM_EXPECTS(!format.empty(), InvalidArgument,
               "the key scheme's format is empty; give the name of the layout's format");
  KVBM_EXPECTS(tp_size >= 1 && tp_rank < tp_size, InvalidArgument,
               fmt::format("the key scheme's tp_rank {} of tp_size {}", tp_rank, tp_size));
  check_prefix(prefix);
  // What is left of the limit has to do for a content key of some length.
  constexpr std::size_t kMostRoot = kMaxKeyBytes - 256;
  KVBM_EXPECTS(root().size() <= kMostRoot, InvalidArgument,
               fmt::format("prefix, model and format take {} bytes of every key, at most {} can be",
                           root().size(), kMostRoot));
}

std::string ObjectKeyScheme::root() const {
  return fmt::format("{}{}kvbm-v{}/{}/{}/tp{}-r{}/", prefix, prefix.empty() ? "" : "/",
                     kFormatVersion, escape(model), escape(format), tp_size, tp_rank);
}

std::string ObjectKeyScheme::manifest_key() const { return root() + "manifest"; }
std::string ObjectKeyScheme::temporary_prefix() const { return root() + "tmp/"; }

std::string ObjectKeyScheme::index_key(std::uint64_t first_block,
                                       std::uint32_t blocks_per_object) const {
  return fmt::format("{}i{}/{:010}", root(), blocks_per_object, first_block);
}

std::string ObjectKeyScheme::content_key(std::string_view key) const {
  KVBM_EXPECTS(!key.empty(), InvalidArgument, "an empty content key");
  return checked(content_prefix() + escape(key));
}

std::string ObjectKeyScheme::content_prefix() const { return root() + "b/"; }

std::optional<std::string> ObjectKeyScheme::parse_content_key(std::string_view object_key) const {
  std::string const front = content_prefix();
  if (object_key.size() <= front.size() || object_key.substr(0, front.size()) != front) {
    return std::nullopt;
  }
  return unescape(object_key.substr(front.size()));
}

}  // namespace kvbm::object
