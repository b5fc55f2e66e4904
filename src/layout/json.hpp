// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <nlohmann/json.hpp>

#include <cstdint>
#include <initializer_list>
#include <string>
#include <string_view>

/// Reading of untrusted JSON: every step throws CorruptError naming the field.
namespace kvbm::layout::detail {

/// Parses an object. Refuses text above `max_bytes`, deep nesting and repeated keys.
/// @param what  names the text in messages ("layout descriptor")
nlohmann::json parse_untrusted(std::string_view text, std::size_t max_bytes, char const* what);

/// Refuses `object` unless it is one and has exactly the required and some of the optional fields.
void expect_fields(nlohmann::json const& object, char const* what,
                   std::initializer_list<char const*> required,
                   std::initializer_list<char const*> optional = {});

/// Refuses a version other than `supported` with Error(VersionMismatch) "Unsupported version N".
/// Looked at before all other fields, so that a newer text is not called damaged.
void expect_version(nlohmann::json const& object, std::uint64_t supported, char const* what);

std::uint64_t read_unsigned(nlohmann::json const& object, char const* field);
bool read_bool(nlohmann::json const& object, char const* field);
std::string const& read_string(nlohmann::json const& object, char const* field);
nlohmann::json const& read_array(nlohmann::json const& object, char const* field,
                                 std::size_t max_size);

}  // namespace kvbm::layout::detail
