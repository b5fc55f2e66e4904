// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <gtest/gtest.h>

#include <chrono>
#include <string>
#include <utility>
#include <vector>

#include "contract/transfer_fixture.hpp"
#include "kvbm/remote/nixl_library.hpp"

namespace kvbm::testing {

/// Why remote workers cannot be tested here; empty where they can.
inline std::string why_no_nixl() {
#if defined(__SANITIZE_THREAD__)
  return "ThreadSanitizer cannot see what NIXL's threads synchronise with";
#else
  try {
    static_cast<void>(remote::find_nixl());
    return {};
  } catch (UnsupportedError const& error) { return error.what(); }
#endif
}

/// How two workers of one machine reach each other.
enum class Reach { Mapped, Wire };

inline std::string to_string(Reach reach) { return reach == Reach::Mapped ? "Mapped" : "Wire"; }

inline TransferManager::Builder remote_manager(std::string const& agent, Reach reach) {
  auto builder = small_manager();
  builder.nixl_backend("UCX")
      .agent_name(agent)
      .landing_bytes(std::uint64_t{4} << 20U)
      .remote_timeout(std::chrono::seconds(10))
      .map_peer_memory(reach == Reach::Mapped);
  return builder;
}

/// Two managers in one process, each a worker of its own.
class TwoWorkers {
 public:
  explicit TwoWorkers(Reach reach)
      : here(remote_manager("here", reach).build()),
        there(remote_manager("there", reach).build()) {}

  /// Lets both know each other's layouts as they are now.
  void meet() {
    static_cast<void>(here.import_metadata(there.export_metadata().to_bytes()));
    static_cast<void>(there.import_metadata(here.export_metadata().to_bytes()));
  }

  TransferManager here;
  TransferManager there;
};

}  // namespace kvbm::testing
