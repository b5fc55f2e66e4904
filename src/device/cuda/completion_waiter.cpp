// SPDX-License-Identifier: Apache-2.0
#include "device/cuda/completion_waiter.hpp"

#include <fmt/format.h>
#include <pthread.h>

#include <algorithm>
#include <chrono>
#include <iterator>
#include <system_error>
#include <utility>

#include "device/cuda/adaptive_wait.hpp"
#include "kvbm/core/error.hpp"
#include "kvbm/core/log.hpp"

namespace kvbm::device {
namespace {

// Keys of events that somebody else recorded, of which no order is known: each is alone.
constexpr std::uint64_t kLooseKeys = std::uint64_t{1} << 63;

}  // namespace

CompletionWaiter::CompletionWaiter(std::shared_ptr<CudaContext> context)
    : context_(std::move(context)) {}

void CompletionWaiter::add(CudaPoint point, Callback callback) {
  {
    std::lock_guard const lock(mutex_);
    if (!started_) {
      try {
        thread_ = std::thread([self = shared_from_this()] { self->run(); });
      } catch (std::system_error const& error) {
        throw_error(ErrorCode::Device,
                    fmt::format("CUDA device {}: the thread that waits for it could not be "
                                "started: {}",
                                context_->device_id(), error.what()),
                    error.code().value());
      }
      started_ = true;
    }
    arrived_.push_back(Request{std::move(point), std::move(callback)});
  }
  changed_.notify_one();
}

void CompletionWaiter::close() noexcept {
  std::unique_lock lock(mutex_);
  closing_ = true;
  std::thread thread = std::move(thread_);
  bool const ends_now = idle_ && arrived_.empty();
  lock.unlock();
  changed_.notify_one();
  if (!thread.joinable()) { return; }
  if (ends_now && thread.get_id() != std::this_thread::get_id()) {
    thread.join();
  } else {
    thread.detach();
  }
}

bool CompletionWaiter::take_arrived(std::unique_lock<std::mutex> const& /*lock*/, Queues& pending) {
  if (arrived_.empty()) { return false; }
  for (auto& request : arrived_) {
    bool const loose = request.point.stream_number == 0;
    auto& queue = pending[loose ? kLooseKeys + ++last_loose_key_ : request.point.stream_number];
    // Nearly always the last: asked for in the order in which it was recorded.
    auto const at = std::find_if(queue.rbegin(), queue.rend(), [&](Request const& other) {
      return other.point.position <= request.point.position;
    });
    queue.insert(at.base(), std::move(request));
  }
  arrived_.clear();
  return true;
}

void CompletionWaiter::poll(Queues& pending) const {
  for (auto at = pending.begin(); at != pending.end();) {
    auto& queue = at->second;
    while (!queue.empty()) {
      cudaError_t const status = queue.front().point.event->query();
      if (status == cudaErrorNotReady) { break; }
      Request request = std::move(queue.front());
      queue.pop_front();
      call(request, status);
    }
    at = queue.empty() ? pending.erase(at) : std::next(at);
  }
}

void CompletionWaiter::call(Request& request, cudaError_t status) const noexcept {
  try {
    std::exception_ptr error;
    if (status != cudaSuccess) {
      try {
        context_->check("waiting for its work", status);
      } catch (...) { error = std::current_exception(); }
    }
    request.callback(std::move(error));
    request.callback = nullptr;
  } catch (std::exception const& thrown) {
    log::write(log::Level::Error, fmt::format("CUDA device {}: a callback threw: {}",
                                              context_->device_id(), thrown.what()));
  } catch (...) {
    log::write(log::Level::Error,
               fmt::format("CUDA device {}: a callback threw what is no std::exception",
                           context_->device_id()));
  }
}

void CompletionWaiter::run() {
  using Clock = std::chrono::steady_clock;
  pthread_setname_np(pthread_self(), fmt::format("cuda.{}.done", context_->device_id()).c_str());
  CudaScope const scope(*context_);
  PreciseSleep const precise;
  Queues pending;
  auto last_arrival = Clock::now();
  std::unique_lock lock(mutex_);
  for (;;) {
    if (take_arrived(lock, pending)) { last_arrival = Clock::now(); }
    idle_ = pending.empty();
    if (pending.empty()) {
      if (closing_) { return; }
      changed_.wait(lock, [this] { return closing_ || !arrived_.empty(); });
      continue;
    }
    lock.unlock();
    poll(pending);
    auto const pause = pause_after(Clock::now() - last_arrival);
    if (pause == std::chrono::nanoseconds(0)) { relax_cpu(); }
    lock.lock();
    if (pause > std::chrono::nanoseconds(0) && arrived_.empty()) { changed_.wait_for(lock, pause); }
  }
}

}  // namespace kvbm::device
