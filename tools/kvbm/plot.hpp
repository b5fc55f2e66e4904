// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <nlohmann/json.hpp>

#include <string>
#include <utility>

namespace kvbm::cli {

/// Draws the cases of a GPU benchmark, bars of each way beside the limit: NAME.png, and NAME.html
/// that needs nothing beside itself.
/// @return both paths  @throws Error(Io)
std::pair<std::string, std::string> write_plots(std::string const& name,
                                                nlohmann::json const& report);

}  // namespace kvbm::cli
