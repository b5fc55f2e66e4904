// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "device/stream_state.hpp"

namespace kvbm::device {

/// The streams of one host device, and the threads of streams that were destroyed by their own
/// work and therefore could not be joined there.
class StreamRegistry {
 public:
  /// A new state, known to synchronize().
  [[nodiscard]] std::shared_ptr<StreamState> make_stream(std::string name);
  /// Blocks until everything enqueued so far has ended. @throws Error(InvalidArgument) see wait_for
  void synchronize();
  /// Ends a stream: joins its thread, or keeps that for later when called by its own work.
  void retire(std::shared_ptr<StreamState> const& stream) noexcept;
  /// Joins what is left: the device goes. Threads that end later end alone.
  void close() noexcept;

 private:
  struct Orphan {
    std::thread thread;
    std::shared_ptr<StreamState> stream;
  };
  [[nodiscard]] std::vector<std::shared_ptr<StreamState>> live_streams();
  void join_finished_orphans();

  std::mutex mutex_;
  std::vector<std::weak_ptr<StreamState>> streams_;
  std::vector<Orphan> orphans_;
  bool closed_ = false;
  bool const spin_ = has_cpus_to_spare();
};

}  // namespace kvbm::device
