// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <nlohmann/json.hpp>

#include <chrono>
#include <string>
#include <utility>

#include "process.hpp"

namespace kvbm::cli {

/// Questions and answers between this program and a copy of it that is a worker: each one CBOR
/// document behind its length, over one socket.
class Channel {
 public:
  /// None: what is sent or awaited fails.
  Channel() = default;
  explicit Channel(UniqueFd socket) noexcept : fd_(std::move(socket)) {}

  /// @throws PeerError the other end is gone
  void send(nlohmann::json const& document) const;
  /// @param timeout  negative: for ever  @throws PeerError the other end is gone; TimeoutError
  [[nodiscard]] nlohmann::json receive(std::chrono::milliseconds timeout) const;

 private:
  void read(char* to, std::size_t bytes, std::chrono::steady_clock::time_point deadline) const;
  UniqueFd fd_;
};

/// A process of this very program (its hidden verb remote-worker) that does what it is told, one
/// thing after the other, and dies with this process. It is executed anew, never forked alone:
/// NIXL's threads do not survive a fork.
class WorkerProcess {
 public:
  using Environment = ChildProcess::Environment;
  /// Nothing that a worker is asked takes longer.
  static constexpr std::chrono::seconds kAnswerTimeout{180};

  /// @param name         for messages
  /// @param environment  what its environment has beside or instead of ours
  WorkerProcess(std::string name, Environment const& environment);
  /// Asks it to end, and kills it where it does not.
  ~WorkerProcess();
  WorkerProcess(WorkerProcess const&) = delete;
  WorkerProcess& operator=(WorkerProcess const&) = delete;

  /// Has it do something and waits for the outcome. @throws its error, naming it; PeerError it
  /// ended; TimeoutError
  nlohmann::json call(nlohmann::json const& question);
  /// The two halves of call(), to do something else meanwhile.
  void ask(nlohmann::json const& question) { channel_.send(question); }
  nlohmann::json answer(std::chrono::milliseconds timeout = kAnswerTimeout);

  [[nodiscard]] pid_t pid() const noexcept { return process_.pid(); }
  /// kill -9; returns when it has ended.
  void kill() noexcept { process_.kill(); }

 private:
  std::string name_;
  Channel channel_;
  ChildProcess process_;
};

/// What the hidden verb of the child does first: takes the socket that it was started with (its
/// standard input), keeps its standard output for messages, and sees to it that it dies with its
/// parent.
Channel join_parent();

}  // namespace kvbm::cli
