// SPDX-License-Identifier: Apache-2.0
#include "kvbm/device/stream_pool.hpp"

#include <fmt/format.h>

#include "kvbm/core/error.hpp"
#include "kvbm/device/device.hpp"

namespace kvbm::device {

StreamPool::StreamPool(Device& device, std::string const& name, std::size_t count)
    : next_(std::make_unique<std::atomic<std::size_t>>(0)) {
  KVBM_EXPECTS(count >= 1, InvalidArgument,
               fmt::format("stream pool '{}': 0 streams asked for, at least 1 is needed", name));
  streams_.reserve(count);
  for (std::size_t i = 0; i < count; ++i) {
    streams_.push_back(device.create_stream(fmt::format("{}.{}", name, i)));
  }
}

StreamPtr StreamPool::acquire() {
  return streams_[next_->fetch_add(1, std::memory_order_relaxed) % streams_.size()];
}

}  // namespace kvbm::device
