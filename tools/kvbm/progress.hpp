// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <cstdint>
#include <string>

namespace kvbm::cli {

/// A bar on stderr, on terminals only; wiped when destroyed.
class Progress {
 public:
  /// @param quiet  never show it (--json into a terminal)
  Progress(std::string what, std::uint64_t total, bool quiet = false);
  ~Progress();
  Progress(Progress const&) = delete;
  Progress& operator=(Progress const&) = delete;

  /// `done` of the total; `detail` names what is under way.
  void update(std::uint64_t done, std::string const& detail = {});
  void advance(std::string const& detail = {}) { update(done_ + 1, detail); }
  /// Takes the bar away, so that a line can be printed.
  void clear();

 private:
  std::string what_;
  std::uint64_t total_;
  std::uint64_t done_ = 0;
  bool shown_;
  std::chrono::steady_clock::time_point drawn_;
};

}  // namespace kvbm::cli
