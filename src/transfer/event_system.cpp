// SPDX-License-Identifier: Apache-2.0
#include "kvbm/transfer/event_system.hpp"

#include "kvbm/core/error.hpp"
#include "transfer/completion_state.hpp"
#include "transfer/event_core.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

namespace kvbm::transfer {

// --- Completion

Completion& Completion::operator=(Completion&& other) noexcept {
  if (this == &other) { return *this; }
  Completion const former(std::move(*this));  // abandoned, if it was pending
  state_ = std::move(other.state_);
  return *this;
}

Completion::~Completion() {
  if (!state_ || !state_->claim()) { return; }
  state_->complete(
      make_error(ErrorCode::Internal, state_->name(),
                 "abandoned: its completion was dropped before trigger() or poison()"));
}

void Completion::trigger() {
  // The waiter that this wakes may own and destroy this object.
  auto const state = state_;
  KVBM_EXPECTS(state != nullptr, InvalidArgument,
               "trigger() on an empty completion; use the one that create_event() returned");
  KVBM_EXPECTS(state->claim(), InvalidArgument,
               fmt::format("trigger(): {} has been completed already", state->name()));
  state->complete(nullptr);
}

void Completion::poison(std::exception_ptr error, std::vector<FailedBlock> failed_blocks) {
  auto const state = state_;
  KVBM_EXPECTS(state != nullptr, InvalidArgument,
               "poison() on an empty completion; use the one that create_event() returned");
  KVBM_EXPECTS(
      error != nullptr, InvalidArgument,
      fmt::format("poison(): {} needs an error; use trigger() for success", state->name()));
  for (auto& block : failed_blocks) {
    if (!block.error) { block.error = error; }
  }
  std::sort(failed_blocks.begin(), failed_blocks.end(),
            [](FailedBlock const& a, FailedBlock const& b) { return a.position < b.position; });
  KVBM_EXPECTS(state->claim(), InvalidArgument,
               fmt::format("poison(): {} has been completed already", state->name()));
  state->complete(std::move(error), std::move(failed_blocks));
}

TransferCompleteNotification Completion::notification() const {
  KVBM_EXPECTS(state_ != nullptr, InvalidArgument,
               "notification() of an empty completion; use the one that create_event() returned");
  return TransferCompleteNotification(state_);
}

EventHandle Completion::handle() const {
  KVBM_EXPECTS(state_ != nullptr, InvalidArgument,
               "handle() of an empty completion; use the one that create_event() returned");
  return state_->handle();
}

bool Completion::is_pending() const noexcept { return state_ && !state_->is_ready(); }

// --- EventSystem

std::shared_ptr<EventSystem> EventSystemAccess::create(EventCoreOptions options) {
  struct Constructible : EventSystem {
    explicit Constructible(std::shared_ptr<EventCore> core) : EventSystem(std::move(core)) {}
  };
  return std::make_shared<Constructible>(std::make_shared<EventCore>(std::move(options)));
}

std::shared_ptr<EventSystem> EventSystem::create() { return EventSystemAccess::create({}); }

EventSystem::~EventSystem() { core_->shut_down(); }

std::uint64_t EventSystem::worker_id() const noexcept { return core_->worker_id(); }

Completion EventSystem::create_event(std::string description, std::size_t num_blocks) {
  return Completion(core_->create(std::move(description), num_blocks));
}

TransferCompleteNotification EventSystem::awaiter(EventHandle handle) const {
  return TransferCompleteNotification(core_->find(handle));
}

TransferCompleteNotification EventSystem::merge(std::span<EventHandle const> handles) const {
  std::vector<TransferCompleteNotification> notifications;
  notifications.reserve(handles.size());
  for (auto const handle : handles) {
    notifications.push_back(awaiter(handle));
  }
  return TransferCompleteNotification::aggregate(notifications);
}

std::size_t EventSystem::num_pending() const { return core_->num_pending(); }

EventSystem::Timer& EventSystem::Timer::operator=(Timer&& other) noexcept {
  if (this == &other) { return *this; }
  Timer const former(std::move(*this));
  entry_ = std::move(other.entry_);
  return *this;
}

EventSystem::Timer::~Timer() { reset(); }

void EventSystem::Timer::reset() noexcept {
  auto const entry = std::move(entry_);
  entry_ = nullptr;
  if (!entry) { return; }
  // Without a core no thread is left that could run the call.
  if (auto const core = entry->core.lock()) { core->cancel(*entry); }
}

EventSystem::Timer EventSystem::call_at(std::chrono::steady_clock::time_point when,
                                        std::function<void()> callback) {
  KVBM_EXPECTS(callback != nullptr, InvalidArgument,
               "call_at(): the callback is empty; pass a function");
  return Timer(core_->add_timer(when, std::move(callback)));
}

}  // namespace kvbm::transfer
