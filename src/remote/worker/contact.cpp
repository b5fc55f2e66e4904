// SPDX-License-Identifier: Apache-2.0
#include "remote/worker/contact.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <limits>
#include <random>
#include <span>
#include <string_view>
#include <utility>

#include "kvbm/core/error.hpp"
#include "kvbm/core/log.hpp"

namespace kvbm::remote {
namespace {

using Clock = std::chrono::steady_clock;

/// Numbers that may come out of order: what a connection lost is sent again. More than a sender may
/// leave unanswered are a liar's.
constexpr std::size_t kMaxAhead = 8192;
/// Messages that a worker may leave lying, and after how many it is told how far we are.
constexpr std::size_t kMaxUntaken = 4096;
constexpr std::uint64_t kTellEvery = 512;
/// ... or how long, where nothing else is said to it.
constexpr std::chrono::milliseconds kTellAfter{20};
/// How long a message may go unanswered before it is sent again; doubles each time.
constexpr std::chrono::milliseconds kFirstPatience{250};
constexpr std::chrono::milliseconds kMostPatience{8000};
/// As many are sent again at once.
constexpr std::size_t kSentAgain = 64;

/// From when a dying process closes its sockets until it counts as ended.
constexpr std::chrono::milliseconds kDying{200};

/// Sessions that are remembered as over.
constexpr std::size_t kPastSessions = 64;

/// Never 0, which stands for none.
std::uint64_t draw_session() {
  std::random_device random;
  return std::uniform_int_distribution<std::uint64_t>(1)(random);
}

/// The agent that NIXL metadata says to be of, where they are written as NIXL 1.x does: NIXL loads
/// them whoever they are of, and what is loaded in a known agent's name is hard to undo.
std::optional<std::string> agent_of(std::span<std::byte const> metadata) {
  constexpr std::string_view kHead = "nixlSerDes|Agent";
  std::string_view const text(reinterpret_cast<char const*>(metadata.data()), metadata.size());
  std::uint64_t length = 0;
  if (!text.starts_with(kHead) || text.size() < kHead.size() + sizeof(length)) {
    return std::nullopt;
  }
  std::memcpy(&length, text.data() + kHead.size(), sizeof(length));
  auto const rest = text.substr(kHead.size() + sizeof(length));
  if (length > rest.size()) { return std::nullopt; }
  return std::string(rest.substr(0, static_cast<std::size_t>(length)));
}

std::optional<memory::ProcessWatch> watch(std::optional<memory::ProcessName> const& process) {
  if (!process || !memory::is_same_machine(*process)) { return std::nullopt; }
  return std::make_optional<memory::ProcessWatch>(*process);
}

}  // namespace

Contact::Contact(std::shared_ptr<nixl::NixlAgent> agent, std::uint64_t own_id,
                 std::uint64_t worker_id, WorkerAddress address,
                 std::optional<memory::ProcessName> const& process)
    : agent_(std::move(agent)),
      own_id_(own_id),
      worker_id_(worker_id),
      agent_name_(std::move(address.agent_name)),
      name_(fmt::format("worker {} (agent {})", worker_id, agent_name_)),
      session_(draw_session()),
      watch_(watch(process)),
      metadata_(std::move(address.nixl_metadata)),
      patience_(kFirstPatience) {}

Contact::~Contact() {
  if (connected_) { agent_->forget_remote(agent_name_); }
}

void Contact::learn(WorkerAddress const& address) {
  KVBM_EXPECTS(address.agent_name == agent_name_, Corrupt,
               fmt::format("metadata of agent {} for {}", address.agent_name, name_));
  std::lock_guard const lock(mutex_);
  if (connected_ && metadata_ == address.nixl_metadata) { return; }
  if (auto const told = agent_of(address.nixl_metadata)) { expect_own_name(*told); }
  // NIXL would add to what it knows, and find memory that has been registered anew since under what
  // was there before: it has to forget that first.
  if (std::exchange(connected_, false)) {
    agent_->forget_remote(agent_name_);
    ++generation_;
  }
  auto const before = std::exchange(metadata_, address.nixl_metadata);
  try {
    connect_locked();
  } catch (Error const&) {
    metadata_ = before;  // the next message connects by it again
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

void Contact::expect_own_name(std::string const& found) const {
  if (found == agent_name_) { return; }
  throw CorruptError(fmt::format("the metadata of {} is that of agent {}", name_, found));
}

void Contact::connect_locked() {
  if (connected_) { return; }
  if (auto const told = agent_of(metadata_)) { expect_own_name(*told); }
  try {
    expect_own_name(agent_->load_remote(metadata_));
  } catch (CorruptError const&) {
    // NIXL connects while it loads, and does not say that nobody answered.
    if (watch_ && watch_->ends_within(kDying)) { expect_alive_locked(); }
    throw;
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

void Contact::post(std::vector<std::byte> const& bytes) {
  for (bool again = true;; again = false) {
    try {
      connect_locked();
      agent_->send(agent_name_, bytes);
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

void Contact::send(MessageBody body) {
  // Under the lock, so that numbers go out in their order.
  std::lock_guard const lock(mutex_);
  expect_alive_locked();
  bool const is_count = std::holds_alternative<Taken>(body);
  if (!is_count && unacknowledged_.size() >= kMaxUntaken) {
    throw PeerError(
        fmt::format("{} has not taken the last {} messages: it is stopped or overloaded", name_,
                    unacknowledged_.size()));
  }
  std::uint64_t const sequence = is_count ? 0 : next_sequence_;
  std::uint64_t const taken = taken_below_ - 1;
  auto bytes = Message{own_id_, session_, sequence, taken, std::move(body)}.to_bytes();
  post(bytes);
  told_ = taken;
  asked_again_ = false;
  if (is_count) { return; }
  ++next_sequence_;
  if (unacknowledged_.empty()) { progress_ = Clock::now(); }
  unacknowledged_.push_back({sequence, std::move(bytes)});
}

void Contact::tend() noexcept {
  try {
    bool tell = false;
    {
      std::lock_guard const lock(mutex_);
      if (!gone_.empty()) { return; }
      auto const now = Clock::now();
      tell = (taken_below_ - 1 != told_ || asked_again_) && now - owing_since_ > kTellAfter;
      if (!unacknowledged_.empty() && now - progress_ > patience_) {
        expect_alive_locked();
        // A stopped worker is not buried under the same messages again and again.
        patience_ = std::min(2 * patience_, kMostPatience);
        progress_ = now;
        std::size_t const count = std::min(unacknowledged_.size(), kSentAgain);
        for (std::size_t i = 0; i < count; ++i) {
          post(unacknowledged_[i].bytes);
        }
      }
    }
    if (tell) { send(Taken{}); }
  } catch (std::exception const& error) {
    log::write(log::Level::Debug, fmt::format("tending {}: {}", name_, error.what()));
  }
}

bool Contact::take(Message const& message) {
  std::lock_guard const lock(mutex_);
  // A liar may say anything here: it only ever hurts itself.
  bool progress = false;
  while (!unacknowledged_.empty() && unacknowledged_.front().sequence <= message.taken) {
    unacknowledged_.pop_front();
    progress = true;
  }
  if (progress) {
    progress_ = Clock::now();
    patience_ = kFirstPatience;
  }
  if (std::holds_alternative<Taken>(message.body)) { return true; }  // neither numbered nor told
  std::uint64_t const sequence = message.sequence;
  if (sequence == 0 || sequence == std::numeric_limits<std::uint64_t>::max()) { return false; }
  if (message.session != their_session_) {
    // The worker has met us anew, and counts anew; or it is we who have. What comes late of a
    // session before is nothing that anybody waits for.
    if (message.session == 0 ||
        std::ranges::find(past_sessions_, message.session) != past_sessions_.end()) {
      return false;
    }
    if (their_session_ != 0) { past_sessions_.push_back(their_session_); }
    if (past_sessions_.size() > kPastSessions) { past_sessions_.pop_front(); }
    their_session_ = message.session;
    taken_above_.clear();
    taken_below_ = sequence;
    told_ = sequence - 1;
  }
  if (sequence < taken_below_) {
    // Sent again: what the worker was told of it was lost, or is under way.
    if (!asked_again_) { owing_since_ = Clock::now(); }
    asked_again_ = true;
    return false;
  }
  if (sequence - taken_below_ >= kMaxAhead) { return false; }
  if (taken_below_ - 1 == told_) { owing_since_ = Clock::now(); }
  if (!taken_above_.insert(sequence).second) { return false; }
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
