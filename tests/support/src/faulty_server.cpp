// SPDX-License-Identifier: Apache-2.0
#include "kvbm/testing/faulty_server.hpp"

#include <netinet/tcp.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <mutex>
#include <optional>
#include <thread>

#include "http_text.hpp"
#include "sockets.hpp"

namespace kvbm::testing {

void HttpAnswer::set_text(std::string text) {
  first = 0;
  bytes = text.size();
  whole = std::make_shared<std::string const>(std::move(text));
}

HttpAnswer s3_error(int status, std::string code) {
  if (code.empty()) {
    switch (status) {
      case 403: code = "SignatureDoesNotMatch"; break;
      case 404: code = "NoSuchKey"; break;
      case 416: code = "InvalidRange"; break;
      case 500: code = "InternalError"; break;
      case 503: code = "SlowDown"; break;
      default: code = "SomethingElse"; break;
    }
  }
  HttpAnswer answer;
  answer.status = status;
  answer.set_text("<?xml version=\"1.0\"?><Error><Code>" + code +
                  "</Code><Message>the test &amp; its server say so</Message></Error>");
  return answer;
}

class FaultyServer::Impl {
 public:
  Impl(std::shared_ptr<HttpService> service, int port) : service_(std::move(service)) {
    listening_ = listen_on(port, port_);
    stop_ = eventfd(0, EFD_CLOEXEC);
    thread_ = std::thread([this] { accept_all(); });
  }

  ~Impl() {
    eventfd_write(stop_, 1);
    thread_.join();
    for (auto& thread : connections_) {
      thread.join();
    }
    close(listening_);
    close(stop_);
  }
  Impl(Impl const&) = delete;
  Impl& operator=(Impl const&) = delete;

  int port_ = 0;
  mutable std::mutex mutex_;
  std::vector<ObjectFault> faults_;
  std::function<void(std::string const&, std::string const&)> hook_;
  std::vector<std::string> log_;
  HttpRequest last_;
  std::size_t num_connections_ = 0;
  std::size_t most_at_once_ = 0;

 private:
  /// A connection: what was read and not yet used.
  struct Stream {
    int fd;
    std::string buffer;
  };

  /// @return whether there is something to read; false: the server stops
  bool wait_for(int fd, int timeout_ms = -1) const {
    std::array<pollfd, 2> wanted = {pollfd{stop_, POLLIN, 0}, pollfd{fd, POLLIN, 0}};
    poll(wanted.data(), fd < 0 ? 1 : 2, timeout_ms);
    return wanted[0].revents == 0;
  }

  void accept_all() {
    while (wait_for(listening_)) {
      int const fd = accept4(listening_, nullptr, nullptr, SOCK_CLOEXEC);
      if (fd < 0) { continue; }
      int const on = 1;
      setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
      {
        std::lock_guard const lock(mutex_);
        ++num_connections_;
      }
      connections_.emplace_back([this, fd] {
        Stream stream{fd, {}};
        try {
          while (serve(stream)) {}
        } catch (std::exception const&) {}  // what came was no HTTP
        close(fd);
      });
    }
  }

  bool receive(Stream& stream, std::size_t least) const {
    std::size_t have = stream.buffer.size();
    if (have >= least) { return true; }
    stream.buffer.resize(std::max(least, have + 65536));
    while (have < least) {
      if (!wait_for(stream.fd)) { return false; }
      ssize_t const got =
          recv(stream.fd, stream.buffer.data() + have, stream.buffer.size() - have, 0);
      if (got <= 0) { return false; }
      have += static_cast<std::size_t>(got);
    }
    stream.buffer.resize(have);
    return true;
  }

  bool read_head(Stream& stream, HttpRequest& request) const {
    auto end = stream.buffer.find("\r\n\r\n");
    while (end == std::string::npos) {
      if (!receive(stream, stream.buffer.size() + 1)) { return false; }
      end = stream.buffer.find("\r\n\r\n");
    }
    std::string const head = stream.buffer.substr(0, end + 2);
    request.head = head;
    stream.buffer.erase(0, end + 4);
    auto line_end = head.find("\r\n");
    std::string const first = head.substr(0, line_end);
    auto const space = first.find(' ');
    request.method = first.substr(0, space);
    std::string const target = first.substr(space + 1, first.rfind(' ') - space - 1);
    auto const mark = target.find('?');
    request.path = decode(target.substr(0, mark));
    if (mark != std::string::npos) { request.query = target.substr(mark + 1); }
    for (auto begin = line_end + 2; begin < head.size(); begin = line_end + 2) {
      line_end = head.find("\r\n", begin);
      std::string const line = head.substr(begin, line_end - begin);
      auto const colon = line.find(':');
      auto const value = line.find_first_not_of(' ', colon + 1);
      request.headers[lower(line.substr(0, colon))] =
          value == std::string::npos ? std::string() : line.substr(value);
    }
    std::string const length = request.header("content-length");
    request.body_bytes = length.empty() ? 0 : std::stoull(length);
    return true;
  }

  std::optional<ObjectFault> take_fault(HttpRequest const& request) {
    std::lock_guard const lock(mutex_);
    log_.push_back(request.method + " " + request.path +
                   (request.query.empty() ? "" : "?" + request.query));
    last_ = request;
    for (auto& fault : faults_) {
      bool const fits = (fault.method.empty() || fault.method == request.method) &&
                        request.path.find(fault.path_part) != std::string::npos;
      if (fits && fault.times > 0) {
        --fault.times;
        return fault;
      }
    }
    return std::nullopt;
  }

  bool serve(Stream& stream) {
    HttpRequest request;
    if (!read_head(stream, request)) { return false; }
    std::size_t const now = ++at_once_;
    struct Leave {
      explicit Leave(std::atomic<std::size_t>& entered) : count(entered) {}
      ~Leave() { --count; }
      Leave(Leave const&) = delete;
      Leave& operator=(Leave const&) = delete;
      std::atomic<std::size_t>& count;
    } const leave(at_once_);
    auto const fault = take_fault(request);
    std::function<void(std::string const&, std::string const&)> hook;
    {
      std::lock_guard const lock(mutex_);
      most_at_once_ = std::max(most_at_once_, now);
      hook = hook_;
    }
    if (hook) { hook(request.method, request.path); }
    using Kind = ObjectFault::Kind;
    if (fault && fault->kind == Kind::ResetBody) {
      receive(stream, request.body_bytes / 2);
      reset_connection(stream.fd);
      return false;
    }
    // Clients that ask for it would wait a second for the word.
    if (request.header("expect") == "100-continue") {
      send_text(stream.fd, "HTTP/1.1 100 Continue\r\n\r\n");
    }
    if (!receive(stream, request.body_bytes)) { return false; }
    std::string body = stream.buffer.substr(0, request.body_bytes);
    stream.buffer.erase(0, request.body_bytes);
    if (fault) {
      switch (fault->kind) {
        case Kind::Reset: reset_connection(stream.fd); return false;
        case Kind::Silence:
          // Until the client hangs up.
          while (wait_for(stream.fd)) {
            std::array<char, 64> rest{};
            if (recv(stream.fd, rest.data(), rest.size(), 0) <= 0) { break; }
          }
          return false;
        case Kind::Garbage: send_text(stream.fd, "220 mail.example ESMTP\r\n\r\n"); return false;
        case Kind::Delay:
          if (!wait_for(-1, static_cast<int>(fault->delay.count()))) { return false; }
          break;
        case Kind::Status: return send(stream.fd, request, s3_error(fault->number), {});
        case Kind::LateError: {
          HttpAnswer late = s3_error(500);
          late.status = 200;
          return send(stream.fd, request, late, {});
        }
        default: break;
      }
    }
    bool const ignores_range = fault && fault->kind == Kind::NoRange;
    return send(stream.fd, request, service_->answer(request, std::move(body), ignores_range),
                fault);
  }

  static void send_text(int fd, std::string const& text) { send_all(fd, text.data(), text.size()); }

  bool send(int fd, HttpRequest const& request, HttpAnswer const& answer,
            std::optional<ObjectFault> const& fault) {
    using Kind = ObjectFault::Kind;
    char const* body = answer.whole ? answer.whole->data() + answer.first : "";
    std::size_t announced = answer.bytes;
    std::size_t sent_bytes = answer.bytes;
    std::string copy;
    bool closes = false;
    if (fault) {
      auto const number = static_cast<std::size_t>(fault->number);
      copy.assign(body, answer.bytes);
      switch (fault->kind) {
        case Kind::Truncate:
          sent_bytes = std::min(number, sent_bytes);
          closes = true;
          break;
        case Kind::Stall: sent_bytes /= 2; break;
        case Kind::Shorten: copy.resize(announced - number); break;
        case Kind::Lengthen: copy.append(number, 'x'); break;
        case Kind::Corrupt: copy.at(number) = static_cast<char>(copy.at(number) ^ 1); break;
        default: break;
      }
      if (fault->kind == Kind::Shorten || fault->kind == Kind::Lengthen) {
        announced = sent_bytes = copy.size();
      }
      body = copy.data();
    }
    std::string head = "HTTP/1.1 " + std::to_string(answer.status) + " Text\r\n";
    for (auto const& [name, value] : answer.headers) {
      head += name + ": " + value + "\r\n";
    }
    if (answer.status != 204) { head += "Content-Length: " + std::to_string(announced) + "\r\n"; }
    head += "\r\n";
    bool works = send_all(fd, head.data(), head.size());
    if (request.method != "HEAD") { works = works && send_all(fd, body, sent_bytes); }
    if (fault && fault->kind == Kind::Stall) {
      std::array<char, 64> rest{};
      while (wait_for(fd) && recv(fd, rest.data(), rest.size(), 0) > 0) {}
      return false;
    }
    return works && !closes;
  }

  std::shared_ptr<HttpService> service_;
  int listening_ = -1;
  int stop_ = -1;
  std::atomic<std::size_t> at_once_{0};
  std::vector<std::thread> connections_;  // of the accepting thread
  std::thread thread_;
};

FaultyServer::FaultyServer(std::shared_ptr<HttpService> service, int port)
    : impl_(std::make_unique<Impl>(std::move(service), port)) {}
FaultyServer::~FaultyServer() = default;

std::string FaultyServer::endpoint() const {
  return "http://127.0.0.1:" + std::to_string(impl_->port_);
}
int FaultyServer::port() const noexcept { return impl_->port_; }

void FaultyServer::add_fault(ObjectFault fault) {
  std::lock_guard const lock(impl_->mutex_);
  impl_->faults_.push_back(std::move(fault));
}
void FaultyServer::clear_faults() {
  std::lock_guard const lock(impl_->mutex_);
  impl_->faults_.clear();
}
void FaultyServer::on_request(
    std::function<void(std::string const& method, std::string const& path)> hook) {
  std::lock_guard const lock(impl_->mutex_);
  impl_->hook_ = std::move(hook);
}

std::vector<std::string> FaultyServer::requests() const {
  std::lock_guard const lock(impl_->mutex_);
  return impl_->log_;
}
std::size_t FaultyServer::num_requests(std::string_view method) const {
  std::lock_guard const lock(impl_->mutex_);
  return static_cast<std::size_t>(
      std::count_if(impl_->log_.begin(), impl_->log_.end(), [method](std::string const& line) {
        return line.substr(0, method.size() + 1) == std::string(method) + " ";
      }));
}
std::size_t FaultyServer::num_connections() const {
  std::lock_guard const lock(impl_->mutex_);
  return impl_->num_connections_;
}
std::size_t FaultyServer::most_at_once() const {
  std::lock_guard const lock(impl_->mutex_);
  return impl_->most_at_once_;
}
std::string FaultyServer::last_header(std::string const& name) const {
  std::lock_guard const lock(impl_->mutex_);
  return impl_->last_.header(name);
}

}  // namespace kvbm::testing
