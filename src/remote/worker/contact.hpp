// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "kvbm/memory/shared_memory.hpp"
#include "kvbm/remote/metadata.hpp"
#include "nixl/nixl_agent.hpp"
#include "remote/worker/message.hpp"

namespace kvbm::remote {

/// Another worker that this one can talk to: its address, its connection, whether it lives.
///
/// Threads  all methods may be called concurrently.
class Contact {
 public:
  /// @param process  of the worker, where it is known
  Contact(std::shared_ptr<nixl::NixlAgent> agent, std::uint64_t own_id, std::uint64_t worker_id,
          WorkerAddress address, std::optional<memory::ProcessName> const& process);
  Contact(Contact const&) = delete;
  Contact& operator=(Contact const&) = delete;
  /// Disconnects.
  ~Contact();

  [[nodiscard]] std::uint64_t worker_id() const noexcept { return worker_id_; }
  [[nodiscard]] std::string const& agent_name() const noexcept { return agent_name_; }
  /// "worker 17 (agent decode-0)".
  [[nodiscard]] std::string const& name() const noexcept { return name_; }

  /// Takes metadata that tells more than what is known, for now and for every reconnection.
  /// @throws CorruptError NIXL reads it as that of another agent, or not at all
  void learn(WorkerAddress const& address);

  /// @throws PeerError the worker said farewell, or its process has ended
  void expect_alive() const;
  /// The worker is gone for good, for this reason.
  void mark_gone(std::string reason);

  /// Connects if need be: after the first use, and after disconnect(). @throws PeerError
  void connect();
  /// Ends the connection by force, after a failure: requests under way fail.
  void disconnect() noexcept;
  /// Counts disconnections: what was agreed before one may not hold behind it.
  [[nodiscard]] std::uint64_t generation() const;

  /// Sends behind everything that was sent before; connects again once if it has to. A worker that
  /// takes nothing is sent no more than a few thousand messages: UCX would queue without limit.
  /// What was sent is kept until the worker says that it took it, and sent again when that takes
  /// long: a connection that breaks loses what was under way. Taken alone is neither.
  /// @throws PeerError naming the worker
  void send(MessageBody body);
  /// To be called from time to time: tells the worker what was taken, sends again what it has not.
  void tend() noexcept;

  /// Notes what a message says. A new session begins a new count, and ends the one before for good.
  /// @return whether it is new: each is taken once
  [[nodiscard]] bool take(Message const& message);
  /// Whether the worker should be told what was taken, because nothing else told it for long.
  [[nodiscard]] bool owes_count() const;

 private:
  /// @pre  mutex_ is held
  void connect_locked();
  void expect_alive_locked() const;
  void expect_own_name(std::string const& found) const;
  void post(std::vector<std::byte> const& bytes);

  std::shared_ptr<nixl::NixlAgent> const agent_;
  std::uint64_t const own_id_;
  std::uint64_t const worker_id_;
  std::string const agent_name_;
  std::string const name_;
  std::uint64_t const session_;
  std::optional<memory::ProcessWatch> watch_;

  mutable std::mutex mutex_;
  std::vector<std::byte> metadata_;
  bool connected_ = false;
  std::string gone_;  ///< why; empty: as far as we know it lives
  std::uint64_t generation_ = 0;
  std::uint64_t next_sequence_ = 1;
  std::uint64_t told_ = 0;  ///< it knows that we have taken so many of its
  struct Sent {
    std::uint64_t sequence = 0;
    std::vector<std::byte> bytes;
  };
  std::deque<Sent> unacknowledged_;
  std::chrono::steady_clock::time_point progress_{};  ///< when it last took something, or we sent
  std::chrono::milliseconds patience_;                ///< until we send again
  std::chrono::steady_clock::time_point owing_since_{};
  bool asked_again_ = false;  ///< it sent again what was taken: it has to be told again

  std::uint64_t their_session_ = 0;  ///< 0: nothing came yet
  std::deque<std::uint64_t> past_sessions_;
  std::uint64_t taken_below_ = 1;        ///< all smaller numbers were taken
  std::set<std::uint64_t> taken_above_;  ///< and these
};

}  // namespace kvbm::remote
