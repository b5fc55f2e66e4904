// SPDX-License-Identifier: Apache-2.0
#include "kvbm/testing/object_server.hpp"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstring>
#include <map>
#include <mutex>
#include <optional>
#include <stdexcept>
#include <thread>

namespace kvbm::testing {

namespace {

struct Request {
  std::string method;
  std::string path;   // decoded
  std::string query;  // as it came
  std::map<std::string, std::string> headers;
  std::uint64_t body_bytes = 0;

  [[nodiscard]] std::string header(std::string const& name) const {
    auto const found = headers.find(name);
    return found == headers.end() ? std::string() : found->second;
  }
};

struct Answer {
  int status = 200;
  std::vector<std::pair<std::string, std::string>> headers;
  std::shared_ptr<ObjectServer::Object const> object;  // where the body is one, or a part of it
  std::string text;
  std::size_t first = 0;
  std::size_t bytes = 0;
};

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

std::string decode(std::string_view text) {
  std::string plain;
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '%' && i + 2 < text.size()) {
      plain += static_cast<char>(std::stoi(std::string(text.substr(i + 1, 2)), nullptr, 16));
      i += 2;
    } else {
      plain += text[i];
    }
  }
  return plain;
}

std::string encode(std::string_view text) {
  std::string encoded;
  for (char const c : text) {
    bool const is_plain = std::isalnum(static_cast<unsigned char>(c)) != 0 ||
                          std::string_view("-._~/").find(c) != std::string_view::npos;
    if (is_plain) {
      encoded += c;
    } else {
      std::array<char, 4> hex{};
      std::snprintf(hex.data(), hex.size(), "%%%02X", static_cast<unsigned char>(c));
      encoded += hex.data();
    }
  }
  return encoded;
}

std::string query_value(std::string const& query, std::string const& name) {
  std::string const all = "&" + query;
  auto const found = all.find("&" + name + "=");
  if (found == std::string::npos) { return {}; }
  auto const begin = found + name.size() + 2;
  return decode(all.substr(begin, all.find('&', begin) - begin));
}

std::string lower(std::string text) {
  for (char& c : text) {
    c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  }
  return text;
}

void reset_connection(int fd) {
  linger const now{1, 0};
  setsockopt(fd, SOL_SOCKET, SO_LINGER, &now, sizeof now);
}

}  // namespace

class ObjectServer::Impl {
 public:
  Impl(std::string bucket, int port) : bucket_(std::move(bucket)) {
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
  std::map<std::string, std::shared_ptr<Object const>> objects_;
  std::vector<ObjectFault> faults_;
  std::function<void(std::string const&, std::string const&)> hook_;
  std::vector<std::string> log_;
  Request last_;
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

  bool read_head(Stream& stream, Request& request) const {
    auto end = stream.buffer.find("\r\n\r\n");
    while (end == std::string::npos) {
      if (!receive(stream, stream.buffer.size() + 1)) { return false; }
      end = stream.buffer.find("\r\n\r\n");
    }
    std::string const head = stream.buffer.substr(0, end + 2);
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

  std::optional<ObjectFault> take_fault(Request const& request) {
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
    Request request;
    if (!read_head(stream, request)) { return false; }
    std::size_t const now = ++at_once_;
    struct Leave {
      std::atomic<std::size_t>& count;
      ~Leave() { --count; }
    } const leave{at_once_};
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
        case Kind::Status: return send(stream.fd, request, error_answer(fault->number), {});
        default: break;
      }
    }
    bool const ignores_range = fault && fault->kind == Kind::NoRange;
    return send(stream.fd, request, answer(request, std::move(body), ignores_range), fault);
  }

  static Answer error_answer(int status, std::string code = {}) {
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
    Answer answer;
    answer.status = status;
    answer.text = "<?xml version=\"1.0\"?><Error><Code>" + code +
                  "</Code><Message>the test &amp; its server say so</Message></Error>";
    answer.bytes = answer.text.size();
    return answer;
  }

  Answer answer(Request const& request, std::string body, bool ignores_range) {
    std::string const front = "/" + bucket_;
    bool const is_ours = request.path.substr(0, front.size()) == front &&
                         (request.path.size() == front.size() || request.path[front.size()] == '/');
    if (!is_ours) { return error_answer(404, "NoSuchBucket"); }
    std::string const key =
        request.path.size() > front.size() + 1 ? request.path.substr(front.size() + 1) : "";
    std::lock_guard const lock(mutex_);
    if (key.empty()) { return request.method == "GET" ? list(request) : Answer{}; }
    if (request.method == "PUT") {
      auto object = std::make_shared<Object>();
      object->body = std::move(body);
      for (auto const& [name, value] : request.headers) {
        if (name.substr(0, 11) == "x-amz-meta-") { object->metadata.emplace_back(name, value); }
      }
      objects_[key] = std::move(object);
      return {};
    }
    if (request.method == "DELETE") {
      objects_.erase(key);
      Answer none;
      none.status = 204;
      return none;
    }
    auto const found = objects_.find(key);
    if (found == objects_.end()) { return error_answer(404); }
    Answer answer;
    answer.object = found->second;
    answer.headers = found->second->metadata;
    answer.bytes = found->second->body.size();
    std::string const range = request.header("range");
    if (range.empty() || ignores_range) { return answer; }
    auto const dash = range.find('-');
    std::size_t const first = std::stoull(range.substr(6, dash - 6));
    std::size_t const last = std::min<std::size_t>(std::stoull(range.substr(dash + 1)),
                                                   answer.bytes == 0 ? 0 : answer.bytes - 1);
    if (first >= answer.bytes) { return error_answer(416); }
    answer.status = 206;
    answer.headers.emplace_back("Content-Range", "bytes " + std::to_string(first) + "-" +
                                                     std::to_string(last) + "/" +
                                                     std::to_string(answer.bytes));
    answer.first = first;
    answer.bytes = last - first + 1;
    return answer;
  }

  // Pages of three, so that a few objects make several.
  [[nodiscard]] Answer list(Request const& request) const {
    constexpr std::size_t kPage = 3;
    std::string const prefix = query_value(request.query, "prefix");
    std::string const token = query_value(request.query, "continuation-token");
    std::string text;
    std::string last;
    std::size_t count = 0;
    bool is_truncated = false;
    for (auto const& [key, object] : objects_) {
      if (key.substr(0, prefix.size()) != prefix || key <= token) { continue; }
      if (count == kPage) {
        is_truncated = true;
        break;
      }
      text += "<Contents><Key>" + encode(key) + "</Key><Size>" +
              std::to_string(object->body.size()) + "</Size></Contents>";
      last = key;
      ++count;
    }
    Answer answer;
    answer.text = "<ListBucketResult><IsTruncated>" + std::string(is_truncated ? "true" : "false") +
                  "</IsTruncated>" + text;
    if (is_truncated) {
      answer.text += "<NextContinuationToken>" + last + "</NextContinuationToken>";
    }
    answer.text += "</ListBucketResult>";
    answer.bytes = answer.text.size();
    return answer;
  }

  static void send_text(int fd, std::string const& text) { send_all(fd, text.data(), text.size()); }

  static bool send_all(int fd, char const* data, std::size_t bytes) {
    while (bytes > 0) {
      ssize_t const sent = ::send(fd, data, bytes, MSG_NOSIGNAL);
      if (sent <= 0) { return false; }
      data += sent;
      bytes -= static_cast<std::size_t>(sent);
    }
    return true;
  }

  bool send(int fd, Request const& request, Answer answer,
            std::optional<ObjectFault> const& fault) {
    using Kind = ObjectFault::Kind;
    char const* body =
        (answer.object ? answer.object->body.data() : answer.text.data()) + answer.first;
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

  std::string bucket_;
  int listening_ = -1;
  int stop_ = -1;
  std::atomic<std::size_t> at_once_{0};
  std::vector<std::thread> connections_;  // of the accepting thread
  std::thread thread_;
};

ObjectServer::ObjectServer(std::string bucket, int port)
    : impl_(std::make_unique<Impl>(std::move(bucket), port)) {}
ObjectServer::~ObjectServer() = default;

std::string ObjectServer::endpoint() const {
  return "http://127.0.0.1:" + std::to_string(impl_->port_);
}
int ObjectServer::port() const noexcept { return impl_->port_; }

void ObjectServer::add_fault(ObjectFault fault) {
  std::lock_guard const lock(impl_->mutex_);
  impl_->faults_.push_back(std::move(fault));
}
void ObjectServer::clear_faults() {
  std::lock_guard const lock(impl_->mutex_);
  impl_->faults_.clear();
}
void ObjectServer::on_request(
    std::function<void(std::string const& method, std::string const& path)> hook) {
  std::lock_guard const lock(impl_->mutex_);
  impl_->hook_ = std::move(hook);
}

std::vector<std::string> ObjectServer::keys() const {
  std::lock_guard const lock(impl_->mutex_);
  std::vector<std::string> keys;
  for (auto const& [key, object] : impl_->objects_) {
    keys.push_back(key);
  }
  return keys;
}
bool ObjectServer::has(std::string const& key) const {
  std::lock_guard const lock(impl_->mutex_);
  return impl_->objects_.count(key) != 0;
}
ObjectServer::Object ObjectServer::object(std::string const& key) const {
  std::lock_guard const lock(impl_->mutex_);
  return *impl_->objects_.at(key);
}
void ObjectServer::store(std::string const& key, Object object) {
  std::lock_guard const lock(impl_->mutex_);
  impl_->objects_[key] = std::make_shared<Object const>(std::move(object));
}

std::vector<std::string> ObjectServer::requests() const {
  std::lock_guard const lock(impl_->mutex_);
  return impl_->log_;
}
std::size_t ObjectServer::num_requests(std::string_view method) const {
  std::lock_guard const lock(impl_->mutex_);
  return static_cast<std::size_t>(
      std::count_if(impl_->log_.begin(), impl_->log_.end(), [method](std::string const& line) {
        return line.substr(0, method.size() + 1) == std::string(method) + " ";
      }));
}
std::size_t ObjectServer::num_connections() const {
  std::lock_guard const lock(impl_->mutex_);
  return impl_->num_connections_;
}
std::size_t ObjectServer::most_at_once() const {
  std::lock_guard const lock(impl_->mutex_);
  return impl_->most_at_once_;
}
std::string ObjectServer::last_header(std::string const& name) const {
  std::lock_guard const lock(impl_->mutex_);
  return impl_->last_.header(name);
}

int closed_port() {
  int port = 0;
  close(listen_on(0, port));
  return port;
}

}  // namespace kvbm::testing
