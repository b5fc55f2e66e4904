// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <cstddef>
#include <memory>
#include <string>
#include <vector>

#include "kvbm/device/stream.hpp"

namespace kvbm::device {

class Device;

/// Hands out a fixed set of streams, round robin. Move-only; a moved-from pool may only be
/// destroyed or assigned to.
/// Threads  acquire() is safe to use concurrently.
class StreamPool {
 public:
  /// Streams are called "NAME.0", "NAME.1", ...
  /// @param count  >= 1  @throws Error(InvalidArgument)
  StreamPool(Device& device, std::string const& name, std::size_t count);
  /// The next stream in turn; the pool keeps it too.
  [[nodiscard]] StreamPtr acquire();
  [[nodiscard]] std::size_t size() const noexcept { return streams_.size(); }
  [[nodiscard]] std::vector<StreamPtr> const& streams() const noexcept { return streams_; }

 private:
  std::vector<StreamPtr> streams_;
  std::unique_ptr<std::atomic<std::size_t>> next_;  // apart, so that the pool can be moved
};

}  // namespace kvbm::device
