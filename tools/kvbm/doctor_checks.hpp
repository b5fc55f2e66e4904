// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

namespace kvbm::cli {

enum class Health {
  Ok,
  Info,  ///< absent, but nothing here needs it
  Warn,  ///< works, slower or with less safety than it could
  Fail,  ///< something kvbm is for does not work
};

/// "ok", "info", "warn", "fail".
char const* to_string(Health health) noexcept;

/// One thing that decides speed or correctness.
struct Check {
  std::string key;
  std::string name;
  Health health = Health::Ok;
  std::string found;
  std::string advice;  ///< what to do; empty where all is well
};

/// @param needed_bytes  room that the disk tier should find in `folder`
/// @param bucket        that the object tier should find; empty: none is needed
std::vector<Check> run_checks(std::filesystem::path const& folder, std::uint64_t needed_bytes,
                              std::string const& bucket);

}  // namespace kvbm::cli
