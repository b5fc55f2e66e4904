// SPDX-License-Identifier: Apache-2.0
#include "remote/worker/calls.hpp"

#include <algorithm>
#include <utility>

#include "kvbm/core/error.hpp"

namespace kvbm::remote {
namespace {

/// How often a waiting thread looks whether it should stop, or the other worker died.
constexpr std::chrono::milliseconds kLook{2};

}  // namespace

Calls::Call::Call(Calls& owner, std::shared_ptr<Contact> contact, Until until)
    : owner_(owner), contact_(std::move(contact)), until_(until) {
  std::lock_guard const lock(owner_.mutex_);
  id_ = owner_.next_id_++;
  owner_.waiting_.emplace(id_, this);
}

Calls::Call::~Call() { static_cast<void>(forget()); }

std::optional<Reply> Calls::Call::forget() {
  std::lock_guard const lock(owner_.mutex_);
  owner_.waiting_.erase(id_);
  return std::exchange(reply_, std::nullopt);
}

Reply Calls::Call::wait(transfer::Peer::ShouldStop const& should_stop) {
  while (true) {
    if (auto reply = wait_until(std::chrono::steady_clock::now() + kLook)) {
      return std::move(*reply);
    }
    if (should_stop()) { throw CancelledError("stopped while waiting for " + contact_->name()); }
  }
}

std::optional<Reply> Calls::Call::wait_until(std::chrono::steady_clock::time_point deadline) {
  std::unique_lock lock(owner_.mutex_);
  while (!reply_) {
    if (owner_.closed_) {
      throw PeerError(contact_->name() + " cannot answer: this worker is shutting down");
    }
    if (given_up_) { throw PeerError(contact_->name() + " has left and will not answer"); }
    contact_->expect_alive();
    auto const now = std::chrono::steady_clock::now();
    if (now >= deadline) { return std::nullopt; }
    owner_.answered_.wait_until(lock, std::min(deadline, now + 10 * kLook));
  }
  return reply_;
}

bool Calls::answer(std::uint64_t worker_id, Reply reply) {
  std::lock_guard const lock(mutex_);
  auto const found = waiting_.find(reply.request);
  if (found == waiting_.end() || found->second->contact_->worker_id() != worker_id) {
    return false;
  }
  auto& given = found->second->reply_;
  if (given) { return false; }
  given = std::move(reply);
  answered_.notify_all();
  return true;
}

void Calls::give_up(std::uint64_t worker_id) {
  std::lock_guard const lock(mutex_);
  for (auto& [id, call] : waiting_) {
    if (call->contact_->worker_id() == worker_id && call->until_ == Until::Farewell) {
      call->given_up_ = true;
    }
  }
  answered_.notify_all();
}

void Calls::close() {
  std::lock_guard const lock(mutex_);
  closed_ = true;
  answered_.notify_all();
}

bool Calls::any_waiting() const {
  std::lock_guard const lock(mutex_);
  return !waiting_.empty();
}

}  // namespace kvbm::remote
