// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <thread>
#include <vector>

namespace kvbm::kernels {

/// CPUs of this process, grouped by NUMA node.
struct CpuNodes {
  unsigned num_cpus = 1;
  std::vector<std::vector<int>> cpus_of_node;  ///< empty where the machine tells no nodes
};

/// The CPUs that the calling thread may use.
CpuNodes usable_cpus();

/// Persistent threads that share numbered chunks of work with the threads that bring it.
///
/// A job lives on the stack of the thread that brings it; that thread takes part until no chunk is
/// left and then waits only for helpers inside its own chunks. Hence a job ends even if no worker
/// ever comes, jobs may be brought from inside chunks, and waiting threads form no cycle: each
/// waits for jobs that are nested more deeply than its own.
///
/// Locks    one: mutex_, never held while a chunk runs.
class WorkerPool {
 public:
  using ChunkFunction = void (*)(void* context, std::uint64_t chunk) noexcept;

  /// @param num_threads  the bringing thread included; 0 = one per usable CPU. Starts fewer where
  ///                     the system gives no more.
  WorkerPool(unsigned num_threads, bool bind_to_numa_nodes);
  ~WorkerPool();
  WorkerPool(WorkerPool const&) = delete;
  WorkerPool& operator=(WorkerPool const&) = delete;

  /// Calls function(context, c) for every c in [0, num_chunks); returns when all ended.
  void run(std::uint64_t num_chunks, ChunkFunction function, void* context, int priority);

  [[nodiscard]] unsigned num_threads() const noexcept {
    return static_cast<unsigned>(workers_.size()) + 1;
  }
  [[nodiscard]] unsigned num_numa_nodes() const noexcept { return num_numa_nodes_; }

 private:
  struct Job;
  void work();
  Job* next_open_job() noexcept;
  void insert(Job& job) noexcept;
  void remove(Job& job) noexcept;
  void start_workers(unsigned count, CpuNodes const& nodes);

  std::mutex mutex_;
  std::condition_variable wake_;
  Job* jobs_ = nullptr;  // by falling priority, first come first served within one
  unsigned num_idle_ = 0;
  bool stopping_ = false;
  std::atomic<int> top_priority_;  // of the first job with chunks left
  std::atomic<unsigned> num_calls_ = 0;
  unsigned num_numa_nodes_ = 1;
  std::vector<std::thread> workers_;
};

}  // namespace kvbm::kernels
