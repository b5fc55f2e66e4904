// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

namespace kvbm::remote::test {

inline sockaddr_in loopback(int port) {
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<std::uint16_t>(port));
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  return address;
}

/// A connection to loopback, -1 when it is refused.
inline int connect_to(int port) {
  int const fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in const address = loopback(port);
  if (connect(fd, reinterpret_cast<sockaddr const*>(&address), sizeof address) == 0) { return fd; }
  close(fd);
  return -1;
}

/// The port in "host:port".
inline int port_of(std::string const& address) {
  return std::stoi(address.substr(address.rfind(':') + 1));
}

/// Everything until the other side closes.
inline std::string read_to_end(int fd) {
  std::string all;
  std::array<char, 4096> buffer{};
  for (ssize_t got = 1; got > 0;) {
    got = read(fd, buffer.data(), buffer.size());
    if (got > 0) { all.append(buffer.data(), static_cast<std::size_t>(got)); }
  }
  return all;
}

/// Listens on loopback, greets, says one thing to whatever it is told, and closes; without words it
/// keeps silent.
class RawServer {
 public:
  RawServer(std::string greeting, std::string answer)
      : greeting_(std::move(greeting)), answer_(std::move(answer)) {
    listening_ = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    sockaddr_in address = loopback(0);
    socklen_t bytes = sizeof address;
    if (bind(listening_, reinterpret_cast<sockaddr*>(&address), bytes) != 0 ||
        listen(listening_, 16) != 0 ||
        getsockname(listening_, reinterpret_cast<sockaddr*>(&address), &bytes) != 0) {
      throw std::runtime_error("no server on loopback");
    }
    port_ = ntohs(address.sin_port);
    stop_ = eventfd(0, EFD_CLOEXEC);
    thread_ = std::thread([this] { run(); });
  }
  ~RawServer() {
    eventfd_write(stop_, 1);
    thread_.join();
    for (int const fd : connections_) {
      close(fd);
    }
    close(listening_);
    close(stop_);
  }
  RawServer(RawServer const&) = delete;
  RawServer& operator=(RawServer const&) = delete;

  [[nodiscard]] std::string address() const { return "127.0.0.1:" + std::to_string(port_); }

 private:
  bool wait_for(int fd) const {
    std::array<pollfd, 2> wanted = {pollfd{stop_, POLLIN, 0}, pollfd{fd, POLLIN, 0}};
    poll(wanted.data(), wanted.size(), -1);
    return wanted[0].revents == 0;
  }
  static void say(int fd, std::string const& text) {
    static_cast<void>(send(fd, text.data(), text.size(), MSG_NOSIGNAL));
  }
  void run() {
    while (wait_for(listening_)) {
      int const fd = accept4(listening_, nullptr, nullptr, SOCK_CLOEXEC);
      if (fd < 0) { continue; }
      say(fd, greeting_);
      if (answer_.empty()) {
        connections_.push_back(fd);
        continue;
      }
      if (!wait_for(fd)) {
        close(fd);
        return;
      }
      std::array<char, 65536> request{};
      static_cast<void>(read(fd, request.data(), request.size()));
      say(fd, answer_);
      close(fd);
    }
  }

  std::string greeting_;
  std::string answer_;
  int listening_ = -1;
  int stop_ = -1;
  int port_ = 0;
  std::vector<int> connections_;
  std::thread thread_;
};

}  // namespace kvbm::remote::test
