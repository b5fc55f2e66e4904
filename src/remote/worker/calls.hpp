// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <optional>

#include "kvbm/transfer/peer.hpp"
#include "remote/worker/contact.hpp"
#include "remote/worker/message.hpp"

namespace kvbm::remote {

/// Requests that wait for the reply of another worker.
///
/// Threads  all methods may be called concurrently.
class Calls {
 public:
  /// Until when a reply may come: a worker that says farewell uses nothing of ours any more, but
  /// still serves us until it ends.
  enum class Until { Farewell, End };

  /// A request under way; forgets it when it ends, so that a late reply finds nobody.
  class Call {
   public:
    Call(Calls& owner, std::shared_ptr<Contact> contact, Until until = Until::End);
    Call(Call const&) = delete;
    Call& operator=(Call const&) = delete;
    ~Call();
    /// What the reply has to name.
    [[nodiscard]] std::uint64_t id() const noexcept { return id_; }
    /// Waits for the reply.
    /// @throws CancelledError `should_stop` said so; PeerError the worker died, or the owner ends
    Reply wait(transfer::Peer::ShouldStop const& should_stop);
    /// The reply if it came by then. @throws PeerError as wait
    std::optional<Reply> wait_until(std::chrono::steady_clock::time_point deadline);
    /// Waits no more: the reply if it is there, and any later one finds nobody.
    std::optional<Reply> forget();

   private:
    friend class Calls;
    Calls& owner_;
    std::shared_ptr<Contact> const contact_;
    Until const until_;
    std::uint64_t id_ = 0;
    std::optional<Reply> reply_;
    bool given_up_ = false;
  };

  /// Hands a reply to whoever waits for it; only the worker that was asked may answer, and once.
  /// @return whether somebody waited for it
  bool answer(std::uint64_t worker_id, Reply reply);
  /// This worker has said farewell: fails what waits for it until then. Others go on.
  void give_up(std::uint64_t worker_id);
  /// Fails all that wait, now and later.
  void close();
  /// Whether anybody waits.
  [[nodiscard]] bool any_waiting() const;

 private:
  mutable std::mutex mutex_;
  std::condition_variable answered_;
  std::map<std::uint64_t, Call*> waiting_;
  std::uint64_t next_id_ = 1;
  bool closed_ = false;
};

}  // namespace kvbm::remote
