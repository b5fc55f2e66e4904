// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <utility>

#include "kvbm/core/error.hpp"

namespace kvbm::transfer {

/// Counts the transfers that use a registered layout, so that unregistering knows.
class LayoutUse {
 public:
  explicit LayoutUse(std::string name) : name_(std::move(name)) {}

  /// @throws Error(NotFound) the layout was unregistered
  void acquire() {
    std::lock_guard const lock(mutex_);
    KVBM_EXPECTS(registered_, NotFound, name_ + " was unregistered; the handle is stale");
    ++in_flight_;
  }
  void release() noexcept {
    std::lock_guard const lock(mutex_);
    --in_flight_;
  }
  /// @throws Error(Busy) while transfers use it; Error(NotFound) when called twice
  void unregister() {
    std::lock_guard const lock(mutex_);
    KVBM_EXPECTS(registered_, NotFound, name_ + " was unregistered; the handle is stale");
    KVBM_EXPECTS(in_flight_ == 0, Busy,
                 name_ + " is used by " + std::to_string(in_flight_) +
                     " transfers in flight; wait for their notifications first");
    registered_ = false;
  }

 private:
  std::string const name_;
  std::mutex mutex_;
  bool registered_ = true;
  std::uint64_t in_flight_ = 0;
};

/// Holds a layout in use; move-only; empty for unregistered layouts.
class LayoutUseLease {
 public:
  LayoutUseLease() = default;
  explicit LayoutUseLease(std::shared_ptr<LayoutUse> use) : use_(std::move(use)) {
    if (use_) { use_->acquire(); }
  }
  LayoutUseLease(LayoutUseLease&& other) noexcept : use_(std::move(other.use_)) {}
  LayoutUseLease& operator=(LayoutUseLease&& other) noexcept {
    reset();
    use_ = std::move(other.use_);
    return *this;
  }
  LayoutUseLease(LayoutUseLease const&) = delete;
  LayoutUseLease& operator=(LayoutUseLease const&) = delete;
  ~LayoutUseLease() { reset(); }
  void reset() noexcept {
    if (use_) { use_->release(); }
    use_.reset();
  }

 private:
  std::shared_ptr<LayoutUse> use_;
};

}  // namespace kvbm::transfer
