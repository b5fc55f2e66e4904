// SPDX-License-Identifier: Apache-2.0
#include "kvbm/memory/arena.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <iterator>
#include <map>
#include <mutex>
#include <utility>

#include "kvbm/core/checked.hpp"
#include "kvbm/core/error.hpp"

namespace kvbm::memory {

class Arena::State {
 public:
  State(Region region, std::uint64_t page_bytes)
      : region_(std::move(region)),
        page_bytes_(page_bytes),
        num_pages_(region_.bytes() / page_bytes) {
    free_runs_.emplace(0, num_pages_);
  }

  [[nodiscard]] Region const& region() const { return region_; }
  [[nodiscard]] std::uint64_t page_bytes() const { return page_bytes_; }
  [[nodiscard]] std::uint64_t num_pages() const { return num_pages_; }

  std::optional<std::uint64_t> take(std::uint64_t pages) {
    std::lock_guard const lock(mutex_);
    auto const run = std::find_if(free_runs_.begin(), free_runs_.end(),
                                  [&](auto const& free) { return free.second >= pages; });
    if (run == free_runs_.end()) { return std::nullopt; }
    std::uint64_t const first = run->first;
    if (run->second == pages) {
      free_runs_.erase(run);
    } else {
      // The node is reused under its new key: taking pages allocates nothing.
      auto node = free_runs_.extract(run);
      node.key() += pages;
      node.mapped() -= pages;
      free_runs_.insert(std::move(node));
    }
    return first;
  }

  // Only emplace() may fail here, for want of a map node; the pages are then lost, which is the
  // lesser evil in a destructor.
  void give_back(std::uint64_t first, std::uint64_t pages) noexcept {
    try {
      std::lock_guard const lock(mutex_);
      auto next = free_runs_.lower_bound(first);
      if (next != free_runs_.begin()) {
        auto const previous = std::prev(next);
        if (previous->first + previous->second == first) {
          previous->second += pages;
          if (next != free_runs_.end() && first + pages == next->first) {
            previous->second += next->second;
            free_runs_.erase(next);
          }
          return;
        }
      }
      if (next != free_runs_.end() && first + pages == next->first) {
        auto node = free_runs_.extract(next);
        node.key() = first;
        node.mapped() += pages;
        free_runs_.insert(std::move(node));
        return;
      }
      free_runs_.emplace(first, pages);
    } catch (...) {}
  }

  [[nodiscard]] std::uint64_t num_free() const {
    std::lock_guard const lock(mutex_);
    std::uint64_t pages = 0;
    for (auto const& run : free_runs_) {
      pages += run.second;
    }
    return pages;
  }

  [[nodiscard]] std::uint64_t largest_run() const {
    std::lock_guard const lock(mutex_);
    std::uint64_t pages = 0;
    for (auto const& run : free_runs_) {
      pages = std::max(pages, run.second);
    }
    return pages;
  }

 private:
  Region region_;
  std::uint64_t page_bytes_;
  std::uint64_t num_pages_;
  mutable std::mutex mutex_;
  std::map<std::uint64_t, std::uint64_t> free_runs_;  // first page -> pages; never adjacent
};

Arena::Lease::Lease(std::shared_ptr<State> state, Region region, std::uint64_t first_page,
                    std::uint64_t num_pages)
    : state_(std::move(state)),
      region_(std::move(region)),
      first_page_(first_page),
      num_pages_(num_pages) {}

Arena::Lease::Lease(Lease&& other) noexcept
    : state_(std::exchange(other.state_, nullptr)),
      region_(std::move(other.region_)),
      first_page_(other.first_page_),
      num_pages_(other.num_pages_) {}

Arena::Lease& Arena::Lease::operator=(Lease&& other) noexcept {
  if (this != &other) {
    release();
    state_ = std::exchange(other.state_, nullptr);
    region_ = std::move(other.region_);
    first_page_ = other.first_page_;
    num_pages_ = other.num_pages_;
  }
  return *this;
}

Arena::Lease::~Lease() { release(); }

std::uint64_t Arena::Lease::offset() const noexcept {
  return state_ == nullptr ? 0 : first_page_ * state_->page_bytes();
}

void Arena::Lease::release() noexcept {
  if (auto const state = std::exchange(state_, nullptr)) {
    state->give_back(first_page_, num_pages_);
  }
}

Arena::Arena(Region region, std::uint64_t page_bytes) {
  KVBM_EXPECTS(is_power_of_two(page_bytes), InvalidArgument,
               fmt::format("page_bytes {} is not a power of two", page_bytes));
  KVBM_EXPECTS(region.bytes() >= page_bytes, InvalidArgument,
               fmt::format("a region of {} bytes holds no page of {}", region.bytes(), page_bytes));
  state_ = std::make_shared<State>(std::move(region), page_bytes);
}

std::optional<Arena::Lease> Arena::try_allocate(std::uint64_t bytes) {
  KVBM_EXPECTS(bytes > 0, InvalidArgument, "0 bytes asked of an arena");
  std::uint64_t const page_bytes = state_->page_bytes();
  std::uint64_t const pages = bytes / page_bytes + (bytes % page_bytes == 0 ? 0 : 1);
  auto const first = state_->take(pages);
  if (!first) { return std::nullopt; }
  return Lease(state_, state_->region().subregion(*first * page_bytes, bytes), *first, pages);
}

Arena::Lease Arena::allocate(std::uint64_t bytes) {
  auto lease = try_allocate(bytes);
  KVBM_EXPECTS(lease.has_value(), OutOfMemory,
               fmt::format("{} bytes asked of an arena of {} pages of {} bytes: {} pages are free, "
                           "at most {} in a row",
                           bytes, num_pages(), page_bytes(), num_free_pages(), largest_free_run()));
  return std::move(*lease);
}

Region const& Arena::region() const noexcept { return state_->region(); }
std::uint64_t Arena::page_bytes() const noexcept { return state_->page_bytes(); }
std::uint64_t Arena::num_pages() const noexcept { return state_->num_pages(); }
std::uint64_t Arena::num_free_pages() const { return state_->num_free(); }
std::uint64_t Arena::largest_free_run() const { return state_->largest_run(); }

}  // namespace kvbm::memory
