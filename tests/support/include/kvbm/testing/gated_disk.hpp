// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <utility>
#include <vector>

#include "kvbm/memory/disk_io.hpp"
#include "kvbm/testing/faulty_disk_io.hpp"

namespace kvbm::testing {

/// A disk whose requests a test can hold back, fail by offset, and look at afterwards.
///
/// Threads  all methods may be called concurrently.
class GatedDisk {
 public:
  using Request = memory::DiskRequest;
  using Matches = std::function<bool(Request const&)>;

  GatedDisk() : state_(std::make_shared<State>()) {
    io_ = std::make_shared<FaultyDiskIo>(
        memory::make_disk_io(),
        [state = state_](Request const& request, std::uint64_t) { return state->decide(request); });
  }
  ~GatedDisk() { open(); }
  GatedDisk(GatedDisk const&) = delete;
  GatedDisk& operator=(GatedDisk const&) = delete;

  [[nodiscard]] std::shared_ptr<memory::DiskIo> io() const noexcept { return io_; }

  /// The first request from now on that `matches`, and all after it, wait until open().
  void hold(Matches matches) {
    std::lock_guard const lock(state_->mutex);
    state_->holds = std::move(matches);
    state_->is_holding = false;
  }
  /// Blocks until a request waits.
  void wait_until_held() {
    std::unique_lock lock(state_->mutex);
    state_->changed.wait(lock, [this] { return state_->is_holding; });
  }
  void open() {
    {
      std::lock_guard const lock(state_->mutex);
      state_->holds = nullptr;
      state_->is_holding = false;
    }
    state_->changed.notify_all();
  }

  /// Requests that match end with this errno from now on; a null function: none.
  void fail(int error, Matches matches) {
    std::lock_guard const lock(state_->mutex);
    state_->error = error;
    state_->fails = std::move(matches);
  }

  /// Requests seen since the last call, in the order of their starts.
  [[nodiscard]] std::vector<Request> take_seen() {
    std::lock_guard const lock(state_->mutex);
    return std::exchange(state_->seen, {});
  }

 private:
  struct State {
    std::mutex mutex;
    std::condition_variable changed;
    Matches holds;
    bool is_holding = false;
    int error = 0;
    Matches fails;
    std::vector<Request> seen;

    std::optional<DiskFault> decide(Request const& request) {
      std::unique_lock lock(mutex);
      seen.push_back(request);
      if (holds && (is_holding || holds(request))) {
        is_holding = true;
        changed.notify_all();
        changed.wait(lock, [this] { return !is_holding; });
      }
      if (fails && fails(request)) { return DiskFault{error, 0}; }
      return std::nullopt;
    }
  };
  std::shared_ptr<State> state_;
  std::shared_ptr<FaultyDiskIo> io_;
};

}  // namespace kvbm::testing
