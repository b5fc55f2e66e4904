// SPDX-License-Identifier: Apache-2.0
//
// The exporter of a build without prometheus-cpp: it cannot be made.
#include "kvbm/core/error.hpp"
#include "kvbm/metrics/exporter.hpp"

namespace kvbm::metrics {

class Exporter::Impl {};

Exporter::Exporter() {
  throw UnsupportedError(
      "this build of kvbm exports no metrics: install prometheus-cpp-dev and build again with "
      "KVBM_ENABLE_PROMETHEUS=ON; TransferManager::statistics() has the same numbers");
}
Exporter::~Exporter() = default;
Exporter::Exporter(Exporter&&) noexcept = default;
Exporter& Exporter::operator=(Exporter&&) noexcept = default;

// No object exists that these could be called on.
void Exporter::add(manager::TransferManager const& /*manager*/, std::string const& /*name*/) {}
void Exporter::add(Source /*source*/) {}
std::string Exporter::text() const { return {}; }
std::uint16_t Exporter::listen(std::string const& /*address*/) { return 0; }
void Exporter::stop() {}

}  // namespace kvbm::metrics
