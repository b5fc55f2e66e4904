// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <list>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "nixl/nixl_agent.hpp"
#include "nixl/nixl_handles.hpp"

namespace kvbm::nixl {

/// Everything that registrations and requests need after the NixlAgent itself is gone.
struct NixlAgent::Core {
  // A posted request that nobody waits for.
  struct Abandoned {
    nixl_c::Request handle = nullptr;
    std::string peer;
    std::shared_ptr<void const> keep;
  };

  std::shared_ptr<NixlLibrary const> library;
  std::string name;
  NixlHandle<nixl_c::Agent> agent;

  // Guards what follows; never held while a request is posted.
  mutable std::mutex mutex;
  std::map<std::string, NixlHandle<nixl_c::Backend>, std::less<>> backends;
  std::map<std::string, std::size_t> in_flight;  // posted requests by peer, abandoned ones too
  std::set<std::string> to_forget;               // peers to disconnect from once none is in flight
  std::list<Abandoned> abandoned;
  std::vector<std::shared_ptr<void const>> unneeded;  // what ended requests kept

  Core() = default;
  Core(Core const&) = delete;
  Core& operator=(Core const&) = delete;
  ~Core() {
    for (Abandoned const& request : abandoned) {
      release(request.handle);
    }
    backends.clear();
    agent.reset();  // from here on nothing writes the memory that `abandoned` keeps
  }

  void release(nixl_c::Request handle) const noexcept {
    functions().release_xfer_req(agent.get(), handle);
    functions().destroy_xfer_req(handle);
  }
  void forget(std::string const& peer) const noexcept {
    functions().invalidate_remote_md(agent.get(), peer.c_str());
  }
  // A posted request has ended or is to begin; with the mutex held.
  void began(std::string const& peer) { ++in_flight[peer]; }
  void ended(std::string const& peer) noexcept {
    auto const found = in_flight.find(peer);
    if (found == in_flight.end() || --found->second != 0) { return; }
    in_flight.erase(found);
    if (to_forget.erase(peer) != 0) { forget(peer); }
  }
  // Lets go of abandoned requests that have ended, but for what they kept: that goes to `unneeded`,
  // and ends with the next take_messages(), whose caller holds no locks. With the mutex held.
  void sweep() noexcept;

  [[nodiscard]] nixl_c::Functions const& functions() const noexcept { return library->functions(); }

  [[nodiscard]] bool knows(std::string const& remote) const noexcept {
    return remote == name ||
           functions().check_remote_md(agent.get(), remote.c_str(), nullptr) == nixl_c::kSuccess;
  }

  // Options that name one backend; null for none, which leaves the choice to NIXL.
  [[nodiscard]] NixlHandle<nixl_c::Options> options_for(std::string_view backend) const;
  [[nodiscard]] std::vector<std::string> available_plugins() const;
};

}  // namespace kvbm::nixl
