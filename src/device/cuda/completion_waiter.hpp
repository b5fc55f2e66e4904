// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <exception>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "device/cuda/cuda_context.hpp"
#include "device/cuda/cuda_event.hpp"

namespace kvbm::device {

/// Calls back when points of a GPU's streams have ended. One thread, started by the first request:
/// asleep while nothing is pending, else polling as adaptive_wait.hpp says. An error of the GPU is
/// what the poll answers, so it reaches every request; the driver's host functions would not even
/// be called then, and could not call CUDA.
class CompletionWaiter : public std::enable_shared_from_this<CompletionWaiter> {
 public:
  using Callback = std::function<void(std::exception_ptr)>;

  explicit CompletionWaiter(std::shared_ptr<CudaContext> context);
  CompletionWaiter(CompletionWaiter const&) = delete;
  CompletionWaiter& operator=(CompletionWaiter const&) = delete;
  ~CompletionWaiter() = default;

  /// @throws Error(Device) the thread could not be started
  void add(CudaPoint point, Callback callback);
  /// The device goes: the thread ends when nothing is pending any more; waits for it if that is
  /// now.
  void close() noexcept;

 private:
  struct Request {
    CudaPoint point;
    Callback callback;
  };
  // Requests of one stream in the order of its points: only the first needs to be asked about.
  using Queues = std::map<std::uint64_t, std::deque<Request>>;

  void run();
  // Moves what has arrived to `pending`. @return whether there was something
  bool take_arrived(std::unique_lock<std::mutex> const& lock, Queues& pending);
  // Calls back for what has ended.
  void poll(Queues& pending) const;
  void call(Request& request, cudaError_t status) const noexcept;

  std::shared_ptr<CudaContext> const context_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<Request> arrived_;
  std::thread thread_;
  bool started_ = false;
  bool closing_ = false;
  bool idle_ = true;                  // nothing is pending in the thread
  std::uint64_t last_loose_key_ = 0;  // used by the thread only
};

}  // namespace kvbm::device
