// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "remote/exchange_common.hpp"
#include "remote/tcp_stream.hpp"

#include <sys/socket.h>

#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

namespace kvbm::remote {

struct PeerAddress {
  sockaddr_storage address{};
  socklen_t bytes = 0;
};

/// @return host and port. @throws Error(InvalidArgument) unless it is "host:port" or "[v6]:port"
std::pair<std::string, std::string> split_peer(std::string const& peer);

/// Finds the addresses of peers without making anybody wait: names are looked up on a thread, since
/// the system's resolver knows no deadline. Thread-safe.
class PeerResolver {
 public:
  PeerResolver() = default;
  ~PeerResolver();
  PeerResolver(PeerResolver const&) = delete;
  PeerResolver& operator=(PeerResolver const&) = delete;

  /// nullopt: not known yet; empty: there is none.
  std::optional<std::vector<PeerAddress>> find(std::string const& peer);

 private:
  using Clock = std::chrono::steady_clock;
  struct Entry {
    std::vector<PeerAddress> addresses;
    Clock::time_point valid_until;
  };
  void run();

  std::mutex mutex_;
  std::condition_variable wanted_changed_;
  std::map<std::string, Entry> known_;  // guarded by mutex_, as are the next ones
  std::vector<std::string> wanted_;
  bool is_stopping_ = false;
  std::thread thread_;
};

/// Asks many peers the same question at once.
class PeerCalls {
 public:
  /// What to do about a peer after it answered, or failed to.
  enum class Next : std::uint8_t {
    Finished,  ///< nothing more to ask this one
    AskAgain,  ///< after a growing pause
    Stop,      ///< the whole call is at its end
  };
  struct Handler {
    std::function<Next(Frame frame)> on_answer;
    /// The peer cannot be reached, is silent or talks garbage, as `why` says.
    std::function<Next(std::string const& why)> on_failure;
  };

  PeerCalls(SecretKey const& token, PeerResolver& resolver, std::chrono::milliseconds io_timeout)
      : token_(token), resolver_(resolver), io_timeout_(io_timeout) {}

  /// Until every peer is finished, a handler says Stop, or the deadline passed.
  /// @throws TokenError naming the peer
  void run(std::vector<std::string> const& peers, Frame const& question, Deadline const& deadline,
           Handler const& handler) const;

 private:
  class Call;

  SecretKey const& token_;
  PeerResolver& resolver_;
  std::chrono::milliseconds io_timeout_;
};

}  // namespace kvbm::remote
