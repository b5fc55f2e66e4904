// SPDX-License-Identifier: Apache-2.0
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <stdexcept>

#include "kvbm/testing/faulty_server.hpp"
#include "sockets.hpp"

namespace kvbm::testing {

namespace {

/// A connection to the other server, for one request.
class Upstream {
 public:
  explicit Upstream(int port) : fd_(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    sockaddr_in const address = loopback(port);
    if (connect(fd_, reinterpret_cast<sockaddr const*>(&address), sizeof address) != 0) {
      close(fd_);
      throw std::runtime_error("nobody listens upstream");
    }
  }
  ~Upstream() { close(fd_); }
  Upstream(Upstream const&) = delete;
  Upstream& operator=(Upstream const&) = delete;

  void send(std::string const& text) const { send_all(fd_, text.data(), text.size()); }
  /// @return false: the other side is through
  bool receive_more(std::string& text) const {
    std::array<char, 65536> buffer;
    ssize_t const got = recv(fd_, buffer.data(), buffer.size(), 0);
    if (got <= 0) { return false; }
    text.append(buffer.data(), static_cast<std::size_t>(got));
    return true;
  }

 private:
  int fd_;
};

class Forwarding final : public HttpService {
 public:
  explicit Forwarding(int port) : port_(port) {}

  HttpAnswer answer(HttpRequest const& request, std::string body, bool ignores_range) override {
    Upstream const upstream(port_);
    upstream.send(head_for(request, ignores_range) + body);
    std::string text;
    while (text.find("\r\n\r\n") == std::string::npos) {
      if (!upstream.receive_more(text)) { throw std::runtime_error("no answer from upstream"); }
    }
    auto const end = text.find("\r\n\r\n");
    HttpAnswer answer;
    auto const announced = parse_head(text.substr(0, end + 2), answer);
    std::string content = text.substr(end + 4);
    if (request.method == "HEAD") {
      answer.set_text(std::string(announced, ' '));  // of which only the length is sent
      return answer;
    }
    while (content.size() < announced && upstream.receive_more(content)) {}
    answer.set_text(std::move(content));
    return answer;
  }

 private:
  // As it came, since it is signed, but for what is between the two ends of a connection.
  static std::string head_for(HttpRequest const& request, bool ignores_range) {
    std::string head;
    for (std::size_t begin = 0; begin < request.head.size();) {
      auto const end = request.head.find("\r\n", begin) + 2;
      std::string const line = request.head.substr(begin, end - begin);
      std::string const name = lower(line.substr(0, line.find(':')));
      bool const is_left_out =
          name == "connection" || name == "expect" || (ignores_range && name == "range");
      if (!is_left_out) { head += line; }
      begin = end;
    }
    return head + "Connection: close\r\n\r\n";
  }

  /// @return the bytes of the body
  static std::size_t parse_head(std::string const& head, HttpAnswer& answer) {
    auto line_end = head.find("\r\n");
    answer.status = std::stoi(head.substr(head.find(' ') + 1, 3));
    std::size_t bytes = 0;
    for (auto begin = line_end + 2; begin < head.size(); begin = line_end + 2) {
      line_end = head.find("\r\n", begin);
      std::string const line = head.substr(begin, line_end - begin);
      auto const colon = line.find(':');
      std::string const name = line.substr(0, colon);
      std::string const value = line.substr(line.find_first_not_of(' ', colon + 1));
      if (lower(name) == "content-length") {
        bytes = std::stoull(value);
      } else if (lower(name) != "connection") {
        answer.headers.emplace_back(name, value);
      }
    }
    return bytes;
  }

  int port_;
};

int port_of(std::string const& endpoint) {
  return std::stoi(endpoint.substr(endpoint.rfind(':') + 1));
}

}  // namespace

FaultProxy::FaultProxy(std::string const& upstream)
    : FaultyServer(std::make_shared<Forwarding>(port_of(upstream))) {}

}  // namespace kvbm::testing
