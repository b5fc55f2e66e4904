// SPDX-License-Identifier: Apache-2.0
#include "device/stream_registry.hpp"

#include <algorithm>
#include <utility>

namespace kvbm::device {

std::shared_ptr<StreamState> StreamRegistry::make_stream(std::string name) {
  auto stream = std::make_shared<StreamState>(std::move(name), spin_);
  std::lock_guard const lock(mutex_);
  join_finished_orphans();
  std::erase_if(streams_, [](auto const& weak) { return weak.expired(); });
  streams_.push_back(stream);
  return stream;
}

std::vector<std::shared_ptr<StreamState>> StreamRegistry::live_streams() {
  std::vector<std::shared_ptr<StreamState>> live;
  std::lock_guard const lock(mutex_);
  for (auto const& weak : streams_) {
    if (auto stream = weak.lock()) { live.push_back(std::move(stream)); }
  }
  return live;
}

void StreamRegistry::synchronize() {
  std::vector<Point> ends;
  for (auto const& stream : live_streams()) {
    ends.push_back(stream->end());
  }
  for (auto const& end : ends) {
    end.stream->wait_for(end.ticket);
  }
}

void StreamRegistry::retire(std::shared_ptr<StreamState> const& stream) noexcept {
  bool const own = stream->on_own_thread();
  std::thread thread = stream->close();
  if (!thread.joinable()) { return; }
  if (!own) {
    thread.join();
    return;
  }
  std::lock_guard const lock(mutex_);
  if (closed_) {
    thread.detach();
  } else {
    join_finished_orphans();
    orphans_.push_back(Orphan{std::move(thread), stream});
  }
}

void StreamRegistry::join_finished_orphans() {
  for (auto orphan = orphans_.begin(); orphan != orphans_.end();) {
    if (orphan->stream->is_finished()) {
      orphan->thread.join();
      orphan = orphans_.erase(orphan);
    } else {
      ++orphan;
    }
  }
}

void StreamRegistry::close() noexcept {
  auto const streams = live_streams();
  // Joining from a stream's work could wait for a stream that waits for this very work.
  bool const on_stream = std::any_of(streams.begin(), streams.end(),
                                     [](auto const& stream) { return stream->on_own_thread(); });
  std::vector<Orphan> orphans;
  {
    std::lock_guard const lock(mutex_);
    closed_ = true;
    orphans.swap(orphans_);
  }
  for (auto& orphan : orphans) {
    if (on_stream) {
      orphan.thread.detach();
    } else {
      orphan.thread.join();
    }
  }
}

}  // namespace kvbm::device
