// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <vector>

namespace kvbm::cli {

/// What this machine has of NIXL.
struct NixlFacts {
  std::string why_not;  ///< what to do; empty where there is one
  std::string path;
  std::string version;
  std::vector<std::string> plugins;  ///< present, not tried
  std::vector<std::string> rdma;     ///< network devices that do RDMA
};

/// Looks for NIXL without loading it.
NixlFacts find_nixl_facts();

/// Whether a manager with this NIXL backend can be built: tried in a process of its own, because a
/// plugin may hang. @return why not; empty if so
std::string why_backend_fails(std::string const& backend, int timeout_seconds = 15);

/// What another process of this user may do with memory of ours.
struct NeighbourFacts {
  std::string why_no_map;  ///< kvbm's way: mapping it; empty if so
  std::string why_no_cma;  ///< UCX's way: process_vm_readv; empty if so
};

/// Tries both with a process of its own.
NeighbourFacts probe_neighbour();

}  // namespace kvbm::cli
