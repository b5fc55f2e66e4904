// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <nlohmann/json.hpp>

#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "kvbm/manager/transfer_manager.hpp"
#include "measure.hpp"
#include "plain_nixl.hpp"

namespace kvbm::cli {

/// A manager of a worker process with what belongs to it, by the names the parent gave.
struct Member {
  manager::TransferManager manager;
  std::map<std::string, layout::LayoutHandle> layouts;
  std::mutex mutex;
  std::vector<std::pair<std::uint64_t, std::int64_t>> heard;  ///< value, when (steady, ns)
  std::optional<remote::WriteNotices> notices;                ///< ends first: it adds to heard

  explicit Member(manager::TransferManager made) : manager(std::move(made)) {}
};

/// The ids of a question: a list of them, or {order, count, extent, seed} as make_ids takes them.
std::vector<BlockId> ids_of(nlohmann::json const& json);
/// The same, to be asked.
nlohmann::json make_ids_json(IdOrder order, std::uint64_t count, std::uint64_t extent,
                             std::uint32_t seed);

/// What a worker process can be asked to do. Every question is {do: TASK, ...}; every answer an
/// object. Layouts are named {key}, {worker, tier} or {handle: [worker, layout]}.
class WorkerTasks {
 public:
  nlohmann::json run(nlohmann::json const& question);

 private:
  using Task = nlohmann::json (WorkerTasks::*)(nlohmann::json const&);
  static std::map<std::string, Task> const& tasks();

  /// {manager, agent, map, landing_mib, timeout_s, device_bytes, gpu} -> {worker}
  nlohmann::json open(nlohmann::json const& question);
  /// Ends a manager. {manager}
  nlohmann::json close(nlohmann::json const& question);
  /// {manager, key, shape: [layers, outer, page, heads, head_dim, width], blocks, tier} -> {handle}
  nlohmann::json layout(nlohmann::json const& question);
  /// {manager, key, seed, ids}: hashed; without a seed: wiped
  nlohmann::json fill(nlohmann::json const& question);
  /// {manager, key, ids} -> {checksums: [...]}, or {fold} if asked for
  nlohmann::json checksums(nlohmann::json const& question);
  /// {manager} -> {metadata, rss}
  nlohmann::json export_metadata(nlohmann::json const& question);
  /// {manager, metadata} -> {worker, seconds}
  nlohmann::json import_metadata(nlohmann::json const& question);
  /// {manager, of: layout} -> {how}
  nlohmann::json reach(nlohmann::json const& question);
  /// {manager, src, src_ids, dst, dst_ids, options, rounds} -> {seconds: [...], strategy}
  nlohmann::json move(nlohmann::json const& question);
  /// {manager, src, src_ids, dst, dst_ids, rounds, pause_us, notify}: one transfer after the other
  /// -> {submitted: [ns], done: [ns]}
  nlohmann::json series(nlohmann::json const& question);
  /// Waits for a write notification, then moves the first block, then the others. As move, and
  /// {timeout_s} -> {value, notified, first, all}, the times in ns
  nlohmann::json onboard(nlohmann::json const& question);
  /// Transfers until one fails. As move -> {failed, code, message, done}
  nlohmann::json until_failure(nlohmann::json const& question);
  /// From here on write notifications are noted. {manager}
  nlohmann::json listen(nlohmann::json const& question);
  /// {manager, count, timeout_s} -> {heard: [[value, ns]]}; waits for that many
  nlohmann::json heard(nlohmann::json const& question);
  /// -> {rss}
  nlohmann::json memory(nlohmann::json const& question);
  /// A bare NIXL agent over a layout's memory. {manager, key} -> {metadata, address}
  nlohmann::json plain_open(nlohmann::json const& question);
  /// {metadata} -> {}
  nlohmann::json plain_meet(nlohmann::json const& question);
  /// Builds a manager with this NIXL backend. {backend} -> {}
  nlohmann::json try_backend(nlohmann::json const& question);
  /// Looks at one byte of the parent's memory, see probe_neighbour(). -> {map, cma}: why not
  nlohmann::json peek(nlohmann::json const& question);
  /// Measures ways of one case in turns, see worker_compare.cpp.
  nlohmann::json compare(nlohmann::json const& question);

  Member& member(nlohmann::json const& question);
  layout::LayoutHandle handle_of(Member& member, nlohmann::json const& side);

  std::map<std::string, std::unique_ptr<Member>> members_;
  std::unique_ptr<PlainNixl> plain_;
  std::string plain_peer_;
};

/// Options that a question may name: {strategy, notify, timeout_s}.
transfer::TransferOptions options_of(nlohmann::json const& json);

/// Steady clock, the same one for all processes of a machine.
std::int64_t now_ns();

}  // namespace kvbm::cli
