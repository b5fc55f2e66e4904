// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <string_view>

#include "kvbm/object/credentials.hpp"
#include "object/http_get.hpp"

namespace kvbm::object {

/// What the chain looks at, so that tests can bring their own.
struct ChainWorld {
  std::function<std::optional<std::string>(char const* name)> variable;
  /// nullopt: there is no such file, or it cannot be read.
  std::function<std::optional<std::string>(std::filesystem::path const& file)> read_file;
  std::function<HttpAnswer(char const* method, std::string const& url,
                           std::vector<std::pair<std::string, std::string>> const& headers)>
      ask;

  static ChainWorld real();
};

/// @throws Error(NotFound)
Credentials find_credentials(ChainWorld const& world);

/// "2026-01-31T12:00:00Z"; nullopt: not of that form.
std::optional<std::chrono::system_clock::time_point> parse_time(std::string const& text);

/// The value of `name` in [section] of a file in the form of ~/.aws/credentials.
std::optional<std::string> profile_value(std::string_view file, std::string_view section,
                                         std::string_view name);

}  // namespace kvbm::object
