// SPDX-License-Identifier: Apache-2.0
#include "remote/tcp_stream.hpp"

#include <fmt/format.h>
#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <string_view>
#include <utility>

namespace kvbm::remote {
namespace {

// server: magic, nonce; client: magic, nonce, MAC; server: verdict, MAC
constexpr std::string_view kMagic = "KVBMTCP1";
constexpr std::size_t kChallengeBytes = kMagic.size() + sizeof(Nonce);
constexpr std::size_t kResponseBytes = kChallengeBytes + sizeof(Mac);
constexpr std::size_t kVerdictBytes = 1 + sizeof(Mac);
constexpr auto kAccepted = std::byte{'A'};
constexpr auto kDenied = std::byte{'D'};

// frame: length of the payload, type; payload; MAC
constexpr std::size_t kHeadBytes = 5;
constexpr std::size_t kReadAtOnce = std::size_t{64} << 10;

std::span<std::byte const> bytes_of(std::string_view text) {
  return std::as_bytes(std::span(text.data(), text.size()));
}

// Different for each purpose, so that no MAC can be sent back as another one.
Mac client_proof(SecretKey const& token, Nonce const& server, Nonce const& client) {
  return token.mac({bytes_of("kvbm exchange: client knows"), server, client});
}
Mac server_proof(SecretKey const& token, Nonce const& server, Nonce const& client) {
  return token.mac({bytes_of("kvbm exchange: server knows"), server, client});
}

void append(std::vector<std::byte>& out, std::span<std::byte const> bytes) {
  out.insert(out.end(), bytes.begin(), bytes.end());
}

void check_magic(std::span<std::byte const> bytes) {
  std::size_t const count = std::min(bytes.size(), kMagic.size());
  if (!std::equal(bytes.begin(), bytes.begin() + static_cast<std::ptrdiff_t>(count),
                  bytes_of(kMagic).begin())) {
    throw CorruptError("the other side is no metadata exchange of kvbm");
  }
}

}  // namespace

TcpStream::TcpStream(UniqueFd socket, Role role, SecretKey const& token, std::size_t max_payload)
    : socket_(std::move(socket)),
      role_(role),
      token_(token),
      max_payload_(max_payload),
      nonce_(make_nonce()) {
  if (role_ == Role::Server) {
    std::vector<std::byte> challenge;
    append(challenge, bytes_of(kMagic));
    append(challenge, nonce_);
    push(std::move(challenge));
  }
}

short TcpStream::wanted_events() const noexcept {
  // A side that does not read our answers gets no further question read.
  if (!outgoing_.empty()) { return POLLOUT; }
  return POLLIN;
}

bool TcpStream::advance() {
  bool const wrote = write_some();
  bool const read = read_some();
  if (is_waiting_) { shake_hands(); }
  // What the handshake or the caller wants to say next often fits at once.
  return write_some() || wrote || read;
}

bool TcpStream::write_some() {
  bool moved = false;
  while (!outgoing_.empty()) {
    auto const bytes = outgoing_.front().bytes().subspan(outgoing_offset_);
    if (!bytes.empty()) {
      ssize_t const sent = ::send(fd(), bytes.data(), bytes.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
      if (sent < 0 && errno == EINTR) { continue; }
      if (sent < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) { return moved; }
      if (sent < 0) { throw_error(ErrorCode::Io, describe_errno(errno), errno); }
      moved = true;
      outgoing_offset_ += static_cast<std::size_t>(sent);
      if (static_cast<std::size_t>(sent) < bytes.size()) { continue; }
    }
    outgoing_.pop_front();
    outgoing_offset_ = 0;
  }
  return moved;
}

bool TcpStream::read_some() {
  // One frame and no more: what comes behind it stays in the kernel, where it slows the sender
  // down.
  constexpr std::size_t kMostAtOnce = std::size_t{4} << 20;
  std::size_t const limit = std::min(
      kMostAtOnce,
      kHeadBytes + max_payload_ + sizeof(Mac) + kResponseBytes -
          std::min(incoming_.size(), kHeadBytes + max_payload_ + sizeof(Mac) + kResponseBytes));
  std::array<std::byte, kReadAtOnce> buffer;
  std::size_t done = 0;
  while (done < limit) {
    ssize_t const got =
        ::recv(fd(), buffer.data(), std::min(buffer.size(), limit - done), MSG_DONTWAIT);
    if (got < 0 && errno == EINTR) { continue; }
    if (got < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) { break; }
    if (got < 0) { throw_error(ErrorCode::Io, describe_errno(errno), errno); }
    if (got == 0) {
      // What came before the end still counts, a verdict for one.
      if (done > 0) { break; }
      throw_error(ErrorCode::Io, "the other side closed the connection");
    }
    append(incoming_, std::span(buffer).first(static_cast<std::size_t>(got)));
    done += static_cast<std::size_t>(got);
  }
  return done > 0;
}

std::vector<std::byte> TcpStream::take(std::size_t bytes) {
  auto const end = incoming_.begin() + static_cast<std::ptrdiff_t>(bytes);
  std::vector<std::byte> taken(incoming_.begin(), end);
  incoming_.erase(incoming_.begin(), end);
  return taken;
}

void TcpStream::push(std::vector<std::byte> bytes) {
  outgoing_.push_back({std::move(bytes), nullptr});
}

void TcpStream::shake_hands() {
  if (role_ == Role::Server) {
    check_magic(incoming_);
    if (incoming_.size() >= kResponseBytes) { check_response(); }
  } else if (!session_) {
    check_magic(incoming_);
    if (incoming_.size() >= kChallengeBytes) { answer_challenge(); }
  } else if (incoming_.size() >= kVerdictBytes) {
    check_verdict();
  }
}

void TcpStream::answer_challenge() {
  auto const challenge = take(kChallengeBytes);
  Nonce server{};
  std::copy_n(challenge.begin() + kMagic.size(), server.size(), server.begin());
  std::vector<std::byte> response;
  append(response, bytes_of(kMagic));
  append(response, nonce_);
  append(response, client_proof(token_, server, nonce_));
  push(std::move(response));
  expected_verdict_ = server_proof(token_, server, nonce_);
  start_session(server, nonce_);
}

void TcpStream::check_response() {
  auto const response = take(kResponseBytes);
  Nonce client{};
  std::copy_n(response.begin() + kMagic.size(), client.size(), client.begin());
  std::vector<std::byte> verdict(kVerdictBytes);
  if (!is_same_mac(std::span(response).subspan(kChallengeBytes),
                   client_proof(token_, nonce_, client))) {
    verdict[0] = kDenied;
    push(std::move(verdict));
    // Best effort: the other side should know why. It fits into an empty socket buffer.
    static_cast<void>(write_some());
    throw TokenError("the other side does not know our token");
  }
  verdict[0] = kAccepted;
  auto const proof = server_proof(token_, nonce_, client);
  std::copy(proof.begin(), proof.end(), verdict.begin() + 1);
  push(std::move(verdict));
  start_session(nonce_, client);
  is_waiting_ = false;
}

void TcpStream::check_verdict() {
  auto const verdict = take(kVerdictBytes);
  if (verdict[0] == kDenied) { throw TokenError("it refused our token"); }
  if (verdict[0] != kAccepted || !is_same_mac(std::span(verdict).subspan(1), expected_verdict_)) {
    throw TokenError("it does not know our token");
  }
  is_waiting_ = false;
}

void TcpStream::start_session(Nonce const& server, Nonce const& client) {
  session_.emplace(token_.mac({bytes_of("kvbm exchange: session key"), server, client}));
}

Mac TcpStream::frame_mac(bool is_ours, std::span<std::byte const> head,
                         std::span<std::byte const> payload) {
  bool const is_from_server = is_ours == (role_ == Role::Server);
  std::uint64_t const number = is_ours ? sent_++ : received_++;
  std::array<std::byte, 9> place{};
  place[0] = is_from_server ? std::byte{'s'} : std::byte{'c'};
  for (std::size_t i = 0; i < sizeof number; ++i) {
    place[1 + i] = static_cast<std::byte>(number >> (8 * i));
  }
  return session_->mac({place, head, payload});
}

void TcpStream::send(Frame::Type type, std::vector<std::byte> payload) {
  send(type, std::make_shared<std::vector<std::byte> const>(std::move(payload)));
}

void TcpStream::send(Frame::Type type, Blob payload) {
  KVBM_EXPECTS(is_open(), Internal, "a frame is sent before the handshake ended");
  std::vector<std::byte> head;
  head.reserve(kHeadBytes);
  for (std::size_t i = 0; i < 4; ++i) {
    head.push_back(static_cast<std::byte>(payload->size() >> (8 * i)));
  }
  head.push_back(static_cast<std::byte>(type));
  auto const mac = frame_mac(true, head, *payload);
  push(std::move(head));
  outgoing_.push_back({{}, std::move(payload)});
  push({mac.begin(), mac.end()});
}

std::optional<Frame> TcpStream::receive() {
  if (!is_open() || incoming_.size() < kHeadBytes) { return std::nullopt; }
  std::size_t payload_bytes = 0;
  for (std::size_t i = 0; i < 4; ++i) {
    payload_bytes |= static_cast<std::size_t>(incoming_[i]) << (8 * i);
  }
  if (payload_bytes > max_payload_) {
    throw CorruptError(fmt::format("a message of {} bytes was announced; at most {} are taken",
                                   payload_bytes, max_payload_));
  }
  if (incoming_.size() < kHeadBytes + payload_bytes + sizeof(Mac)) { return std::nullopt; }
  auto const all = std::span<std::byte const>(incoming_);
  auto const payload = all.subspan(kHeadBytes, payload_bytes);
  if (!is_same_mac(all.subspan(kHeadBytes + payload_bytes, sizeof(Mac)),
                   frame_mac(false, all.first(kHeadBytes), payload))) {
    throw CorruptError("a message was changed on its way");
  }
  Frame frame{static_cast<Frame::Type>(incoming_[4]), {payload.begin(), payload.end()}};
  take(kHeadBytes + payload_bytes + sizeof(Mac));
  return frame;
}

}  // namespace kvbm::remote
