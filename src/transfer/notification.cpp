// SPDX-License-Identifier: Apache-2.0
#include "kvbm/transfer/notification.hpp"

#include "kvbm/core/error.hpp"
#include "kvbm/core/log.hpp"
#include "transfer/completion_state.hpp"
#include "transfer/event_core.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <thread>
#include <utility>

namespace kvbm::transfer {

std::exception_ptr make_error(ErrorCode code, std::string_view subject,
                              std::string_view what) noexcept {
  try {
    throw_error(code, subject.empty() ? std::string(what) : fmt::format("{}: {}", subject, what));
  } catch (...) { return std::current_exception(); }
}

std::string describe(std::exception_ptr const& error) {
  try {
    std::rethrow_exception(error);
  } catch (std::exception const& exception) { return exception.what(); } catch (...) {
    return "an exception that is not a std::exception";
  }
}

void run_guarded(std::function<void(std::exception_ptr)> const& callback,
                 std::exception_ptr const& error) noexcept {
  try {
    callback(error);
  } catch (...) {
    try {
      log::write(log::Level::Error, fmt::format("a completion callback threw, which is ignored: {}",
                                                describe(std::current_exception())));
    } catch (...) {  // no memory for the line
    }
  }
}

// --- CompletionJoin

CompletionJoin::CompletionJoin(std::shared_ptr<CompletionState> target,
                               std::vector<std::size_t> offsets)
    : target_(std::move(target)),
      offsets_(std::move(offsets)),
      failed_(offsets_.size()),
      remaining_(offsets_.size()) {}

bool CompletionJoin::part_ended(std::size_t index,
                                std::shared_ptr<CompletionState const> part) noexcept {
  // Every part writes its own element; the counter orders the writes before outcome().
  if (part && part->has_failed()) { failed_[index] = std::move(part); }
  return remaining_.fetch_sub(1, std::memory_order_acq_rel) == 1;
}

CompletionJoin::Outcome CompletionJoin::outcome() const noexcept {
  try {
    return join_failures();
  } catch (...) {  // no memory: the aggregate fails all the same
    return {std::current_exception(), {}};
  }
}

CompletionJoin::Outcome CompletionJoin::join_failures() const {
  Outcome outcome;
  std::string message;
  std::size_t num_failures = 0;
  ErrorCode code = ErrorCode::Internal;
  int native_code = 0;
  for (std::size_t index = 0; index < failed_.size(); ++index) {
    if (!failed_[index]) { continue; }
    auto const error = failed_[index]->error();
    if (++num_failures == 1) {
      outcome.error = error;
      try {
        std::rethrow_exception(error);
      } catch (Error const& first) {
        code = first.code();
        native_code = first.native_code();
      } catch (...) {  // a foreign exception has no code: Internal
      }
    } else {
      message += "; ";
    }
    message += describe(error);
    for (auto& block : failed_[index]->failed_blocks()) {
      block.position += offsets_[index];
      outcome.failed_blocks.push_back(std::move(block));
    }
  }
  if (num_failures > 1) {
    try {
      throw_error(code, message, native_code);
    } catch (...) { outcome.error = std::current_exception(); }
  }
  return outcome;
}

// --- CompletionState

CompletionState::CompletionState(std::weak_ptr<EventCore> core, EventHandle handle,
                                 std::string description, std::size_t num_blocks, TimePoint created)
    : core_(std::move(core)),
      handle_(handle),
      description_(std::move(description)),
      num_blocks_(num_blocks),
      created_(created) {}

CompletionState::CompletionState(std::weak_ptr<EventCore> core, std::size_t num_blocks)
    : core_(std::move(core)), num_blocks_(num_blocks) {}

CompletionState::~CompletionState() {
  if (handle_.generation == 0) { return; }
  if (auto const core = core_.lock()) { core->release(handle_); }
}

/// Polls for a time in which small transfers end, where that takes no CPU from what it waits for: a
/// thread that sleeps is woken several microseconds too late.
static bool becomes_ready_soon(CompletionState const& state) noexcept {
  static bool const cpus_to_spare = std::thread::hardware_concurrency() > 2;
  if (!cpus_to_spare) { return false; }
  constexpr auto kPollTime = std::chrono::microseconds(25);
  auto const end = std::chrono::steady_clock::now() + kPollTime;
  do {
    for (int i = 0; i < 32; ++i) {
      if (state.is_ready()) { return true; }
#if defined(__x86_64__)
      __builtin_ia32_pause();
#endif
    }
  } while (std::chrono::steady_clock::now() < end);
  return false;
}

void CompletionState::wait() const {
  if (is_ready() || becomes_ready_soon(*this)) { return; }
  std::unique_lock lock(mutex_);
  ready_.wait(lock, [this] { return is_ready(); });
}

bool CompletionState::wait_for(std::chrono::nanoseconds timeout) const {
  if (is_ready()) { return true; }
  if (timeout <= std::chrono::nanoseconds::zero()) { return false; }
  auto const now = std::chrono::steady_clock::now();
  if (timeout > std::chrono::steady_clock::time_point::max() - now) {
    wait();
    return true;
  }
  std::unique_lock lock(mutex_);
  return ready_.wait_until(lock, now + timeout, [this] { return is_ready(); });
}

std::exception_ptr CompletionState::error() const noexcept {
  return has_failed() ? error_ : nullptr;
}

std::vector<FailedBlock> CompletionState::failed_blocks() const {
  return has_failed() ? failed_blocks_ : std::vector<FailedBlock>{};
}

bool CompletionState::complete(std::exception_ptr error,
                               std::vector<FailedBlock> failed_blocks) noexcept {
  // Aggregates of aggregates can be any number deep: a list instead of recursion.
  std::shared_ptr<CompletionJoin> ended;
  bool const completed = settle(std::move(error), std::move(failed_blocks), ended);
  while (ended) {
    auto const join = std::move(ended);
    ended = std::move(join->next_ended_);
    auto outcome = join->outcome();
    join->target().settle(std::move(outcome.error), std::move(outcome.failed_blocks), ended);
  }
  return completed;
}

bool CompletionState::settle(std::exception_ptr error, std::vector<FailedBlock> failed_blocks,
                             std::shared_ptr<CompletionJoin>& ended) noexcept {
  // Whoever waits may drop every other reference as soon as the outcome is visible.
  auto const self = shared_from_this();
  auto const core = core_.lock();
  std::vector<Dependent> dependents;
  bool has_callbacks = false;
  {
    std::lock_guard const lock(mutex_);
    if (is_ready()) { return false; }
    error_ = std::move(error);
    failed_blocks_ = std::move(failed_blocks);
    dependents.swap(dependents_);
    has_callbacks = !callbacks_.empty();
    // Before the outcome is visible, so that who has waited for it sees it counted.
    if (core && handle_.generation != 0) { core->count_completed(); }
    status_.store(error_ ? Status::Failed : Status::Succeeded, std::memory_order_release);
  }
  ready_.notify_all();
  for (auto const& [join, index] : dependents) {
    if (join->part_ended(index, self)) {
      join->next_ended_ = std::move(ended);
      ended = join;
    }
  }
  if (has_callbacks && !(core && core->post(self))) { run_callbacks(); }
  return true;
}

bool CompletionState::add_callback(Callback& callback) {
  std::lock_guard const lock(mutex_);
  if (is_ready()) { return false; }
  callbacks_.push_back(std::move(callback));
  return true;
}

bool CompletionState::add_dependent(std::shared_ptr<CompletionJoin> const& join,
                                    std::size_t index) {
  std::lock_guard const lock(mutex_);
  if (is_ready()) { return false; }
  dependents_.push_back({join, index});
  return true;
}

void CompletionState::run_callbacks() noexcept {
  std::vector<Callback> callbacks;
  {
    std::lock_guard const lock(mutex_);
    callbacks.swap(callbacks_);
  }
  for (auto& callback : callbacks) {
    run_guarded(callback, error_);
    callback = nullptr;
  }
}

// --- TransferCompleteNotification

bool TransferCompleteNotification::is_ready() const noexcept {
  return !state_ || state_->is_ready();
}

void TransferCompleteNotification::wait() const {
  auto const state = state_;
  if (!state) { return; }
  state->wait();
  if (auto error = state->error()) { std::rethrow_exception(std::move(error)); }
}

bool TransferCompleteNotification::wait_for(std::chrono::nanoseconds timeout) const {
  auto const state = state_;
  if (!state) { return true; }
  if (!state->wait_for(timeout)) { return false; }
  if (auto error = state->error()) { std::rethrow_exception(std::move(error)); }
  return true;
}

std::exception_ptr TransferCompleteNotification::error() const noexcept {
  return state_ ? state_->error() : nullptr;
}

std::vector<FailedBlock> TransferCompleteNotification::failed_blocks() const {
  return state_ ? state_->failed_blocks() : std::vector<FailedBlock>{};
}

void TransferCompleteNotification::then(std::function<void(std::exception_ptr)> callback) const {
  KVBM_EXPECTS(callback != nullptr, InvalidArgument,
               "then(): the callback is empty; pass a function");
  auto const state = state_;
  if (state && state->add_callback(callback)) { return; }
  run_guarded(callback, state ? state->error() : nullptr);
}

TransferCompleteNotification TransferCompleteNotification::aggregate(
    std::vector<TransferCompleteNotification> const& notifications) {
  if (notifications.size() == 1) { return notifications.front(); }

  std::weak_ptr<EventCore> core;
  bool all_succeeded = true;
  bool all_state_size = true;
  std::size_t num_blocks = 0;
  std::vector<std::size_t> offsets;
  offsets.reserve(notifications.size() + 1);
  for (auto const& notification : notifications) {
    auto const& state = notification.state_;
    bool const pending = state && !state->is_ready();
    if (pending && core.expired()) { core = state->core(); }
    if (pending || (state && state->has_failed())) { all_succeeded = false; }
    offsets.push_back(num_blocks);
    std::size_t const part_blocks = state ? state->num_blocks() : 0;
    all_state_size = all_state_size && part_blocks != 0 &&
                     !__builtin_add_overflow(num_blocks, part_blocks, &num_blocks);
  }
  if (all_succeeded) { return completed(); }
  if (!all_state_size) {
    std::fill(offsets.begin(), offsets.end(), std::size_t{0});
    num_blocks = 0;
  }

  // One part more than there are, so that it cannot end before all are registered.
  offsets.push_back(0);
  auto target = std::make_shared<CompletionState>(std::move(core), num_blocks);
  auto const join = std::make_shared<CompletionJoin>(target, std::move(offsets));
  for (std::size_t index = 0; index < notifications.size(); ++index) {
    auto const& state = notifications[index].state_;
    if (!state || !state->add_dependent(join, index)) { join->part_ended(index, state); }
  }
  if (join->part_ended(notifications.size(), nullptr)) {
    auto outcome = join->outcome();
    target->complete(std::move(outcome.error), std::move(outcome.failed_blocks));
  }
  return TransferCompleteNotification(std::move(target));
}

bool TransferCompleteNotification::Awaiter::await_ready() const noexcept {
  return !state_ || state_->is_ready();
}

bool TransferCompleteNotification::Awaiter::await_suspend(std::coroutine_handle<> coroutine) const {
  // Once registered the coroutine may run on, and destroy this awaiter, at any moment.
  auto const state = state_;
  CompletionState::Callback resume = [coroutine](std::exception_ptr const&) { coroutine.resume(); };
  return state->add_callback(resume);
}

void TransferCompleteNotification::Awaiter::await_resume() const {
  if (auto error = state_ ? state_->error() : nullptr) { std::rethrow_exception(std::move(error)); }
}

}  // namespace kvbm::transfer
