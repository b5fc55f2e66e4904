// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <nlohmann/json.hpp>

#include <cstdint>
#include <string>
#include <vector>

#include "measure.hpp"
#include "report.hpp"
#include "worker_process.hpp"

namespace kvbm::cli {

/// How UCX may move bytes, for both processes.
struct Transport {
  std::string name;  ///< "default" or what UCX_TLS shall be
  [[nodiscard]] WorkerProcess::Environment environment() const;
};

/// What `kvbm bench remote` measures with.
struct RemoteOptions {
  std::vector<std::uint64_t> runs;
  std::vector<IdOrder> orders;
  std::vector<Transport> transports;
  std::uint64_t bytes = std::uint64_t{64} << 20U;        ///< moved by one transfer
  std::uint64_t area_bytes = std::uint64_t{256} << 20U;  ///< that blocks are picked from
  std::size_t repeat = 5;
  double budget = 4;  ///< seconds a case
  std::uint64_t rounds = 300;
  std::uint64_t max_blocks = 1'000'000;
  std::string perftest;  ///< ucx_perftest; empty: none
};

/// A layout whose blocks are single runs of this many bytes.
nlohmann::json run_shape(std::uint64_t run_bytes);

/// Two processes that know each other: `near` has the managers "mapped" and "wire", which import
/// the manager "there" of `far`. Layouts of key K are there under K in all three.
class RemotePair {
 public:
  explicit RemotePair(Transport const& transport, int timeout_s = 30);

  /// A pinned layout of `blocks` blocks at both ends, before meet().
  void add_layout(std::string const& key, nlohmann::json const& shape, std::uint64_t blocks);
  void meet();
  /// Bare agents over the same layouts, after add_layout().
  void meet_plainly();
  [[nodiscard]] std::uint64_t plain_address(std::string const& key) const;
  /// The peer's layout, as tasks of `near` name it.
  [[nodiscard]] nlohmann::json there(std::string const& key) const { return handles_.at(key); }

  WorkerProcess near;
  WorkerProcess far;

 private:
  nlohmann::json handles_;
  nlohmann::json addresses_;
};

/// Every way of moving the same blocks, by run length. `cases` gets one entry a way.
Table bench_sweep(RemoteOptions const& options, Output const& output, nlohmann::json& cases);
/// One block: until the sender knows, until the receiver is notified.
Table bench_latency(RemoteOptions const& options);
/// How long it takes until a killed peer is noticed.
Table bench_faults(RemoteOptions const& options);
/// What importing peers with many blocks costs.
Table bench_import(RemoteOptions const& options);
/// ucx_perftest between two processes.
Table bench_perftest(RemoteOptions const& options);

}  // namespace kvbm::cli
