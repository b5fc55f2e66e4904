// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "kvbm/object/credentials.hpp"
#include "nixl/nixl_agent.hpp"
#include "object/client_context.hpp"

namespace kvbm::object {

/// Memory that NIXL reads and writes. Ours, because NIXL cannot be stopped: a request that was
/// given up may go on in it for a while.
struct Staging {
  std::unique_ptr<std::byte[]> bytes;
  std::uint64_t capacity = 0;
  std::optional<nixl::NixlAgent::Registration> registration;
};

/// An agent of NIXL with its backend OBJ for a bucket, as long as the credentials last, and the
/// staging memory registered with it. Thread-safe. When it ends while requests that were given up
/// are in flight, the agent is kept aside until they have ended, at the latest when the process
/// ends.
class NixlObjectAgent {
 public:
  /// @throws UnsupportedError  the backend does not start here
  NixlObjectAgent(std::shared_ptr<nixl::NixlLibrary const> const& library,
                  ClientContext const& context, std::shared_ptr<Credentials const> who,
                  std::size_t threads);
  ~NixlObjectAgent();
  NixlObjectAgent(NixlObjectAgent const&) = delete;
  NixlObjectAgent& operator=(NixlObjectAgent const&) = delete;

  [[nodiscard]] std::shared_ptr<Credentials const> const& who() const noexcept { return who_; }
  [[nodiscard]] nixl::NixlAgent& agent() noexcept { return *agent_; }

  std::unique_ptr<Staging> take_staging(std::uint64_t bytes);
  void give_back(std::unique_ptr<Staging> staging) noexcept;
  /// Registers the key under a number of its own.
  nixl::NixlAgent::Registration register_key(std::string const& key, std::uint64_t bytes,
                                             std::uint64_t& number);

 private:
  std::shared_ptr<Credentials const> who_;
  std::unique_ptr<nixl::NixlAgent> agent_;
  std::mutex mutex_;
  std::vector<std::unique_ptr<Staging>> idle_;  // guarded by mutex_
  std::uint64_t next_number_ = 1;               // guarded by mutex_
};

/// The agents that were kept aside and have requests in flight.
std::size_t num_retired_agents();

}  // namespace kvbm::object
