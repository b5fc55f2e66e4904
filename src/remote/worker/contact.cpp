// SPDX-License-Identifier: Apache-2.0
#include "remote/worker/contact.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <limits>
#include <random>
#include <utility>

#include "kvbm/core/error.hpp"

namespace kvbm::remote {
namespace {

/// Numbers that may come out of order. NIXL keeps the order, so what is missing behind so many was
/// lost with a connection, or is a liar's: it is waited for no longer, or the count of what was
/// taken would stand still and the sender give up.
constexpr std::size_t kMaxAhead = 1024;
/// Messages that a worker may leave lying, and after how many it is told how far we are. More than
/// kMaxAhead.
constexpr std::uint64_t kMaxUntaken = 4096;
constexpr std::uint64_t kTellEvery = 512;

/// Never 0, which stands for none.
std::uint64_t draw_session() {
  std::random_device random;
  return std::uniform_int_distribution<std::uint64_t>(1)(random);
}

std::optional<memory::ProcessWatch> watch(std::optional<memory::ProcessName> const& process) {
  if (!process || !memory::is_same_machine(*process)) { return std::nullopt; }
  return std::make_optional<memory::ProcessWatch>(*process);
}

}  // namespace

Contact::Contact(std::shared_ptr<NixlAgent> agent, std::uint64_t own_id, std::uint64_t worker_id,
                 WorkerAddress address, std::optional<memory::ProcessName> const& process)
    : agent_(std::move(agent)),
      own_id_(own_id),
      worker_id_(worker_id),
      agent_name_(std::move(address.agent_name)),
      name_(fmt::format("worker {} (agent {})", worker_id, agent_name_)),
      session_(draw_session()),
      watch_(watch(process)),
      metadata_(std::move(address.nixl_metadata)) {}

Contact::~Contact() {
  if (connected_) { agent_->forget_remote(agent_name_); }
}

void Contact::learn(WorkerAddress const& address) {
  KVBM_EXPECTS(address.agent_name == agent_name_, Corrupt,
               fmt::format("metadata of agent {} for {}", address.agent_name, name_));
  std::lock_guard const lock(mutex_);
  auto const before = std::exchange(metadata_, address.nixl_metadata);
  bool const was_connected = std::exchange(connected_, false);
  try {
    connect_locked();
  } catch (Error const&) {
    metadata_ = before;
    connected_ = was_connected;  // what is refused does not disconnect
    throw;
  }
}

void Contact::expect_alive_locked() const {
  if (!gone_.empty()) { throw PeerError(fmt::format("{} is gone: {}", name_, gone_)); }
  if (watch_ && !watch_->is_alive()) {
    throw PeerError(fmt::format("{} is gone: its process has ended", name_));
  }
}

void Contact::expect_alive() const {
  std::lock_guard const lock(mutex_);
  expect_alive_locked();
}

void Contact::mark_gone(std::string reason) {
  std::lock_guard const lock(mutex_);
  if (gone_.empty()) { gone_ = std::move(reason); }
}

void Contact::connect_locked() {
  if (connected_) { return; }
  std::string const loaded = agent_->load_remote(metadata_);
  if (loaded != agent_name_) {
    agent_->forget_remote(loaded);
    throw CorruptError(fmt::format("the metadata of {} is that of agent {}", name_, loaded));
  }
  connected_ = true;
}

void Contact::connect() {
  std::lock_guard const lock(mutex_);
  expect_alive_locked();
  connect_locked();
}

void Contact::disconnect() noexcept {
  std::lock_guard const lock(mutex_);
  if (!connected_) { return; }
  agent_->forget_remote(agent_name_);
  connected_ = false;
  ++generation_;
}

std::uint64_t Contact::generation() const {
  std::lock_guard const lock(mutex_);
  return generation_;
}

void Contact::send(MessageBody body) {
  // Under the lock, so that numbers go out in their order.
  std::lock_guard const lock(mutex_);
  expect_alive_locked();
  bool const is_count = std::holds_alternative<Taken>(body);
  if (next_sequence_ - acknowledged_ > kMaxUntaken && !is_count) {
    throw PeerError(fmt::format(
        "{} has not taken the last {} messages: it is stopped or overloaded", name_, kMaxUntaken));
  }
  auto const bytes =
      Message{own_id_, session_, next_sequence_, taken_below_ - 1, std::move(body)}.to_bytes();
  for (bool again = true;; again = false) {
    try {
      connect_locked();
      agent_->send(agent_name_, bytes);
      ++next_sequence_;
      told_ = taken_below_ - 1;
      return;
    } catch (Error const& error) {
      agent_->forget_remote(agent_name_);
      connected_ = false;
      ++generation_;
      if (!again) {
        throw PeerError(fmt::format("{} cannot be told anything: {}", name_, error.what()));
      }
    }
  }
}

bool Contact::take(Message const& message) {
  std::lock_guard const lock(mutex_);
  // A liar may say anything here: it only ever hurts itself.
  acknowledged_ = std::max(acknowledged_, std::min(message.taken, next_sequence_ - 1));
  std::uint64_t const sequence = message.sequence;
  if (sequence == 0 || sequence == std::numeric_limits<std::uint64_t>::max()) { return false; }
  if (message.session != their_session_) {
    // The worker has met us anew, and counts anew; or it is we who have. What comes late of the
    // session before is nothing that anybody waits for.
    if (their_session_ != 0 && !std::holds_alternative<Hello>(message.body)) { return false; }
    their_session_ = message.session;
    taken_above_.clear();
    taken_below_ = sequence;
    told_ = sequence - 1;
  }
  if (sequence < taken_below_ || !taken_above_.insert(sequence).second) { return false; }
  if (taken_above_.size() > kMaxAhead) { taken_below_ = *taken_above_.begin(); }
  while (taken_above_.erase(taken_below_) != 0) {
    ++taken_below_;
  }
  return true;
}

bool Contact::owes_count() const {
  std::lock_guard const lock(mutex_);
  return taken_below_ - 1 - told_ >= kTellEvery;
}

}  // namespace kvbm::remote
