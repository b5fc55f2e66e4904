// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <functional>
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
    std::function<void()> gone;
    {
      std::lock_guard const lock(mutex_);
      if (--in_flight_ == 0 && !registered_) { gone = std::move(gone_); }
    }
    if (gone) { gone(); }
  }
  /// Refuses new transfers and calls `gone` once none is in flight: here, or where the last one
  /// ends. Where it was retired before, `gone` is called as if it had been then.
  /// @param gone  must not throw
  void retire(std::function<void()> gone) {
    {
      std::lock_guard const lock(mutex_);
      registered_ = false;
      if (in_flight_ > 0) {
        if (gone_) {
          gone = [first = std::move(gone_), second = std::move(gone)] {
            first();
            second();
          };
        }
        gone_ = std::move(gone);
        return;
      }
    }
    gone();
  }
  /// @throws Error(Busy) while transfers use it
  void expect_idle() const {
    std::lock_guard const lock(mutex_);
    expect_idle_locked();
  }
  /// @throws Error(Busy) while transfers use it; Error(NotFound) when called twice
  void unregister() {
    std::lock_guard const lock(mutex_);
    KVBM_EXPECTS(registered_, NotFound, name_ + " was unregistered; the handle is stale");
    expect_idle_locked();
    registered_ = false;
  }

 private:
  void expect_idle_locked() const {
    KVBM_EXPECTS(in_flight_ == 0, Busy,
                 name_ + " is used by " + std::to_string(in_flight_) +
                     " transfers in flight; wait for their notifications first");
  }

  std::string const name_;
  mutable std::mutex mutex_;
  std::function<void()> gone_;  ///< called when the last transfer ends
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
