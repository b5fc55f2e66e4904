// SPDX-License-Identifier: Apache-2.0
#include "progress.hpp"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <utility>

namespace kvbm::cli {
namespace {

using Clock = std::chrono::steady_clock;

constexpr std::uint64_t kWidth = 28;
constexpr auto kRedrawEvery = std::chrono::milliseconds(80);

}  // namespace

Progress::Progress(std::string what, std::uint64_t total, bool quiet)
    : what_(std::move(what)),
      total_(std::max<std::uint64_t>(total, 1)),
      shown_(!quiet && ::isatty(STDERR_FILENO) == 1),
      drawn_(Clock::now() - kRedrawEvery) {}

Progress::~Progress() { clear(); }

void Progress::update(std::uint64_t done, std::string const& detail) {
  done_ = std::min(done, total_);
  auto const now = Clock::now();
  if (!shown_ || (now - drawn_ < kRedrawEvery && done_ != total_)) { return; }
  drawn_ = now;
  auto const filled = static_cast<std::size_t>(done_ * kWidth / total_);
  fmt::print(stderr, "\r\033[K{} [{}{}] {}/{} {}", what_, std::string(filled, '#'),
             std::string(kWidth - filled, '.'), done_, total_, detail.substr(0, 48));
  std::fflush(stderr);
}

void Progress::clear() {
  if (shown_) {
    fmt::print(stderr, "\r\033[K");
    std::fflush(stderr);
  }
}

}  // namespace kvbm::cli
