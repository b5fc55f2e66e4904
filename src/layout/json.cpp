// SPDX-License-Identifier: Apache-2.0
#include "layout/json.hpp"

#include "kvbm/core/error.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <set>
#include <vector>

namespace kvbm::layout::detail {
namespace {

using nlohmann::json;

/// Deeper than anything we write.
constexpr int kMaxDepth = 8;

[[noreturn]] void refuse(std::string const& message) { throw CorruptError(message); }

json const& field_of(json const& object, char const* field) {
  auto const it = object.find(field);
  if (it == object.end()) { refuse(fmt::format("field '{}' is missing", field)); }
  return *it;
}

/// A value as it may stand in a message: short and ASCII.
std::string quoted(json const& value) {
  if (value.is_binary()) { return fmt::format("{} bytes", value.get_binary().size()); }
  return value.dump(-1, ' ', true, json::error_handler_t::replace).substr(0, 80);
}

}  // namespace

json parse_untrusted(std::string_view text, std::size_t max_bytes, char const* what) {
  if (text.size() > max_bytes) {
    refuse(fmt::format("{}: {} bytes, at most {} are read", what, text.size(), max_bytes));
  }
  std::vector<std::set<std::string>> keys;
  auto const check = [&](int depth, json::parse_event_t event, json& parsed) {
    if (depth > kMaxDepth) { refuse(fmt::format("{}: nested deeper than {}", what, kMaxDepth)); }
    if (event == json::parse_event_t::object_start) {
      keys.emplace_back();
    } else if (event == json::parse_event_t::object_end) {
      keys.pop_back();
    } else if (event == json::parse_event_t::key &&
               !keys.back().insert(parsed.get<std::string>()).second) {
      refuse(fmt::format("{}: field {} is given twice", what, quoted(parsed)));
    }
    return true;
  };
  auto value = json::parse(text.begin(), text.end(), check, false);
  if (value.is_discarded() || !value.is_object()) {
    refuse(fmt::format("{}: not a JSON object", what));
  }
  return value;
}

void expect_fields(json const& object, char const* what,
                   std::initializer_list<char const*> required,
                   std::initializer_list<char const*> optional) {
  if (!object.is_object()) { refuse(fmt::format("{}: not an object", what)); }
  for (auto const* field : required) {
    if (!object.contains(field)) { refuse(fmt::format("{}: field '{}' is missing", what, field)); }
  }
  auto const is_one_of = [](std::initializer_list<char const*> names, std::string const& name) {
    return std::find(names.begin(), names.end(), name) != names.end();
  };
  for (auto const& [name, value] : object.items()) {
    if (!is_one_of(required, name) && !is_one_of(optional, name)) {
      refuse(fmt::format("{}: unknown field {}", what, quoted(json(name))));
    }
  }
}

void expect_version(json const& object, std::uint64_t supported, char const* what) {
  auto const version = read_unsigned(object, "version");
  KVBM_EXPECTS(version == supported, VersionMismatch,
               fmt::format("Unsupported version {} of a {}, this library reads version {}", version,
                           what, supported));
}

std::uint64_t read_unsigned(json const& object, char const* field) {
  auto const& value = field_of(object, field);
  if (!value.is_number_unsigned()) {
    refuse(fmt::format("field '{}' is not an unsigned integer: {}", field, quoted(value)));
  }
  return value.get<std::uint64_t>();
}

bool read_bool(json const& object, char const* field) {
  auto const& value = field_of(object, field);
  if (!value.is_boolean()) {
    refuse(fmt::format("field '{}' is not true or false: {}", field, quoted(value)));
  }
  return value.get<bool>();
}

std::string const& read_string(json const& object, char const* field) {
  auto const& value = field_of(object, field);
  if (!value.is_string()) {
    refuse(fmt::format("field '{}' is not a string: {}", field, quoted(value)));
  }
  return value.get_ref<std::string const&>();
}

json const& read_array(json const& object, char const* field, std::size_t max_size) {
  auto const& value = field_of(object, field);
  if (!value.is_array() || value.size() > max_size) {
    refuse(fmt::format("field '{}' is not an array of at most {} entries: {}", field, max_size,
                       quoted(value)));
  }
  return value;
}

}  // namespace kvbm::layout::detail
