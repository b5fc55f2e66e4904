// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <string_view>

namespace kvbm::testing {

/// Percent encoding.
std::string decode(std::string_view text);
std::string encode(std::string_view text);
/// The decoded value of a part of a query; empty: there is none.
std::string query_value(std::string const& query, std::string const& name);

}  // namespace kvbm::testing
