// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <queue>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "kvbm/memory/block_store.hpp"
#include "kvbm/memory/memory_source.hpp"
#include "kvbm/transfer/peer.hpp"
#include "transfer/wire_queue.hpp"

namespace kvbm::transfer {

/// Parts of a pipeline's staging that can be on their way at once; most pipelines use two.
inline constexpr std::size_t kMaxSlots = 4;

/// What one pipeline worker keeps between transfers: pinned staging memory and I/O queues, one of
/// each direction for every slot, so that one moves while others are filled.
class PipelineResources {
 public:
  PipelineResources(std::shared_ptr<memory::MemorySource> source, std::uint64_t staging_bytes);

  /// At least `bytes` of staging memory, aligned for direct I/O; valid until the next call.
  /// @throws Error(OutOfMemory)
  std::span<std::byte> staging(std::uint64_t bytes);
  [[nodiscard]] std::uint64_t staging_bytes() const noexcept { return staging_bytes_; }
  /// For stores of this one's family.
  [[nodiscard]] memory::ExtentQueue& read_queue(std::size_t slot, memory::BlockStore& store);
  [[nodiscard]] memory::ExtentQueue& write_queue(std::size_t slot, memory::BlockStore& store);
  [[nodiscard]] WireQueue& wire_queue(std::size_t slot) { return wire_queues_[slot]; }
  /// Lets the wire to `peer` reach the staging memory. A lane's resources serve one peer.
  void expose_staging(Peer& peer);
  /// What keeps the staging memory and the wire's way to it alive. @pre staging() was called
  [[nodiscard]] memory::Region const& staging_region() const { return staging_.front(); }
  [[nodiscard]] std::shared_ptr<void const> const& exposed() const noexcept { return exposed_; }
  /// Lets go of staging memory that a wire may still touch: the next transfer gets new memory.
  void abandon_staging() noexcept;
  /// Waits for all I/O under way and forgets its outcome.
  void drain();

 private:
  /// The queues of one family of stores, made when they are first needed. They keep what the family
  /// stands for alive, so that its address is not given to another one.
  struct FamilyQueues {
    void const* family = nullptr;
    std::array<std::unique_ptr<memory::ExtentQueue>, kMaxSlots> read;
    std::array<std::unique_ptr<memory::ExtentQueue>, kMaxSlots> write;
  };
  FamilyQueues& queues_of(memory::BlockStore const& store);
  memory::ExtentQueue& ensure(std::unique_ptr<memory::ExtentQueue>& queue,
                              memory::BlockStore& store);

  std::shared_ptr<memory::MemorySource> source_;
  std::uint64_t staging_bytes_;
  std::vector<memory::Region> staging_;  ///< none or one
  std::shared_ptr<void const> exposed_;  ///< staging_, to the wire
  std::vector<FamilyQueues> families_;   ///< most recently used last
  std::array<WireQueue, kMaxSlots> wire_queues_;
};

/// A few named threads that run pipelines, highest priority first, first come first served
/// within one. They start with the first job. The destructor runs what is queued, then joins.
class PipelineWorkers {
 public:
  using Job = std::function<void(PipelineResources&)>;  ///< must not throw

  /// @param name  of the threads, at most 13 characters
  PipelineWorkers(std::string name, unsigned num_threads,
                  std::shared_ptr<memory::MemorySource> source, std::uint64_t staging_bytes);
  ~PipelineWorkers();
  PipelineWorkers(PipelineWorkers const&) = delete;
  PipelineWorkers& operator=(PipelineWorkers const&) = delete;

  void post(int priority, Job job);

 private:
  struct Entry {
    int priority;
    std::uint64_t sequence;
    std::shared_ptr<Job> job;
    bool operator<(Entry const& other) const noexcept {
      return priority != other.priority ? priority < other.priority : sequence > other.sequence;
    }
  };
  void run(unsigned index);

  std::string const name_;
  unsigned num_threads_;
  std::shared_ptr<memory::MemorySource> source_;
  std::uint64_t staging_bytes_;
  std::mutex mutex_;
  std::condition_variable wake_;
  std::priority_queue<Entry> queue_;
  std::uint64_t next_sequence_ = 0;
  bool stopping_ = false;
  std::vector<std::thread> threads_;
};

}  // namespace kvbm::transfer
