// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <shared_mutex>
#include <span>
#include <vector>

#include "kvbm/memory/region.hpp"
#include "nixl/nixl_agent.hpp"

namespace kvbm::remote {

/// The memory of this worker that the wire reaches: registered with the agent once, for as long as
/// somebody wants it.
///
/// Threads  all methods may be called concurrently.
class ExposedMemory : public std::enable_shared_from_this<ExposedMemory> {
 public:
  /// @param gpu  whether a GPU's memory is registered too
  ExposedMemory(std::shared_ptr<nixl::NixlAgent> agent, bool gpu)
      : agent_(std::move(agent)), gpu_(gpu) {}

  /// Registers those of the regions that the wire can reach; deregisters them when the result ends.
  /// Null where there is none.
  [[nodiscard]] std::shared_ptr<void const> expose(std::span<memory::Region const> regions);
  /// Whether all of a region's bytes are registered, by one region that was exposed.
  [[nodiscard]] bool reaches(memory::Region const& region) const;

 private:
  class Entry;

  std::shared_ptr<nixl::NixlAgent> const agent_;
  bool const gpu_;
  mutable std::shared_mutex mutex_;
  std::multimap<std::uintptr_t, std::uint64_t> ranges_;  ///< address -> bytes
};

}  // namespace kvbm::remote
