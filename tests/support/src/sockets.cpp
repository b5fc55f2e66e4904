// SPDX-License-Identifier: Apache-2.0
#include "sockets.hpp"

#include <sys/socket.h>
#include <unistd.h>

#include <cctype>
#include <stdexcept>

#include "kvbm/testing/object_server.hpp"

namespace kvbm::testing {

sockaddr_in loopback(int port) {
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<std::uint16_t>(port));
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  return address;
}

int listen_on(int port, int& bound) {
  int const fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  int const on = 1;
  setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  sockaddr_in address = loopback(port);
  socklen_t bytes = sizeof address;
  if (bind(fd, reinterpret_cast<sockaddr*>(&address), bytes) != 0 || listen(fd, 1024) != 0 ||
      getsockname(fd, reinterpret_cast<sockaddr*>(&address), &bytes) != 0) {
    close(fd);
    throw std::runtime_error("no server on loopback");
  }
  bound = ntohs(address.sin_port);
  return fd;
}

void reset_connection(int fd) {
  linger const now{1, 0};
  setsockopt(fd, SOL_SOCKET, SO_LINGER, &now, sizeof now);
}

bool send_all(int fd, char const* data, std::size_t bytes) {
  while (bytes > 0) {
    ssize_t const sent = ::send(fd, data, bytes, MSG_NOSIGNAL);
    if (sent <= 0) { return false; }
    data += sent;
    bytes -= static_cast<std::size_t>(sent);
  }
  return true;
}

std::string lower(std::string text) {
  for (char& c : text) {
    c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  }
  return text;
}

int closed_port() {
  int port = 0;
  close(listen_on(0, port));
  return port;
}

}  // namespace kvbm::testing
