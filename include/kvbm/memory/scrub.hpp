// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <string>

#include "kvbm/memory/block_store.hpp"

namespace kvbm::memory {

/// How a Scrubber works.
struct ScrubOptions {
  /// Bytes read a second on average; 0: as fast as the store is.
  std::uint64_t bytes_per_second = std::uint64_t{64} << 20U;
  /// Memory for what is read at once; one extent at least is. With a limit, no more than a quarter
  /// of a second's bytes are taken, so that the load is even.
  std::uint64_t batch_bytes = std::uint64_t{4} << 20U;
  /// From the end of one pass to the start of the next.
  std::chrono::milliseconds between_passes = std::chrono::hours(24);
  /// Ends by itself after so many; 0: never.
  std::uint64_t max_passes = 0;
  /// Forgets what is damaged, so that later reads report it as never written. Extents that cannot
  /// be read at all (Error(Io)) are kept: the disk may come back.
  bool invalidate_damaged = false;
};

/// An extent that cannot be trusted.
struct DamagedExtent {
  std::string store;  ///< BlockStore::name()
  std::uint32_t group = 0;
  std::uint64_t extent = 0;
  std::exception_ptr error;  ///< CorruptError, or what the store says about one it cannot read
  bool invalidated = false;
};

/// What a Scrubber has done so far.
struct ScrubCounters {
  std::uint64_t passes = 0;           ///< ended ones
  std::uint64_t failed_passes = 0;    ///< those that the store cut short with an error
  std::uint64_t extents_checked = 0;  ///< read and compared; those never written are not
  std::uint64_t bytes_checked = 0;
  std::uint64_t damaged = 0;      ///< reported, those that cannot be read included
  std::uint64_t overwritten = 0;  ///< changed by a writer while they were read, hence not judged
  friend bool operator==(ScrubCounters const&, ScrubCounters const&) = default;
};

/// Walks all extents of a store again and again on a thread of its own, reads what was written, and
/// reports what no longer fits its checksum: disks lose data that nobody reads.
///
/// Writers need not stop. An extent that one of them changes meanwhile is not judged, and damage is
/// reported only if a second read finds it as well.
///
/// Threads  methods are thread-safe. The destructor stops.
class Scrubber {
 public:
  /// Called on the scrubber's thread without a lock; what it throws is logged.
  using Report = std::function<void(DamagedExtent const&)>;

  /// Starts the first pass at once.
  /// @throws Error(InvalidArgument) no store, or invalidate_damaged for one that is not writable
  explicit Scrubber(std::shared_ptr<BlockStore> store, ScrubOptions const& options = {},
                    Report report = {});
  ~Scrubber();
  Scrubber(Scrubber const&) = delete;
  Scrubber& operator=(Scrubber const&) = delete;

  /// Keeps it from starting reads until resume(); the batch under way is still judged.
  void pause();
  void resume();
  /// Ends it for good after the batch under way; waits for that. Not from a Report.
  void stop();
  /// Starts the next pass now if it waits between two.
  void start_pass();

  /// Waits until `passes` have ended or failed since the start, or it has stopped.
  /// @return whether they have
  [[nodiscard]] bool wait_for_passes(std::uint64_t passes) const;
  /// The same, for at most `timeout`.
  [[nodiscard]] bool wait_for_passes(std::uint64_t passes, std::chrono::nanoseconds timeout) const;

  [[nodiscard]] ScrubCounters counters() const;
  /// Whether its thread still works; false after stop() and after max_passes.
  [[nodiscard]] bool is_running() const;

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace kvbm::memory
