// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "remote/tcp_stream.hpp"

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <list>
#include <map>
#include <mutex>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

namespace kvbm::remote {

/// What one exchange publishes. Thread-safe.
class Shelf {
 public:
  struct Entry {
    NameState state = NameState::Absent;
    Blob metadata{};
  };

  [[nodiscard]] Entry find(std::string_view name) const;
  [[nodiscard]] std::vector<std::string> published() const;
  /// Puts the name down as being taken.
  void claim(std::string const& name);
  void publish(std::string const& name, Blob metadata);
  void remove(std::string const& name);

 private:
  mutable std::mutex mutex_;
  std::map<std::string, Entry, std::less<>> entries_;  // guarded by mutex_
};

/// Serves a shelf to whoever knows the token, on one thread.
class TcpServer {
 public:
  struct Options {
    std::string bind_address;
    std::uint16_t port = 0;
    std::size_t max_connections = 0;
    std::chrono::milliseconds io_timeout{};
    std::uint64_t owner_id = 0;  ///< what Look answers
  };

  /// `token` and `shelf` must live as long as this. @throws Error(InvalidArgument), Error(Io)
  TcpServer(Options options, SecretKey const& token, Shelf const& shelf);
  ~TcpServer();
  TcpServer(TcpServer const&) = delete;
  TcpServer& operator=(TcpServer const&) = delete;

  [[nodiscard]] std::string const& address() const noexcept { return address_; }

 private:
  using Clock = std::chrono::steady_clock;
  struct Connection {
    TcpStream stream;
    std::string from;
    Clock::time_point drop_at;  // unless the handshake, a request or an answer is through by then
    bool is_answering = false;
  };

  void listen();
  void run();
  void run_once();
  void accept_all();
  /// Whether it may stay.
  [[nodiscard]] bool serve(Connection& connection, short events);
  void answer(Connection& connection, Frame const& request);
  void complain(std::string const& message);

  Options const options_;
  SecretKey const& token_;
  Shelf const& shelf_;
  UniqueFd listening_;
  UniqueFd wake_;
  std::string address_;
  std::list<Connection> connections_;  // the thread's, as are the next ones
  Clock::time_point accept_again_{};
  Clock::time_point complain_again_{};
  std::thread thread_;
};

/// "1.2.3.4:80", "[::1]:80" of a sockaddr.
std::string describe_address(void const* socket_address, std::size_t bytes);

}  // namespace kvbm::remote
