// SPDX-License-Identifier: Apache-2.0
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>
#include <utility>

#include "kvbm/core/error.hpp"
#include "memory/disk_engines.hpp"

namespace kvbm::memory {
namespace {

// Moves all of it or says why not: 0 or an errno.
int move_all(DiskRequest const& whole) {
  DiskRequest request = whole;
  bool continued = false;
  while (request.bytes > 0) {
    auto const offset = static_cast<off_t>(request.offset);
    ssize_t const moved = request.op == DiskRequest::Op::Read
                              ? pread(request.fd, request.memory, request.bytes, offset)
                              : pwrite(request.fd, request.memory, request.bytes, offset);
    if (moved < 0) {
      if (errno == EINTR || errno == EAGAIN) { continue; }
      // Direct I/O cannot go on from the odd position at which a file ends.
      bool const ended = errno == EINVAL && continued && request.op == DiskRequest::Op::Read;
      return ended ? ENODATA : errno;
    }
    if (moved == 0) { return request.op == DiskRequest::Op::Read ? ENODATA : EIO; }
    auto const bytes = static_cast<std::uint64_t>(moved);
    request.offset += bytes;
    request.memory += bytes;
    request.bytes -= bytes;
    continued = true;
  }
  return 0;
}

// A queue's books, shared with the workers. Lock `mutex` is a leaf: nothing else is taken under it.
struct QueueState {
  struct Request {
    std::uint64_t chunks_left = 0;
    int error = 0;
  };

  std::mutex mutex;
  std::condition_variable ended_some;
  std::vector<Request> requests;
  std::vector<std::size_t> ended;  // not yet named by wait_some()
  std::size_t num_ended = 0;

  void end_chunk(std::size_t index, int error) {
    std::lock_guard const lock(mutex);
    Request& request = requests[index];
    if (request.error == 0) { request.error = error; }
    if (--request.chunks_left == 0) {
      ended.push_back(index);
      ++num_ended;
      // Under the lock: the waiter may destroy this as soon as it is released.
      ended_some.notify_one();
    }
  }
};

struct Task {
  QueueState* queue = nullptr;
  std::size_t request = 0;
  DiskRequest chunk;
};

// The workers all queues of one DiskIo share. Lock `mutex_` is a leaf.
class WorkerPool {
 public:
  WorkerPool(unsigned num_threads, std::function<int(DiskRequest const&)> move)
      : move_(std::move(move)) {
    threads_.reserve(num_threads);
    for (unsigned i = 0; i < num_threads; ++i) {
      threads_.emplace_back([this](std::stop_token const& stop) { run(stop); });
    }
  }

  void push(std::vector<Task> const& tasks) {
    {
      std::lock_guard const lock(mutex_);
      tasks_.insert(tasks_.end(), tasks.begin(), tasks.end());
    }
    if (tasks.size() == 1) {
      wake_.notify_one();
    } else {
      wake_.notify_all();
    }
  }

 private:
  void run(std::stop_token const& stop) {
    for (;;) {
      Task task;
      {
        std::unique_lock lock(mutex_);
        if (!wake_.wait(lock, stop, [this] { return !tasks_.empty(); })) { return; }
        task = tasks_.front();
        tasks_.pop_front();
      }
      task.queue->end_chunk(task.request, move_(task.chunk));
    }
  }

  std::function<int(DiskRequest const&)> const move_;
  std::mutex mutex_;
  std::condition_variable_any wake_;
  std::deque<Task> tasks_;
  std::vector<std::jthread> threads_;  // last: stopped and joined before the rest goes
};

class ThreadsQueue final : public DiskQueue {
 public:
  explicit ThreadsQueue(std::shared_ptr<WorkerPool> pool) : pool_(std::move(pool)) {}
  ~ThreadsQueue() override { wait_for_all(); }
  ThreadsQueue(ThreadsQueue const&) = delete;
  ThreadsQueue& operator=(ThreadsQueue const&) = delete;

  void start(std::span<DiskRequest const> requests) override {
    tasks_.clear();
    {
      std::lock_guard const lock(state_.mutex);
      for (auto const& request : requests) {
        add(request);
      }
    }
    if (!tasks_.empty()) { pool_->push(tasks_); }
  }

  std::size_t wait_some(std::vector<DiskCompletion>& done) override {
    std::unique_lock lock(state_.mutex);
    state_.ended_some.wait(lock, [this] {
      return !state_.ended.empty() || state_.num_ended == state_.requests.size();
    });
    for (std::size_t const index : state_.ended) {
      done.push_back({index, state_.requests[index].error});
    }
    std::size_t const count = state_.ended.size();
    state_.ended.clear();
    return count;
  }

  std::vector<int> finish() override {
    wait_for_all();
    std::lock_guard const lock(state_.mutex);
    std::vector<int> errors(state_.requests.size());
    std::transform(state_.requests.begin(), state_.requests.end(), errors.begin(),
                   [](QueueState::Request const& request) { return request.error; });
    state_.requests.clear();
    state_.ended.clear();
    state_.num_ended = 0;
    return errors;
  }

  void register_buffer(std::span<std::byte> /*buffer*/) override {}

 private:
  void add(DiskRequest const& request) {
    std::size_t const index = state_.requests.size();
    std::uint64_t const chunks = (request.bytes + kDiskChunkBytes - 1) / kDiskChunkBytes;
    state_.requests.push_back({chunks, 0});
    if (chunks == 0) {
      state_.ended.push_back(index);
      ++state_.num_ended;
    }
    for (std::uint64_t at = 0; at < request.bytes; at += kDiskChunkBytes) {
      DiskRequest chunk = request;
      chunk.offset += at;
      chunk.memory += at;
      chunk.bytes = std::min(kDiskChunkBytes, request.bytes - at);
      tasks_.push_back({&state_, index, chunk});
    }
  }

  void wait_for_all() {
    std::unique_lock lock(state_.mutex);
    state_.ended_some.wait(lock, [this] { return state_.num_ended == state_.requests.size(); });
  }

  std::shared_ptr<WorkerPool> pool_;
  QueueState state_;
  std::vector<Task> tasks_;
};

class ThreadsDiskIo final : public DiskIo {
 public:
  ThreadsDiskIo(DiskIoOptions const& options, DiskCalls calls, std::string reason)
      : options_(options),
        reason_(std::move(reason)),
        describe_(std::move(calls.describe)),
        pool_(std::make_shared<WorkerPool>(options.num_threads, std::move(calls.move))) {}

  [[nodiscard]] std::unique_ptr<DiskQueue> make_queue() override {
    return std::make_unique<ThreadsQueue>(pool_);
  }
  [[nodiscard]] DiskEngine engine() const noexcept override { return DiskEngine::Threads; }
  [[nodiscard]] std::string reason() const override { return reason_; }
  [[nodiscard]] DiskIoOptions const& options() const noexcept override { return options_; }
  [[nodiscard]] std::string describe(int error) const override { return describe_(error); }

 private:
  DiskIoOptions options_;
  std::string reason_;
  std::function<std::string(int)> describe_;
  std::shared_ptr<WorkerPool> pool_;
};

}  // namespace

std::shared_ptr<DiskIo> make_threads_disk_io(DiskIoOptions const& options, std::string reason) {
  return make_threads_disk_io(options, {move_all, describe_errno}, std::move(reason));
}

std::shared_ptr<DiskIo> make_threads_disk_io(DiskIoOptions const& options, DiskCalls calls,
                                             std::string reason) {
  return std::make_shared<ThreadsDiskIo>(options, std::move(calls), std::move(reason));
}

}  // namespace kvbm::memory
