// SPDX-License-Identifier: Apache-2.0
#include "device/stream_state.hpp"

#include <fmt/format.h>
#include <pthread.h>
#include <sched.h>

#include <algorithm>
#include <chrono>
#include <exception>
#include <system_error>
#include <utility>
#include <vector>

#include "kvbm/core/error.hpp"
#include "kvbm/core/log.hpp"

namespace kvbm::device {
namespace {

// About what the kernel needs to wake a sleeping thread: polling longer cannot win much.
constexpr auto kPollTime = std::chrono::microseconds(4);
constexpr std::size_t kMaxThreadNameLength = 15;  // of the kernel

// Polls `condition` for kPollTime. Returns what it said last.
template <typename Condition>
bool poll(Condition const& condition) noexcept {
  auto const end = std::chrono::steady_clock::now() + kPollTime;
  do {
    for (int i = 0; i < 16; ++i) {
      if (condition()) { return true; }
#if defined(__x86_64__) || defined(__i386__)
      __builtin_ia32_pause();
#endif
    }
  } while (std::chrono::steady_clock::now() < end);
  return condition();
}

void name_this_thread(std::string const& name) noexcept {
  pthread_setname_np(pthread_self(), name.substr(0, kMaxThreadNameLength).c_str());
}

}  // namespace

bool has_cpus_to_spare() noexcept {
  cpu_set_t cpus;
  CPU_ZERO(&cpus);
  if (sched_getaffinity(0, sizeof cpus, &cpus) != 0) { return false; }
  return CPU_COUNT(&cpus) > 2;
}

StreamState::StreamState(std::string name, bool spin) : name_(std::move(name)), spin_(spin) {}

void StreamState::push(std::unique_lock<std::mutex>& lock, Item item) {
  if (thread_id_ == std::thread::id()) {
    try {
      thread_ = std::thread([self = shared_from_this()] { self->run(); });
    } catch (std::system_error const& error) {
      throw_error(
          ErrorCode::Device,
          fmt::format("stream '{}': its thread could not be started: {}", name_, error.what()),
          error.code().value());
    }
    thread_id_ = thread_.get_id();
  }
  queue_.push_back(std::move(item));
  enqueued_.store(enqueued_.load(std::memory_order_relaxed) + 1, std::memory_order_release);
  lock.unlock();
  work_added_.notify_one();
}

void StreamState::enqueue(std::function<void()> work) {
  std::unique_lock lock(mutex_);
  push(lock, Item{std::move(work), {}});
}

void StreamState::enqueue_wait(Point point) {
  // A point of this stream lies before whatever follows anyway.
  if (point.is_complete() || point.stream.get() == this) { return; }
  std::unique_lock lock(mutex_);
  push(lock, Item{{}, std::move(point)});
}

bool StreamState::try_enqueue(std::function<void()> work) {
  std::unique_lock lock(mutex_);
  if (is_finished() || thread_id_ == std::thread::id()) { return false; }
  push(lock, Item{std::move(work), {}});
  return true;
}

Point StreamState::end() {
  std::lock_guard const lock(mutex_);
  return Point{shared_from_this(), num_enqueued()};
}

void StreamState::when_ended(std::uint64_t ticket, std::function<void()> then) {
  {
    std::lock_guard const lock(mutex_);
    if (num_ended() < ticket) {
      continuations_.emplace(ticket, std::move(then));
      awaited_ticket_ = std::min(awaited_ticket_, ticket);
      return;
    }
  }
  then();
}

void StreamState::wait_for(std::uint64_t ticket) {
  if (num_ended() >= ticket) { return; }
  KVBM_EXPECTS(!on_own_thread(), InvalidArgument,
               fmt::format("stream '{}': its own work waits for piece {}, but {} have ended: it "
                           "would wait for itself; wait on another thread",
                           name_, ticket, num_ended()));
  if (spin_ && poll([&] { return num_ended() >= ticket; })) { return; }
  std::unique_lock lock(mutex_);
  while (num_ended() < ticket) {
    awaited_ticket_ = std::min(awaited_ticket_, ticket);
    work_ended_.wait(lock);
  }
}

bool StreamState::on_own_thread() const {
  std::lock_guard const lock(mutex_);
  return thread_id_ == std::this_thread::get_id();
}

std::thread StreamState::close() {
  std::unique_lock lock(mutex_);
  closing_ = true;
  stop_polling_.store(true, std::memory_order_relaxed);
  std::thread thread = std::move(thread_);
  lock.unlock();
  work_added_.notify_one();
  return thread;
}

void StreamState::run() {
  name_this_thread(name_);
  std::unique_lock lock(mutex_);
  for (;;) {
    if (queue_.empty()) {
      if (closing_) { break; }
      if (spin_) {
        lock.unlock();
        poll_for_work();
        lock.lock();
      }
      work_added_.wait(lock, [this] { return !queue_.empty() || closing_; });
      continue;
    }
    {
      Item item = std::move(queue_.front());
      queue_.pop_front();
      lock.unlock();
      execute(item);
    }  // the work is destroyed here, before it counts as ended
    lock.lock();
    std::uint64_t const ended = ended_.load(std::memory_order_relaxed) + 1;
    ended_.store(ended, std::memory_order_release);
    if (ended >= awaited_ticket_) { announce(lock, ended); }
  }
  finished_.store(true, std::memory_order_release);
}

void StreamState::announce(std::unique_lock<std::mutex>& lock, std::uint64_t ended) {
  std::vector<std::function<void()>> due;
  auto const later = continuations_.upper_bound(ended);
  for (auto at = continuations_.begin(); at != later; ++at) {
    due.push_back(std::move(at->second));
  }
  continuations_.erase(continuations_.begin(), later);
  // Whoever sleeps for a later one asks again.
  awaited_ticket_ = continuations_.empty() ? std::numeric_limits<std::uint64_t>::max()
                                           : continuations_.begin()->first;
  lock.unlock();
  work_ended_.notify_all();
  for (auto& then : due) {
    then();
    then = nullptr;  // it may hold what must go outside the lock
  }
  lock.lock();
}

void StreamState::execute(Item& item) const noexcept {
  try {
    if (item.point.stream != nullptr) {
      item.point.stream->wait_for(item.point.ticket);
    } else {
      item.work();
    }
  } catch (std::exception const& error) {
    log::write(log::Level::Error,
               fmt::format("stream '{}': a piece of work threw: {}", name_, error.what()));
  } catch (...) {
    log::write(log::Level::Error,
               fmt::format("stream '{}': a piece of work threw what is no std::exception", name_));
  }
}

void StreamState::poll_for_work() const noexcept {
  poll([this] { return !is_idle() || stop_polling_.load(std::memory_order_relaxed); });
}

}  // namespace kvbm::device
