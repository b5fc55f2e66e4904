// SPDX-License-Identifier: Apache-2.0
#include "worker_process.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <thread>
#include <vector>

#include "kvbm/core/error.hpp"
#include "process.hpp"

namespace kvbm::cli {
namespace {

using Clock = std::chrono::steady_clock;

constexpr std::size_t kMaxMessageBytes = std::size_t{1} << 30U;
constexpr std::chrono::seconds kEndTimeout{10};

ErrorCode error_code_of(std::string const& name) {
  for (int code = 0; code <= static_cast<int>(ErrorCode::Internal); ++code) {
    if (to_string(static_cast<ErrorCode>(code)) == name) { return static_cast<ErrorCode>(code); }
  }
  return ErrorCode::Internal;
}

}  // namespace

void Channel::send(nlohmann::json const& document) const {
  auto const body = nlohmann::json::to_cbor(document);
  std::uint64_t const length = body.size();
  std::vector<std::uint8_t> message(sizeof length + body.size());
  std::memcpy(message.data(), &length, sizeof length);
  std::copy(body.begin(), body.end(), message.begin() + sizeof length);
  for (std::size_t sent = 0; sent < message.size();) {
    ssize_t const done =
        ::send(fd_.get(), message.data() + sent, message.size() - sent, MSG_NOSIGNAL);
    if (done < 0 && errno == EINTR) { continue; }
    if (done < 0) { throw PeerError("its end of the channel is closed"); }
    sent += static_cast<std::size_t>(done);
  }
}

void Channel::read(char* to, std::size_t bytes, Clock::time_point deadline) const {
  while (bytes > 0) {
    auto const left =
        std::chrono::duration_cast<std::chrono::milliseconds>(deadline - Clock::now()).count();
    bool const endless = deadline == Clock::time_point::max();
    pollfd waiting{fd_.get(), POLLIN, 0};
    int const ready =
        ::poll(&waiting, 1, endless ? -1 : static_cast<int>(std::clamp<long>(left, 0, 1 << 30)));
    if (ready < 0 && errno == EINTR) { continue; }
    if (ready == 0) { throw TimeoutError("no answer in time"); }
    ssize_t const got = ::read(fd_.get(), to, bytes);
    if (got < 0 && errno == EINTR) { continue; }
    if (got <= 0) { throw PeerError("it has ended"); }
    to += got;
    bytes -= static_cast<std::size_t>(got);
  }
}

nlohmann::json Channel::receive(std::chrono::milliseconds timeout) const {
  auto const deadline = timeout.count() < 0 ? Clock::time_point::max() : Clock::now() + timeout;
  std::uint64_t length = 0;
  read(reinterpret_cast<char*>(&length), sizeof length, deadline);
  KVBM_EXPECTS(length <= kMaxMessageBytes, Corrupt, fmt::format("a message of {} bytes", length));
  std::vector<char> body(length);
  read(body.data(), body.size(), deadline);
  return nlohmann::json::from_cbor(body);
}

WorkerProcess::WorkerProcess(std::string name, Environment const& environment)
    : name_(std::move(name)) {
  std::array<int, 2> ends{};
  KVBM_EXPECTS(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends.data()) == 0, Io,
               "socketpair: " + describe_errno(errno));
  channel_ = Channel(UniqueFd(ends[0]));
  UniqueFd const theirs(ends[1]);
  process_ = ChildProcess({own_path(), "remote-worker", "--parent", std::to_string(::getpid())},
                          {theirs.get(), -1, -1}, environment);
}

WorkerProcess::~WorkerProcess() {
  try {
    if (process_.is_running()) { channel_.send({{"do", "end"}}); }
    auto const deadline = Clock::now() + kEndTimeout;
    while (process_.is_running() && Clock::now() < deadline) {
      std::this_thread::sleep_for(std::chrono::milliseconds(2));
    }
  } catch (std::exception const&) {  // it has ended by itself, or will now
  }
}

nlohmann::json WorkerProcess::call(nlohmann::json const& question) {
  ask(question);
  return answer();
}

nlohmann::json WorkerProcess::answer(std::chrono::milliseconds timeout) {
  nlohmann::json result;
  try {
    result = channel_.receive(timeout);
  } catch (TimeoutError const& error) {
    throw TimeoutError(fmt::format("process {}: {}", name_, error.what()));
  } catch (PeerError const& error) {
    throw PeerError(fmt::format("process {}: {}", name_, error.what()));
  }
  if (result.contains("error")) {
    throw_error(error_code_of(result.at("error").get<std::string>()),
                result.at("message").get<std::string>());
  }
  return result;
}

Channel join_parent() {
  UniqueFd channel(::fcntl(STDIN_FILENO, F_DUPFD_CLOEXEC, 3));
  KVBM_EXPECTS(channel, Io, "the channel to the parent: " + describe_errno(errno));
  UniqueFd const nothing(::open("/dev/null", O_RDONLY | O_CLOEXEC));
  if (nothing) { ::dup2(nothing.get(), STDIN_FILENO); }
  ::dup2(STDERR_FILENO, STDOUT_FILENO);
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  return Channel(std::move(channel));
}

}  // namespace kvbm::cli
