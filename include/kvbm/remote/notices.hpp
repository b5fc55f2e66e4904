// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>

namespace kvbm::remote {

/// A write notification that a peer's transfer sent after its blocks had arrived.
struct WriteNotification {
  std::uint64_t worker_id = 0;  ///< of the sender
  std::uint64_t value = 0;      ///< what the sender gave as nixl_write_notification
  friend bool operator==(WriteNotification const&, WriteNotification const&) = default;
};

/// Counts since the worker started.
struct RemoteStats {
  std::uint64_t notifications = 0;       ///< write notifications received
  std::uint64_t undelivered = 0;         ///< of these, dropped because nobody ever subscribed
  std::uint64_t foreign_messages = 0;    ///< ignored: not kvbm's, damaged, or of unknown workers
  std::uint64_t duplicate_messages = 0;  ///< ignored: came before
  std::uint64_t images = 0;              ///< copied for peers
  std::uint64_t workers = 0;             ///< that this one has imported, now
  std::uint64_t importers = 0;           ///< that have imported this one, now
  std::uint64_t landing_bytes_lent = 0;  ///< now
};

/// Receives every write notification from its start on, each exactly once, in the order in which
/// it came; several subscribers receive all of them each. What came before there was any
/// subscriber is kept for the first one (the latest 65,536).
///
/// Threads  all methods may be called concurrently; each notification goes to one of the callers.
/// Lifetime may outlive the manager: next() then gives what is left and nothing more.
class WriteNotices {
 public:
  class Queue;
  /// For the implementation.
  explicit WriteNotices(std::shared_ptr<Queue> queue) : queue_(std::move(queue)) {}

  /// Waits for the next one, at most `timeout`; nullopt then, and once the manager is gone.
  [[nodiscard]] std::optional<WriteNotification> next(std::chrono::nanoseconds timeout);
  /// Calls `callback` for every one from now on, on a thread of this subscription's own, until the
  /// subscription ends or the manager does; next() then receives none. An exception out of it is
  /// logged. @throws Error(InvalidArgument) empty, or called twice
  void on_each(std::function<void(WriteNotification const&)> callback);

 private:
  std::shared_ptr<Queue> queue_;
};

}  // namespace kvbm::remote
