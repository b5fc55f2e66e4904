// SPDX-License-Identifier: Apache-2.0
#include "transfer/event_core.hpp"

#include "kvbm/core/error.hpp"
#include "kvbm/core/log.hpp"
#include "transfer/completion_state.hpp"

#include <fmt/format.h>

#include <pthread.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <limits>
#include <random>
#include <system_error>
#include <utility>

namespace kvbm::transfer {
namespace {

// Finaliser of splitmix64: spreads every input bit over the whole word.
std::uint64_t mix(std::uint64_t value) noexcept {
  value = (value ^ (value >> 30U)) * 0xbf58476d1ce4e5b9U;
  value = (value ^ (value >> 27U)) * 0x94d049bb133111ebU;
  return value ^ (value >> 31U);
}

// Process id and time stand in where the random device is poor (a cloned virtual machine).
std::uint64_t random_worker_id() {
  std::uint64_t id = mix(static_cast<std::uint64_t>(::getpid()));
  id = mix(id ^
           static_cast<std::uint64_t>(std::chrono::system_clock::now().time_since_epoch().count()));
  std::random_device device;
  id ^= (std::uint64_t{device()} << 32U) | device();
  return id == 0 ? 1 : id;
}

// Signals belong to the application's threads: a handler that interrupts its blocking calls would
// not do so from here.
class SignalsBlocked {
 public:
  SignalsBlocked() noexcept {
    sigset_t all;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &former_);
  }
  ~SignalsBlocked() { pthread_sigmask(SIG_SETMASK, &former_, nullptr); }
  SignalsBlocked(SignalsBlocked const&) = delete;
  SignalsBlocked& operator=(SignalsBlocked const&) = delete;

 private:
  sigset_t former_{};
};

[[noreturn]] void throw_shutting_down() {
  throw_error(ErrorCode::ShuttingDown,
              "the event system is being destroyed and takes no more events or timers");
}

}  // namespace

// --- events

EventCore::EventCore(EventCoreOptions options)
    : options_(std::move(options)), worker_id_(random_worker_id()) {}

EventCore::TimePoint EventCore::now() const {
  return options_.now ? options_.now() : std::chrono::steady_clock::now();
}

std::shared_ptr<CompletionState> EventCore::create(std::string description,
                                                   std::size_t num_blocks) {
  ensure_running();
  auto const created = now();
  std::shared_ptr<CompletionState> state;
  {
    std::lock_guard const lock(slots_mutex_);
    if (refuses_events_) { throw_shutting_down(); }
    if (free_slots_.empty()) {
      KVBM_EXPECTS(slots_.size() < std::numeric_limits<std::uint32_t>::max(), OutOfRange,
                   "create_event(): all 4294967295 slots of the event system are in use");
      if (free_slots_.capacity() <= slots_.size()) {
        free_slots_.reserve(std::max<std::size_t>(16, 2 * slots_.size()));
      }
      slots_.emplace_back();
      free_slots_.push_back(static_cast<std::uint32_t>(slots_.size() - 1));
    }
    auto const index = free_slots_.back();
    auto& slot = slots_[index];
    state = std::make_shared<CompletionState>(weak_from_this(),
                                              EventHandle{worker_id_, index, slot.generation + 1},
                                              std::move(description), num_blocks, created);
    free_slots_.pop_back();
    ++slot.generation;
    slot.state = state;
    num_pending_.fetch_add(1);
  }
  // The thread clears the flag before it looks at the slots, so either it sees this event or this
  // sees the cleared flag.
  if (!log_armed_.load()) { arm_pending_log(); }
  return state;
}

std::shared_ptr<CompletionState> EventCore::find(EventHandle handle) const {
  KVBM_EXPECTS(handle.worker_id == worker_id_, InvalidArgument,
               fmt::format("event handle of worker {} given to the event system of worker {}; ask "
                           "the system that made the event",
                           handle.worker_id, worker_id_));
  std::shared_ptr<CompletionState> state;
  std::uint32_t generation = 0;
  {
    std::lock_guard const lock(slots_mutex_);
    if (handle.slot < slots_.size()) {
      generation = slots_[handle.slot].generation;
      if (generation == handle.generation) { state = slots_[handle.slot].state.lock(); }
    }
  }
  KVBM_EXPECTS(
      state != nullptr, NotFound,
      fmt::format("event handle is stale: slot {} generation {} (the slot's newest is {}); "
                  "keep a notification for as long as the handle is needed",
                  handle.slot, handle.generation, generation));
  return state;
}

void EventCore::release(EventHandle handle) noexcept {
  std::lock_guard const lock(slots_mutex_);
  auto& slot = slots_[handle.slot];
  slot.state.reset();
  // After the last generation a slot stays unused: a handle must never fit a second event.
  if (slot.generation != std::numeric_limits<std::uint32_t>::max()) {
    free_slots_.push_back(handle.slot);
  }
}

std::shared_ptr<CompletionState> EventCore::state_of_slot(std::size_t slot) const noexcept {
  std::lock_guard const lock(slots_mutex_);
  return slot < slots_.size() ? slots_[slot].state.lock() : nullptr;
}

void EventCore::fail_pending() noexcept {
  std::size_t num_slots = 0;
  {
    std::lock_guard const lock(slots_mutex_);
    refuses_events_ = true;
    num_slots = slots_.size();
  }
  for (std::size_t slot = 0; slot < num_slots; ++slot) {
    auto const state = state_of_slot(slot);
    if (!state || state->is_ready()) { continue; }
    state->complete(make_error(ErrorCode::ShuttingDown, state->name(),
                               "the event system was destroyed before it completed"));
  }
}

// --- thread

void EventCore::ensure_running() {
  if (running_.load(std::memory_order_acquire)) { return; }
  std::lock_guard const lock(mutex_);
  if (running_.load(std::memory_order_relaxed)) { return; }
  if (stopping_) { throw_shutting_down(); }
  try {
    SignalsBlocked const blocked;
    thread_ = std::thread([self = shared_from_this()] { self->run(); });
  } catch (std::system_error const& error) {
    throw_error(ErrorCode::OutOfMemory,
                fmt::format("cannot start the thread kvbm-events: {}; raise the limit on threads "
                            "(ulimit -u, pids.max)",
                            error.what()),
                error.code().value());
  }
  thread_id_ = thread_.get_id();
  pthread_setname_np(thread_.native_handle(), "kvbm-events");
  running_.store(true, std::memory_order_release);
}

void EventCore::run() noexcept {
  bool failed_pending = false;
  std::unique_lock lock(mutex_);
  for (;;) {
    woken_ = false;
    // Read together under the lock: who sets a test's clock and then posts is seen to have done so.
    auto const at = now();
    auto const queue = std::exchange(queue_, {});

    if (log_at_ <= at) {
      log_at_ = TimePoint::max();
      log_armed_.store(false);
      lock.unlock();
      auto const next = log_pending(at);
      lock.lock();
      if (next != TimePoint::max()) {
        log_at_ = std::min(log_at_, next);
        log_armed_.store(true);
      }
    }
    bool busy = run_due_timers(lock, at);
    if (queue.head) {
      lock.unlock();
      run_queue(queue);
      lock.lock();
      busy = true;
    }
    if (busy || woken_) { continue; }

    if (!stopping_) {
      sleep(lock);
    } else if (!failed_pending) {
      failed_pending = true;
      lock.unlock();
      fail_pending();
      lock.lock();
    } else {
      break;
    }
  }
  ended_ = true;
  auto const timers = std::exchange(timers_, {});
  for (auto const& [when, entry] : timers) {
    entry->status = TimerEntry::Status::Running;
  }
  lock.unlock();
  for (auto const& [when, entry] : timers) {
    entry->callback = nullptr;
  }
  lock.lock();
  for (auto const& [when, entry] : timers) {
    entry->status = TimerEntry::Status::Done;
  }
  lock.unlock();
  timer_ended_.notify_all();
}

bool EventCore::run_queue(Queue queue) noexcept {
  bool const any = queue.head != nullptr;
  while (queue.head) {
    auto const state = std::move(queue.head);
    queue.head = std::move(state->next_queued_);
    state->run_callbacks();
  }
  return any;
}

bool EventCore::run_due_timers(std::unique_lock<std::mutex>& lock, TimePoint until) {
  bool any = false;
  while (!timers_.empty() && timers_.begin()->first <= until) {
    any = true;
    auto const entry = timers_.begin()->second;
    timers_.erase(timers_.begin());
    entry->status = TimerEntry::Status::Running;
    lock.unlock();
    run_guarded([&entry](std::exception_ptr const&) { entry->callback(); }, nullptr);
    entry->callback = nullptr;
    lock.lock();
    entry->status = TimerEntry::Status::Done;
    timer_ended_.notify_all();
  }
  return any;
}

void EventCore::sleep(std::unique_lock<std::mutex>& lock) {
  auto const deadline = timers_.empty() ? log_at_ : std::min(log_at_, timers_.begin()->first);
  // With a clock of their own tests wake the thread when they set it.
  if (deadline == TimePoint::max() || options_.now) {
    wake_.wait(lock);
  } else {
    wake_.wait_until(lock, deadline);
  }
}

bool EventCore::post(std::shared_ptr<CompletionState> state) noexcept {
  {
    std::lock_guard const lock(mutex_);
    if (ended_) { return false; }
    auto* const last = state.get();
    if (queue_.tail == nullptr) {
      queue_.head = std::move(state);
    } else {
      queue_.tail->next_queued_ = std::move(state);
    }
    queue_.tail = last;
    woken_ = true;
  }
  wake_.notify_one();
  return true;
}

void EventCore::wake() noexcept {
  {
    std::lock_guard const lock(mutex_);
    woken_ = true;
  }
  wake_.notify_one();
}

void EventCore::shut_down() noexcept {
  std::thread thread;
  bool on_own_thread = false;
  {
    std::lock_guard const lock(mutex_);
    stopping_ = true;
    woken_ = true;
    thread.swap(thread_);
    on_own_thread = thread_id_ == std::this_thread::get_id();
  }
  if (!thread.joinable()) { return; }  // no event, no timer, so nothing to end
  wake_.notify_one();
  if (on_own_thread) {
    thread.detach();  // goes on after the callback that is running, and owns what it needs
  } else {
    thread.join();
  }
}

// --- log of what is pending

void EventCore::arm_pending_log() {
  auto const at = now() + options_.log_after;
  bool sooner = false;
  {
    std::lock_guard const lock(mutex_);
    sooner = at < log_at_;
    log_at_ = std::min(log_at_, at);
    log_armed_.store(true);
    woken_ = woken_ || sooner;
  }
  if (sooner) { wake_.notify_one(); }
}

EventCore::TimePoint EventCore::log_pending(TimePoint at) noexcept {
  std::size_t num_slots = 0;
  {
    std::lock_guard const lock(slots_mutex_);
    num_slots = slots_.size();
  }
  auto next = TimePoint::max();
  std::size_t num_due = 0;
  for (std::size_t slot = 0; slot < num_slots; ++slot) {
    auto const state = state_of_slot(slot);
    if (!state || state->is_ready()) { continue; }
    if (state->log_at_ == TimePoint{}) { state->log_at_ = state->created_ + options_.log_after; }
    if (state->log_at_ <= at) {
      state->log_at_ = at + options_.log_again;
      if (++num_due <= options_.log_lines) {
        try {
          auto const age =
              std::chrono::duration_cast<std::chrono::seconds>(at - state->created_).count();
          log::write(
              log::Level::Warning,
              fmt::format("{}: pending for {} s (event {}:{} of worker {})", state->name(), age,
                          state->handle().slot, state->handle().generation, worker_id_));
        } catch (...) {  // no memory for the line
        }
      }
    }
    next = std::min(next, state->log_at_);
  }
  if (num_due > options_.log_lines) {
    try {
      log::write(log::Level::Warning,
                 fmt::format(
                     "{} more events are pending for over {} s", num_due - options_.log_lines,
                     std::chrono::duration_cast<std::chrono::seconds>(options_.log_after).count()));
    } catch (...) {  // no memory for the line
    }
  }
  return next == TimePoint::max() ? next : std::max(next, at + options_.log_pause);
}

// --- timers

std::shared_ptr<TimerEntry> EventCore::add_timer(TimePoint when, std::function<void()> callback) {
  ensure_running();
  auto entry = std::make_shared<TimerEntry>();
  entry->core = weak_from_this();
  entry->callback = std::move(callback);
  bool first = false;
  {
    std::lock_guard const lock(mutex_);
    if (stopping_) { throw_shutting_down(); }
    entry->position = timers_.emplace(when, entry);
    first = entry->position == timers_.begin();
    woken_ = woken_ || first;
  }
  if (first) { wake_.notify_one(); }
  return entry;
}

void EventCore::cancel(TimerEntry& entry) noexcept {
  std::function<void()> callback;  // destroyed without the lock
  std::unique_lock lock(mutex_);
  if (entry.status == TimerEntry::Status::Waiting) {
    timers_.erase(entry.position);
    entry.status = TimerEntry::Status::Done;
    callback.swap(entry.callback);
  } else if (thread_id_ != std::this_thread::get_id()) {
    timer_ended_.wait(lock, [&entry] { return entry.status == TimerEntry::Status::Done; });
  }
}

}  // namespace kvbm::transfer
