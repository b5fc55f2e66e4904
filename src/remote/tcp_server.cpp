// SPDX-License-Identifier: Apache-2.0
#include "remote/tcp_server.hpp"

#include <fmt/format.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <sys/eventfd.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <utility>

#include "kvbm/core/log.hpp"
#include "remote/exchange_common.hpp"

namespace kvbm::remote {
namespace {

// A request is a name.
constexpr std::size_t kMaxRequestBytes = kMaxExchangeNameLength;
// Nobody may take longer to read an answer than at this rate, besides the timeout.
constexpr std::size_t kSlowestBytesPerMs = 1000;
constexpr std::chrono::milliseconds kPauseWithoutSockets{100};
constexpr std::chrono::seconds kPauseBetweenComplaints{10};

std::vector<std::byte> to_bytes(std::string_view text) {
  auto const bytes = std::as_bytes(std::span(text.data(), text.size()));
  return {bytes.begin(), bytes.end()};
}

}  // namespace

std::string describe_address(void const* socket_address, std::size_t bytes) {
  std::array<char, NI_MAXHOST> host{};
  std::array<char, NI_MAXSERV> port{};
  auto const* const address = static_cast<sockaddr const*>(socket_address);
  if (getnameinfo(address, static_cast<socklen_t>(bytes), host.data(), host.size(), port.data(),
                  port.size(), NI_NUMERICHOST | NI_NUMERICSERV) != 0) {
    return "unknown";
  }
  std::string const name = host.data();
  return name.find(':') == std::string::npos ? fmt::format("{}:{}", name, port.data())
                                             : fmt::format("[{}]:{}", name, port.data());
}

Shelf::Entry Shelf::find(std::string_view name) const {
  std::lock_guard const lock(mutex_);
  auto const entry = entries_.find(name);
  return entry == entries_.end() ? Entry{} : entry->second;
}

std::vector<std::string> Shelf::published() const {
  std::lock_guard const lock(mutex_);
  std::vector<std::string> names;
  for (auto const& [name, entry] : entries_) {
    if (entry.state == NameState::Published) { names.push_back(name); }
  }
  return names;
}

void Shelf::claim(std::string const& name) {
  std::lock_guard const lock(mutex_);
  entries_.try_emplace(name, Entry{NameState::Claimed, nullptr});
}

void Shelf::publish(std::string const& name, Blob metadata) {
  std::lock_guard const lock(mutex_);
  entries_.insert_or_assign(name, Entry{NameState::Published, std::move(metadata)});
}

void Shelf::remove(std::string const& name) {
  std::lock_guard const lock(mutex_);
  entries_.erase(name);
}

TcpServer::TcpServer(Options options, SecretKey const& token, Shelf const& shelf)
    : options_(std::move(options)),
      token_(token),
      shelf_(shelf),
      wake_(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {
  KVBM_EXPECTS(wake_, Io, fmt::format("eventfd: {}", describe_errno(errno)));
  listen();
  thread_ = std::thread([this] { run(); });
}

TcpServer::~TcpServer() {
  std::uint64_t const one = 1;
  while (write(wake_.get(), &one, sizeof one) < 0 && errno == EINTR) {}
  thread_.join();
}

void TcpServer::listen() {
  addrinfo hints{};
  hints.ai_flags = AI_NUMERICHOST | AI_NUMERICSERV | AI_PASSIVE;
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* found = nullptr;
  std::string const port = std::to_string(options_.port);
  int const refusal = getaddrinfo(options_.bind_address.c_str(), port.c_str(), &hints, &found);
  KVBM_EXPECTS(refusal == 0, InvalidArgument,
               fmt::format("bind_address '{}' is no numeric address (as 10.0.0.5 or ::1): {}",
                           options_.bind_address, gai_strerror(refusal)));
  std::unique_ptr<addrinfo, decltype(&freeaddrinfo)> const address(found, &freeaddrinfo);

  listening_.reset(socket(address->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  int const on = 1;
  // A worker that is started again must not wait for its former connections to time out.
  bool const is_bound =
      listening_ && setsockopt(listening_.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) == 0 &&
      bind(listening_.get(), address->ai_addr, address->ai_addrlen) == 0 &&
      ::listen(listening_.get(), SOMAXCONN) == 0;
  KVBM_EXPECTS(is_bound, Io,
               fmt::format("bind_address {} port {}: {}", options_.bind_address, options_.port,
                           describe_errno(errno)));
  sockaddr_storage bound{};
  socklen_t bytes = sizeof bound;
  getsockname(listening_.get(), reinterpret_cast<sockaddr*>(&bound), &bytes);
  address_ = describe_address(&bound, bytes);
}

void TcpServer::run() {
  pthread_setname_np(pthread_self(), "kvbm-exchange");
  while (true) {
    std::uint64_t count = 0;
    if (read(wake_.get(), &count, sizeof count) > 0) { return; }
    try {
      run_once();
    } catch (std::exception const& error) {
      // Out of memory: whoever is connected can come again.
      connections_.clear();
      complain(error.what());
    }
  }
}

void TcpServer::run_once() {
  auto const now = Clock::now();
  bool const may_accept = now >= accept_again_;
  std::vector<pollfd> wanted;
  wanted.push_back({wake_.get(), POLLIN, 0});
  wanted.push_back({may_accept ? listening_.get() : -1, POLLIN, 0});
  auto next = may_accept ? Clock::time_point::max() : accept_again_;
  for (auto const& connection : connections_) {
    wanted.push_back({connection.stream.fd(), connection.stream.wanted_events(), 0});
    next = std::min(next, connection.drop_at);
  }
  int timeout_ms = -1;
  if (next != Clock::time_point::max()) {
    timeout_ms = static_cast<int>(std::min<std::int64_t>(Deadline(next).left().count(), 60'000));
  }
  if (poll(wanted.data(), wanted.size(), timeout_ms) < 0) { return; }

  std::size_t i = 2;
  for (auto at = connections_.begin(); at != connections_.end(); ++i) {
    at = serve(*at, wanted[i].revents) ? std::next(at) : connections_.erase(at);
  }
  if (wanted[1].revents != 0) { accept_all(); }
}

void TcpServer::accept_all() {
  while (true) {
    sockaddr_storage from{};
    socklen_t bytes = sizeof from;
    UniqueFd socket(accept4(listening_.get(), reinterpret_cast<sockaddr*>(&from), &bytes,
                            SOCK_CLOEXEC | SOCK_NONBLOCK));
    if (!socket) {
      // Without a free descriptor the listening socket stays readable: do not spin on it.
      if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM) {
        accept_again_ = Clock::now() + kPauseWithoutSockets;
        complain(fmt::format("no connection can be accepted: {}", describe_errno(errno)));
      }
      if (errno == EINTR || errno == ECONNABORTED) { continue; }
      return;
    }
    std::string const who = describe_address(&from, bytes);
    if (connections_.size() >= options_.max_connections) {
      complain(fmt::format("{} is turned away: {} connections (max_connections) are open", who,
                           connections_.size()));
      continue;
    }
    int const on = 1;
    setsockopt(socket.get(), IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    connections_.push_back(
        {TcpStream(std::move(socket), TcpStream::Role::Server, token_, kMaxRequestBytes), who,
         Clock::now() + options_.io_timeout, false});
  }
}

bool TcpServer::serve(Connection& connection, short events) {
  auto const now = Clock::now();
  try {
    if (events != 0) {
      bool const was_open = connection.stream.is_open();
      connection.stream.advance();
      if (!was_open && connection.stream.is_open()) {
        connection.drop_at = now + options_.io_timeout;
      }
    }
    if (connection.is_answering && connection.stream.is_flushed()) {
      connection.is_answering = false;
      connection.drop_at = now + options_.io_timeout;
    }
    if (!connection.is_answering) {
      if (auto const request = connection.stream.receive()) {
        answer(connection, *request);
        return true;
      }
    }
    return now < connection.drop_at;
  } catch (TokenError const& error) {
    complain(fmt::format("{}: {}", connection.from, error.what()));
  } catch (Error const& error) {
    // Clients go when they have what they wanted.
    if (error.code() != ErrorCode::Io) {
      complain(fmt::format("{}: {}", connection.from, error.what()));
    }
  }
  return false;
}

void TcpServer::answer(Connection& connection, Frame const& request) {
  std::string const name(reinterpret_cast<char const*>(request.payload.data()),
                         request.payload.size());
  bool const is_list = request.type == Frame::Type::List;
  if (!is_list && !is_exchange_name(name)) {
    throw CorruptError("it asked for an impossible name");
  }
  std::size_t bytes = 0;
  if (request.type == Frame::Type::Fetch) {
    auto const entry = shelf_.find(name);
    if (entry.state == NameState::Published) {
      bytes = entry.metadata->size();
      connection.stream.send(Frame::Type::Found, entry.metadata);
    } else {
      connection.stream.send(Frame::Type::Absent, std::vector<std::byte>{});
    }
  } else if (request.type == Frame::Type::Look) {
    std::vector<std::byte> state(1 + sizeof options_.owner_id);
    state[0] = static_cast<std::byte>(shelf_.find(name).state);
    std::memcpy(state.data() + 1, &options_.owner_id, sizeof options_.owner_id);
    connection.stream.send(Frame::Type::State, std::move(state));
  } else if (is_list) {
    std::string names;
    for (auto const& known : shelf_.published()) {
      names += known + '\n';
    }
    bytes = names.size();
    connection.stream.send(Frame::Type::Names, to_bytes(names));
  } else {
    throw CorruptError(
        fmt::format("it sent a message of unknown type {}", static_cast<int>(request.type)));
  }
  connection.is_answering = true;
  connection.drop_at =
      Clock::now() + options_.io_timeout + std::chrono::milliseconds(bytes / kSlowestBytesPerMs);
}

void TcpServer::complain(std::string const& message) {
  // Whoever can connect could fill the log.
  auto const now = Clock::now();
  if (now < complain_again_) { return; }
  complain_again_ = now + kPauseBetweenComplaints;
  log::write(log::Level::Warning, fmt::format("metadata exchange on {}: {}", address_, message));
}

}  // namespace kvbm::remote
