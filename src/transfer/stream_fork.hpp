// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <vector>

#include "kvbm/device/device.hpp"

namespace kvbm::transfer {

/// Streams that branch off from one stream and join it again at the end of the scope, whatever
/// happens in between. Without branches everything stays on the one stream.
class StreamFork {
 public:
  /// The branches wait for what is on `trunk` now. @throws Error(Device)
  StreamFork(device::Device& device, device::StreamPtr trunk,
             std::vector<device::StreamPtr> branches);
  /// `trunk` waits for the branches.
  ~StreamFork();
  StreamFork(StreamFork const&) = delete;
  StreamFork& operator=(StreamFork const&) = delete;

  /// The branches in turn; the trunk where there are none.
  [[nodiscard]] device::StreamPtr const& branch(std::size_t number) const noexcept {
    return branches_.empty() ? trunk_ : branches_[number % branches_.size()];
  }
  /// An event at the present end of `stream`; null where all is on one stream anyway.
  [[nodiscard]] device::EventPtr mark(device::StreamPtr const& stream) const;
  /// What follows on `second` waits for what is on `first` now.
  void order(device::StreamPtr const& first, device::StreamPtr const& second) const;

 private:
  device::Device& device_;
  device::StreamPtr trunk_;
  std::vector<device::StreamPtr> branches_;
};

}  // namespace kvbm::transfer
