// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "kvbm/layout/handle.hpp"
#include "kvbm/layout/physical_layout.hpp"
#include "kvbm/remote/metadata.hpp"
#include "kvbm/remote/notices.hpp"
#include "kvbm/transfer/context.hpp"
#include "kvbm/transfer/prepared_transfer.hpp"

namespace kvbm::remote {

/// How a worker meets others.
struct RemoteOptions {
  std::map<std::string, std::map<std::string, std::string>> backends;  ///< at least one
  std::string agent_name;                                  ///< empty: made from the worker id
  std::filesystem::path nixl_library;                      ///< empty: looked for, see find_nixl
  std::uint64_t landing_bytes = std::uint64_t{64} << 20U;  ///< lent to peers; 0: none
  std::chrono::nanoseconds timeout = std::chrono::seconds(30);
  bool map_memory = true;  ///< whether memory of peers on this machine is mapped
};

/// What the worker asks the registry of its manager.
struct RemoteHooks {
  /// A layout of this worker, in use for as long as the result lives. @throws Error(NotFound)
  struct LayoutInUse {
    layout::PhysicalLayout layout;
    std::shared_ptr<void const> lease;
  };
  std::function<LayoutInUse(layout::LayoutHandle)> use_layout;
  /// A peer takes a layout back: refuse new transfers with it, call `gone` once none uses it.
  std::function<void(layout::LayoutHandle, std::function<void()> gone)> retire_layout;
};

/// One layout of an imported worker.
struct ImportedLayout {
  layout::LayoutHandle handle;
  LogicalLayoutHandle tier = LogicalLayoutHandle::G1;
  transfer::Endpoint endpoint;
  std::string way;  ///< how its memory is reached, and why not better
};

/// A worker's presence among others: its NIXL agent, what it tells and is told, its peers.
///
/// Threads  all methods may be called concurrently.
/// Lifetime keeps no context alive; to be stopped before the context's end is waited for.
class RemoteWorker {
 public:
  /// @throws UnsupportedError no NIXL here; a backend that does not load
  RemoteWorker(std::shared_ptr<transfer::TransferContext> const& context, RemoteOptions options,
               RemoteHooks hooks);
  /// Says farewell to the peers.
  ~RemoteWorker();
  RemoteWorker(RemoteWorker const&) = delete;
  RemoteWorker& operator=(RemoteWorker const&) = delete;

  /// Registers the memory of a layout of this worker with the agent.
  void add_layout(layout::LayoutHandle handle, layout::PhysicalLayout const& layout);
  /// Takes a layout back from the peers that may use it, then deregisters its memory.
  /// @throws Error(Busy) naming the peers that did not confirm in time: memory must stay
  void remove_layout(layout::LayoutHandle handle);

  /// @param layouts  of this worker; only memory  @throws UnsupportedError
  [[nodiscard]] SerializedLayout export_layouts(
      std::vector<std::pair<layout::LayoutHandle, layout::PhysicalLayout>> const& layouts);
  [[nodiscard]] WorkerAddress address() const;

  /// Meets another worker. Nothing is kept if it throws. One call per worker at a time.
  /// @param publish  takes its layouts, before the worker could take one of them back
  /// @throws Error(InvalidArgument) this worker's own metadata; Error(AlreadyExists) the worker or
  ///         another one of the same agent name is known; CorruptError, PeerError
  void import_worker(SerializedLayout const& metadata,
                     std::function<void(std::vector<ImportedLayout>)> const& publish);
  /// Forgets a worker: tells it, disconnects. Unknown ones are fine.
  void forget_worker(std::uint64_t worker_id);

  [[nodiscard]] WriteNotices subscribe();
  [[nodiscard]] RemoteStats stats() const;
  [[nodiscard]] std::vector<std::uint64_t> workers() const;

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace kvbm::remote
