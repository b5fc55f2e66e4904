// SPDX-License-Identifier: Apache-2.0
#include "remote/tcp_peers.hpp"

#include <fmt/format.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

namespace kvbm::remote {
namespace {

using std::chrono::milliseconds;

constexpr std::chrono::seconds kAddressesValidFor{30};
constexpr milliseconds kPauseForResolver{10};
// The metadata, or names of the same size.
constexpr std::size_t kMaxAnswerBytes = kMaxMetadataBytes;

std::optional<std::vector<PeerAddress>> look_up(std::string const& peer, int flags) {
  auto const [host, port] = split_peer(peer);
  addrinfo hints{};
  hints.ai_flags = flags | AI_NUMERICSERV;
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* found = nullptr;
  if (getaddrinfo(host.c_str(), port.c_str(), &hints, &found) != 0) { return std::nullopt; }
  std::unique_ptr<addrinfo, decltype(&freeaddrinfo)> const all(found, &freeaddrinfo);
  std::vector<PeerAddress> addresses;
  for (addrinfo const* at = found; at != nullptr; at = at->ai_next) {
    PeerAddress address;
    address.bytes = at->ai_addrlen;
    std::memcpy(&address.address, at->ai_addr, at->ai_addrlen);
    addresses.push_back(address);
  }
  return addresses;
}

}  // namespace

std::pair<std::string, std::string> split_peer(std::string const& peer) {
  auto const colon = peer.rfind(':');
  std::string host = peer.substr(0, colon);
  std::string const port = colon == std::string::npos ? "" : peer.substr(colon + 1);
  if (host.size() >= 2 && host.front() == '[' && host.back() == ']') {
    host = host.substr(1, host.size() - 2);
  } else if (host.find(':') != std::string::npos) {
    host.clear();  // a v6 address without brackets: where does it end?
  }
  bool const is_port = !port.empty() && port.size() <= 5 &&
                       port.find_first_not_of("0123456789") == std::string::npos &&
                       std::stoul(port) > 0 && std::stoul(port) <= 65535;
  KVBM_EXPECTS(!host.empty() && is_port, InvalidArgument,
               fmt::format("peer '{}' must be host:port or [v6 address]:port", peer));
  return {host, port};
}

PeerResolver::~PeerResolver() {
  {
    std::lock_guard const lock(mutex_);
    is_stopping_ = true;
  }
  wanted_changed_.notify_all();
  if (thread_.joinable()) { thread_.join(); }
}

std::optional<std::vector<PeerAddress>> PeerResolver::find(std::string const& peer) {
  if (auto numeric = look_up(peer, AI_NUMERICHOST)) { return numeric; }
  std::lock_guard const lock(mutex_);
  auto const known = known_.find(peer);
  if (known != known_.end() && Clock::now() < known->second.valid_until) {
    return known->second.addresses;
  }
  if (std::find(wanted_.begin(), wanted_.end(), peer) == wanted_.end()) {
    wanted_.push_back(peer);
    if (!thread_.joinable()) {
      thread_ = std::thread([this] { run(); });
    }
    wanted_changed_.notify_all();
  }
  return std::nullopt;
}

void PeerResolver::run() {
  pthread_setname_np(pthread_self(), "kvbm-resolver");
  std::unique_lock lock(mutex_);
  while (true) {
    wanted_changed_.wait(lock, [this] { return is_stopping_ || !wanted_.empty(); });
    if (is_stopping_) { return; }
    std::string const peer = wanted_.front();
    lock.unlock();
    auto addresses = look_up(peer, 0);
    lock.lock();
    std::erase(wanted_, peer);
    // That there is none is forgotten sooner: a peer that comes up gets its name then.
    auto const valid_for = addresses ? kAddressesValidFor : std::chrono::seconds(1);
    known_[peer] = {std::move(addresses).value_or(std::vector<PeerAddress>{}),
                    Clock::now() + valid_for};
  }
}

/// The conversation with one peer.
class PeerCalls::Call {
 public:
  Call(PeerCalls const& calls, std::string peer, Frame const& question)
      : calls_(calls), peer_(std::move(peer)), question_(question) {}

  [[nodiscard]] bool is_finished() const { return is_finished_; }
  /// The deadline of all calls passed.
  void end(Handler const& handler) const {
    if (is_asking_) { handler.on_failure(fmt::format("peer {}: no answer yet", peer_)); }
  }
  /// When step() is due though nothing happened on the socket.
  [[nodiscard]] Deadline::Clock::time_point due_at() const { return due_at_; }
  [[nodiscard]] pollfd wanted() const {
    if (stream_) { return {stream_->fd(), stream_->wanted_events(), 0}; }
    if (connecting_) { return {connecting_.get(), POLLOUT, 0}; }
    return {-1, 0, 0};
  }

  /// @return whether the whole call is at its end
  bool step(short events, Handler const& handler) {
    if (is_finished_) { return false; }
    try {
      auto frame = advance(events);
      return frame && follow(handler.on_answer(std::move(*frame)));
    } catch (TokenError const& error) {
      throw TokenError(fmt::format("peer {}: {}; all workers of one exchange need the same token",
                                   peer_, error.what()));
    } catch (Error const& error) {
      stream_.reset();
      connecting_.reset();
      return follow(handler.on_failure(fmt::format("peer {}: {}", peer_, error.what())));
    }
  }

 private:
  using Clock = Deadline::Clock;

  [[nodiscard]] bool is_due() const { return Clock::now() >= due_at_; }

  bool follow(Next next) {
    is_finished_ = next == Next::Finished;
    is_asking_ = false;
    Deadline const forever{milliseconds::max()};
    due_at_ = Clock::now() + pause_.next(forever);
    return next == Next::Stop;
  }

  std::optional<Frame> advance(short events) {
    if (!is_asking_) {
      if (!is_due()) {
        // A peer that closes while nothing is asked is connected to again at the next question.
        if (events != 0) { stream_.reset(); }
        return std::nullopt;
      }
      is_asking_ = true;
      is_question_sent_ = false;
      give_up_at_ = Clock::now() + calls_.io_timeout_;
      addresses_.clear();
    }
    if (!stream_) { connect(events); }
    if (stream_) {
      if (stream_->advance()) { give_up_at_ = Clock::now() + calls_.io_timeout_; }
      if (stream_->is_open() && !is_question_sent_) {
        stream_->send(question_.type, question_.payload);
        is_question_sent_ = true;
        stream_->advance();
      }
      if (auto frame = stream_->receive()) { return frame; }
    }
    if (Clock::now() >= give_up_at_) {
      throw TimeoutError(fmt::format("silent for {} ms", calls_.io_timeout_.count()));
    }
    if (stream_ || connecting_) { due_at_ = give_up_at_; }
    return std::nullopt;
  }

  void connect(short events) {
    if (addresses_.empty() && !connecting_) {
      auto found = calls_.resolver_.find(peer_);
      if (!found) {
        due_at_ = std::min(give_up_at_, Clock::now() + kPauseForResolver);
        return;
      }
      KVBM_EXPECTS(!found->empty(), Io, "its host name is unknown");
      addresses_ = std::move(*found);
      start_connecting();
      return;
    }
    if (!connecting_ || events == 0) { return; }
    int error = 0;
    socklen_t bytes = sizeof error;
    getsockopt(connecting_.get(), SOL_SOCKET, SO_ERROR, &error, &bytes);
    if (error != 0) {
      addresses_.erase(addresses_.begin());
      if (addresses_.empty()) { throw_error(ErrorCode::Io, describe_errno(error), error); }
      start_connecting();
      return;
    }
    stream_.emplace(std::move(connecting_), TcpStream::Role::Client, calls_.token_,
                    kMaxAnswerBytes);
  }

  void start_connecting() {
    auto const& to = addresses_.front();
    connecting_.reset(socket(to.address.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    KVBM_EXPECTS(connecting_, Io, fmt::format("socket: {}", describe_errno(errno)));
    int const on = 1;
    setsockopt(connecting_.get(), IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    // What it says besides EINPROGRESS, SO_ERROR or the first send say again.
    if (::connect(connecting_.get(), reinterpret_cast<sockaddr const*>(&to.address), to.bytes) !=
            0 &&
        errno != EINPROGRESS && errno != EINTR) {
      throw_error(ErrorCode::Io, describe_errno(errno), errno);
    }
  }

  PeerCalls const& calls_;
  std::string const peer_;
  Frame const& question_;
  std::vector<PeerAddress> addresses_;  // not tried yet, and the one that is being tried
  UniqueFd connecting_;
  std::optional<TcpStream> stream_;
  bool is_asking_ = false;
  bool is_question_sent_ = false;
  bool is_finished_ = false;
  Clock::time_point due_at_ = Clock::now();
  Clock::time_point give_up_at_{};
  GrowingPause pause_{milliseconds(10), milliseconds(500)};
};

void PeerCalls::run(std::vector<std::string> const& peers, Frame const& question,
                    Deadline const& deadline, Handler const& handler) const {
  std::vector<std::unique_ptr<Call>> calls;
  calls.reserve(peers.size());
  for (auto const& peer : peers) {
    calls.push_back(std::make_unique<Call>(*this, peer, question));
  }
  std::vector<pollfd> wanted(calls.size(), pollfd{-1, 0, 0});
  while (true) {
    for (std::size_t i = 0; i < calls.size(); ++i) {
      if (calls[i]->step(wanted[i].revents, handler)) { return; }
    }
    auto next = deadline.at();
    bool is_finished = true;
    for (std::size_t i = 0; i < calls.size(); ++i) {
      if (calls[i]->is_finished()) {
        wanted[i] = {-1, 0, 0};
        continue;
      }
      is_finished = false;
      wanted[i] = calls[i]->wanted();
      next = std::min(next, calls[i]->due_at());
    }
    if (is_finished) { return; }
    if (deadline.passed()) {
      for (auto const& call : calls) {
        call->end(handler);
      }
      return;
    }
    int const timeout_ms =
        static_cast<int>(std::min<std::int64_t>(Deadline(next).left().count(), 60'000));
    if (poll(wanted.data(), wanted.size(), timeout_ms) < 0) {
      KVBM_EXPECTS(errno == EINTR, Io, fmt::format("poll: {}", describe_errno(errno)));
      for (auto& one : wanted) {
        one.revents = 0;
      }
    }
  }
}

}  // namespace kvbm::remote
