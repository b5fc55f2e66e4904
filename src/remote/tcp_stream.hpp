// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "remote/tcp_auth.hpp"

#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "kvbm/core/error.hpp"
#include "kvbm/core/unique_fd.hpp"

namespace kvbm::remote {

using Blob = std::shared_ptr<std::vector<std::byte> const>;

/// The other side of a connection does not know our token, or we do not know its.
class TokenError : public Error {
 public:
  explicit TokenError(std::string const& message) : Error(ErrorCode::InvalidArgument, message) {}
};

/// What travels once both sides have proved that they know the token.
struct Frame {
  enum class Type : std::uint8_t {
    Fetch = 1,   ///< payload: a name; answered by Found or Absent
    Look = 2,    ///< payload: a name; answered by State
    List = 3,    ///< no payload; answered by Names
    Found = 16,  ///< payload: the metadata
    Absent = 17,
    State = 18,  ///< payload: one byte of NameState, eight of the owner's id
    Names = 19,  ///< payload: names, a line each
  };
  Type type{};
  std::vector<std::byte> payload{};
};

enum class NameState : std::uint8_t { Absent = 0, Claimed = 1, Published = 2 };

/// One side of a connection on a socket that does not block: first the challenge and the response
/// to it, both ways, then frames, each with a MAC over its place in the sequence, so that nothing
/// can be changed, left out or repeated on the way. Never waits; a poll loop drives it.
class TcpStream {
 public:
  enum class Role : std::uint8_t { Server, Client };

  /// @param max_payload  largest frame that is accepted
  TcpStream(UniqueFd socket, Role role, SecretKey const& token, std::size_t max_payload);

  [[nodiscard]] int fd() const noexcept { return socket_.get(); }
  /// What poll() should wait for.
  [[nodiscard]] short wanted_events() const noexcept;
  /// Sends and receives what can be without waiting.
  /// @return whether any byte moved
  /// @throws TokenError; Error(Io) when the connection ended; CorruptError for what is no kvbm
  bool advance();
  /// Whether both sides know the token.
  [[nodiscard]] bool is_open() const noexcept { return session_.has_value() && !is_waiting_; }
  /// Whether everything that was to be sent is on its way.
  [[nodiscard]] bool is_flushed() const noexcept { return outgoing_.empty(); }

  void send(Frame::Type type, std::vector<std::byte> payload);
  /// The same without a copy.
  void send(Frame::Type type, Blob payload);
  /// The next whole frame. @throws CorruptError
  std::optional<Frame> receive();

 private:
  struct Segment {
    std::vector<std::byte> own;
    Blob shared;
    [[nodiscard]] std::span<std::byte const> bytes() const {
      return shared != nullptr ? std::span<std::byte const>(*shared) : own;
    }
  };

  [[nodiscard]] bool write_some();
  [[nodiscard]] bool read_some();
  void shake_hands();
  void answer_challenge();
  void check_response();
  void check_verdict();
  void start_session(Nonce const& server, Nonce const& client);
  void push(std::vector<std::byte> bytes);
  std::vector<std::byte> take(std::size_t bytes);
  [[nodiscard]] Mac frame_mac(bool is_ours, std::span<std::byte const> head,
                              std::span<std::byte const> payload);

  UniqueFd socket_;
  Role role_;
  SecretKey const& token_;
  std::size_t max_payload_;
  Nonce nonce_;
  Mac expected_verdict_{};
  bool is_waiting_ = true;  // for the other side's part of the handshake
  std::optional<SecretKey> session_;
  std::uint64_t sent_ = 0;
  std::uint64_t received_ = 0;
  std::vector<std::byte> incoming_;
  std::deque<Segment> outgoing_;
  std::size_t outgoing_offset_ = 0;  // within the first segment
};

}  // namespace kvbm::remote
