// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <future>
#include <memory>
#include <utility>

#include "kvbm/device/stream.hpp"

namespace kvbm::testing {

/// Holds a stream: what is enqueued on it afterwards runs once open() was called, or the latch is
/// gone.
class StreamLatch {
 public:
  explicit StreamLatch(device::StreamPtr stream) : stream_(std::move(stream)) {
    stream_->enqueue([opened = opened_.get_future().share()] { opened.wait(); });
  }
  ~StreamLatch() { open(); }
  StreamLatch(StreamLatch const&) = delete;
  StreamLatch& operator=(StreamLatch const&) = delete;

  void open() {
    if (!std::exchange(is_open_, true)) { opened_.set_value(); }
  }
  /// Opens and waits for everything enqueued so far.
  void open_and_synchronize() {
    open();
    stream_->synchronize();
  }
  [[nodiscard]] device::StreamPtr const& stream() const noexcept { return stream_; }

 private:
  device::StreamPtr stream_;
  std::promise<void> opened_;
  bool is_open_ = false;
};

}  // namespace kvbm::testing
