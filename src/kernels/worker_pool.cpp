// SPDX-License-Identifier: Apache-2.0
#include "kernels/worker_pool.hpp"

#include <algorithm>
#include <chrono>
#include <limits>
#include <system_error>

namespace kvbm::kernels {

struct WorkerPool::Job {
  Job(std::uint64_t chunks, ChunkFunction chunk_function, void* chunk_context, int call_priority)
      : function(chunk_function),
        context(chunk_context),
        num_chunks(chunks),
        priority(call_priority) {}

  ChunkFunction const function;
  void* const context;
  std::uint64_t const num_chunks;
  int const priority;
  std::atomic<std::uint64_t> next_chunk = 0;
  unsigned num_helpers = 0;  // workers inside, under mutex_
  Job* next = nullptr;
  std::condition_variable helpers_left;

  [[nodiscard]] bool open() const noexcept {
    return next_chunk.load(std::memory_order_relaxed) < num_chunks;
  }
  bool run_one() noexcept {
    std::uint64_t const chunk = next_chunk.fetch_add(1, std::memory_order_relaxed);
    if (chunk >= num_chunks) return false;
    function(context, chunk);
    return true;
  }
};

namespace {

constexpr int kNoPriority = std::numeric_limits<int>::min();

/// Counts a call for as long as it touches the pool.
class CallGuard {
 public:
  explicit CallGuard(std::atomic<unsigned>& calls) noexcept : calls_(calls) { ++calls_; }
  ~CallGuard() { calls_.fetch_sub(1, std::memory_order_release); }
  CallGuard(CallGuard const&) = delete;
  CallGuard& operator=(CallGuard const&) = delete;

 private:
  std::atomic<unsigned>& calls_;
};

void bind_this_thread(std::vector<int> const& cpus) noexcept {
  cpu_set_t set;
  CPU_ZERO(&set);
  for (int const cpu : cpus)
    CPU_SET(static_cast<unsigned>(cpu), &set);
  // A refusal leaves the thread where it was: slower at worst.
  static_cast<void>(pthread_setaffinity_np(pthread_self(), sizeof set, &set));
}

}  // namespace

WorkerPool::WorkerPool(unsigned num_threads, bool bind_to_numa_nodes) : top_priority_(kNoPriority) {
  CpuNodes nodes = usable_cpus();
  if (num_threads == 0) num_threads = nodes.num_cpus;
  if (!bind_to_numa_nodes || nodes.cpus_of_node.size() < 2) nodes.cpus_of_node.clear();
  try {
    start_workers(num_threads - 1, nodes);
  } catch (std::system_error const&) {
    // The system gives no more threads; the ones that run and the callers do the work.
  }
  if (!nodes.cpus_of_node.empty()) {
    num_numa_nodes_ = std::clamp(static_cast<unsigned>(workers_.size()), 1U,
                                 static_cast<unsigned>(nodes.cpus_of_node.size()));
  }
}

void WorkerPool::start_workers(unsigned count, CpuNodes const& nodes) {
  workers_.reserve(count);
  for (unsigned i = 0; i < count; ++i) {
    if (nodes.cpus_of_node.empty()) {
      workers_.emplace_back([this] { work(); });
    } else {
      auto const& cpus = nodes.cpus_of_node[i % nodes.cpus_of_node.size()];
      workers_.emplace_back([this, cpus] {
        bind_this_thread(cpus);
        work();
      });
    }
  }
}

WorkerPool::~WorkerPool() {
  // Ends of calls are not announced, which would cost every call for the sake of this one moment.
  while (num_calls_.load(std::memory_order_acquire) != 0) {
    std::this_thread::sleep_for(std::chrono::microseconds(50));
  }
  {
    std::lock_guard const lock(mutex_);
    stopping_ = true;
  }
  wake_.notify_all();
  for (std::thread& worker : workers_)
    worker.join();
}

void WorkerPool::run(std::uint64_t num_chunks, ChunkFunction function, void* context,
                     int priority) {
  CallGuard const call(num_calls_);
  if (num_chunks <= 1 || workers_.empty()) {
    for (std::uint64_t chunk = 0; chunk < num_chunks; ++chunk)
      function(context, chunk);
    return;
  }
  Job job(num_chunks, function, context, priority);
  std::uint64_t to_wake = 0;
  {
    std::lock_guard const lock(mutex_);
    insert(job);
    to_wake = std::min<std::uint64_t>(num_idle_, num_chunks - 1);
  }
  for (; to_wake > 0; --to_wake)
    wake_.notify_one();
  while (job.run_one()) {}
  std::unique_lock lock(mutex_);
  remove(job);
  job.helpers_left.wait(lock, [&] { return job.num_helpers == 0; });
}

void WorkerPool::work() {
  std::unique_lock lock(mutex_);
  for (;;) {
    Job* const job = next_open_job();
    if (job == nullptr) {
      if (stopping_) return;
      ++num_idle_;
      wake_.wait(lock);
      --num_idle_;
      continue;
    }
    ++job->num_helpers;
    lock.unlock();
    while (job->run_one() && top_priority_.load(std::memory_order_relaxed) <= job->priority) {}
    lock.lock();
    if (--job->num_helpers == 0) job->helpers_left.notify_one();
  }
}

WorkerPool::Job* WorkerPool::next_open_job() noexcept {
  Job* job = jobs_;
  while (job != nullptr && !job->open())
    job = job->next;
  top_priority_.store(job == nullptr ? kNoPriority : job->priority, std::memory_order_relaxed);
  return job;
}

void WorkerPool::insert(Job& job) noexcept {
  Job** at = &jobs_;
  while (*at != nullptr && (*at)->priority >= job.priority)
    at = &(*at)->next;
  job.next = *at;
  *at = &job;
  if (job.priority > top_priority_.load(std::memory_order_relaxed)) {
    top_priority_.store(job.priority, std::memory_order_relaxed);
  }
}

void WorkerPool::remove(Job& job) noexcept {
  Job** at = &jobs_;
  while (*at != &job)
    at = &(*at)->next;
  *at = job.next;
}

}  // namespace kvbm::kernels
