// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "kvbm/manager/transfer_manager.hpp"
#include "kvbm/metrics/sample.hpp"

namespace kvbm::metrics {

/// Gives what sources count to Prometheus: as text, or over HTTP.
///
/// Every look asks every source anew; nothing is kept between two looks. A source that throws is
/// left out of this look and counted in kvbm_exporter_errors_total, as is a sample that Prometheus
/// would refuse (a malformed name, or the name and labels of an earlier one).
///
/// Threads  all methods may be called concurrently. Sources are called by whoever looks: by several
///          threads at a time, the HTTP server's among them.
/// Lifetime needs none of its managers: one that is gone has no samples any more.
class Exporter {
 public:
  /// Called at each look.
  using Source = std::function<std::vector<Sample>()>;

  /// @throws UnsupportedError this build has no prometheus-cpp, with what to install
  Exporter();
  ~Exporter();
  Exporter(Exporter&&) noexcept;
  Exporter& operator=(Exporter&&) noexcept;
  Exporter(Exporter const&) = delete;
  Exporter& operator=(Exporter const&) = delete;

  /// Exports a manager until it is destroyed; it may be moved meanwhile.
  /// @param name  becomes the label `manager` of its samples, which tells several managers apart;
  ///              empty: no label
  /// @throws Error(AlreadyExists) a living manager has the name
  void add(manager::TransferManager const& manager, std::string const& name = {});
  /// Exports whatever `source` returns. It must own, or safely find out the end of, what it reads.
  /// @throws Error(InvalidArgument) empty source
  void add(Source source);

  /// Everything, in the text format 0.0.4 of Prometheus.
  [[nodiscard]] std::string text() const;
  /// Serves text() at http://ADDRESS/metrics until the exporter is destroyed or stop().
  /// @param address  "127.0.0.1:9400", "[::1]:9400" or ":9400" (every interface, without a
  ///                 password: think before); port 0: any that is free
  /// @return the port
  /// @throws Error(InvalidArgument) not such an address; Error(Io) cannot listen there;
  ///         Error(AlreadyExists) it serves already
  std::uint16_t listen(std::string const& address);
  /// Ends listen() after the answers under way, which takes up to two seconds, as the destructor
  /// does; nothing to do without.
  void stop();

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace kvbm::metrics
