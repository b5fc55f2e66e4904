// SPDX-License-Identifier: Apache-2.0
#include "kvbm/metrics/exporter.hpp"

#include <fmt/format.h>
#include <prometheus/collectable.h>
#include <prometheus/exposer.h>
#include <prometheus/text_serializer.h>

#include <algorithm>
#include <charconv>
#include <map>
#include <mutex>
#include <optional>
#include <set>
#include <sstream>
#include <utility>

#include "kvbm/core/error.hpp"
#include "kvbm/core/log.hpp"

namespace kvbm::metrics {
namespace {

bool is_name(std::string const& text) {
  auto const is_letter = [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_';
  };
  return !text.empty() && is_letter(text.front()) &&
         std::all_of(text.begin(), text.end(),
                     [&](char c) { return is_letter(c) || (c >= '0' && c <= '9'); });
}

prometheus::MetricType type_of(Kind kind) {
  switch (kind) {
    case Kind::Counter: return prometheus::MetricType::Counter;
    case Kind::Gauge: return prometheus::MetricType::Gauge;
    case Kind::Histogram: break;
  }
  return prometheus::MetricType::Histogram;
}

prometheus::ClientMetric metric_of(Sample const& sample) {
  prometheus::ClientMetric metric;
  for (auto const& [name, value] : sample.labels) {
    metric.label.push_back({name, value});
  }
  switch (sample.kind) {
    case Kind::Counter: metric.counter.value = sample.value; break;
    case Kind::Gauge: metric.gauge.value = sample.value; break;
    case Kind::Histogram:
      metric.histogram.sample_count = sample.distribution.count;
      metric.histogram.sample_sum = sample.distribution.sum;
      for (auto const& bucket : sample.distribution.buckets) {
        metric.histogram.bucket.push_back({bucket.cumulative_count, bucket.upper_bound});
      }
      break;
  }
  return metric;
}

/// Samples on their way to families: those of one name together, each set of labels once.
class Families {
 public:
  /// @return whether Prometheus can take it
  bool add(Sample sample) {
    std::sort(sample.labels.begin(), sample.labels.end());
    bool const repeats = std::adjacent_find(sample.labels.begin(), sample.labels.end(),
                                            [](auto& a, auto& b) { return a.first == b.first; }) !=
                         sample.labels.end();
    bool const named = std::all_of(sample.labels.begin(), sample.labels.end(), [](auto const& l) {
      return is_name(l.first) && l.first != "le";
    });
    if (!is_name(sample.name) || repeats || !named) { return false; }
    auto const [found, is_new] = index_.try_emplace(sample.name, families_.size());
    if (is_new) { families_.push_back({sample.name, sample.help, type_of(sample.kind), {}}); }
    auto& family = families_[found->second];
    if (family.type != type_of(sample.kind) || !seen_.emplace(sample.name, sample.labels).second) {
      return false;
    }
    family.metric.push_back(metric_of(sample));
    return true;
  }
  std::vector<prometheus::MetricFamily> take() && { return std::move(families_); }

 private:
  std::vector<prometheus::MetricFamily> families_;
  std::map<std::string, std::size_t> index_;
  std::set<std::pair<std::string, std::vector<Label>>> seen_;
};

/// What text() and the HTTP server ask.
class Sources : public prometheus::Collectable {
 public:
  using StatsSource = std::function<std::optional<manager::ManagerStats>()>;

  void add(Exporter::Source source) {
    std::lock_guard const lock(mutex_);
    sources_.push_back(std::move(source));
  }

  void add(StatsSource source, std::string const& name) {
    std::lock_guard const lock(mutex_);
    auto& slot = managers_[name];
    KVBM_EXPECTS(
        slot == nullptr || slot() == std::nullopt, AlreadyExists,
        fmt::format("a manager is exported as '{}' already: give each its own name", name));
    slot = std::move(source);
  }

  [[nodiscard]] std::vector<prometheus::MetricFamily> Collect() const override {
    std::vector<Exporter::Source> sources;
    {
      std::lock_guard const lock(mutex_);
      for (auto const& [name, stats] : managers_) {
        sources.push_back(
            [manager = name, source = stats] { return manager_samples(manager, source); });
      }
      sources.insert(sources.end(), sources_.begin(), sources_.end());
    }
    Families families;
    for (auto const& source : sources) {
      try {
        for (auto& sample : source()) {
          std::string const name = sample.name;
          if (!families.add(std::move(sample))) { refuse("sample", name); }
        }
      } catch (std::exception const& error) { refuse("source", error.what()); }
    }
    std::unique_lock lock(mutex_);
    Sample errors{"kvbm_exporter_errors_total",
                  "Sources that threw, and samples that Prometheus would refuse.",
                  Kind::Counter,
                  {},
                  static_cast<double>(num_errors_),
                  {}};
    lock.unlock();
    families.add(std::move(errors));
    return std::move(families).take();
  }

 private:
  static std::vector<Sample> manager_samples(std::string const& name, StatsSource const& source) {
    auto const stats = source();
    if (!stats) { return {}; }
    auto samples = samples_of(*stats);
    if (!name.empty()) {
      for (auto& sample : samples) {
        sample.labels.emplace_back("manager", name);
      }
    }
    return samples;
  }

  void refuse(char const* what, std::string const& which) const {
    std::lock_guard const lock(mutex_);
    // The first one in words: a source that is broken is so at every look.
    if (num_errors_++ > 0) { return; }
    log::write(log::Level::Error, fmt::format("metrics: a {} is left out, and later ones silently: "
                                              "{}",
                                              what, which));
  }

  mutable std::mutex mutex_;
  std::map<std::string, StatsSource> managers_;
  std::vector<Exporter::Source> sources_;
  mutable std::uint64_t num_errors_ = 0;
};

/// @throws Error(InvalidArgument) unless it is [HOST]:PORT
void check_address(std::string const& address) {
  auto const colon = address.rfind(':');
  unsigned port = 65536;
  if (colon != std::string::npos) {
    char const* const end = address.data() + address.size();
    auto const [stop, error] = std::from_chars(address.data() + colon + 1, end, port);
    if (error != std::errc{} || stop != end) { port = 65536; }
  }
  // The server reads lists of addresses, and letters behind the port.
  KVBM_EXPECTS(port <= 65535 && address.find(',') == std::string::npos, InvalidArgument,
               fmt::format("address '{}': say HOST:PORT, like 127.0.0.1:9400", address));
}

}  // namespace

class Exporter::Impl {
 public:
  std::shared_ptr<Sources> const sources_ = std::make_shared<Sources>();
  std::mutex mutex_;
  std::unique_ptr<prometheus::Exposer> server_;
};

Exporter::Exporter() : impl_(std::make_unique<Impl>()) {}
Exporter::~Exporter() = default;
Exporter::Exporter(Exporter&&) noexcept = default;
Exporter& Exporter::operator=(Exporter&&) noexcept = default;

void Exporter::add(manager::TransferManager const& manager, std::string const& name) {
  impl_->sources_->add(manager.statistics_source(), name);
}

void Exporter::add(Source source) {
  KVBM_EXPECTS(source != nullptr, InvalidArgument, "add(): the source is empty");
  impl_->sources_->add(std::move(source));
}

std::string Exporter::text() const {
  std::ostringstream out;
  prometheus::TextSerializer().Serialize(out, impl_->sources_->Collect());
  return out.str();
}

std::uint16_t Exporter::listen(std::string const& address) {
  check_address(address);
  std::lock_guard const lock(impl_->mutex_);
  KVBM_EXPECTS(impl_->server_ == nullptr, AlreadyExists,
               "this exporter serves an address already: stop() it first");
  std::unique_ptr<prometheus::Exposer> server;
  try {
    // Two threads and a short patience, so that a client that says nothing keeps no scrape waiting.
    // CivetWeb takes a port alone for every interface.
    server = std::make_unique<prometheus::Exposer>(std::vector<std::string>{
        "listening_ports", address.front() == ':' ? address.substr(1) : address, "num_threads", "2",
        "request_timeout_ms", "5000"});
  } catch (std::exception const& error) {
    throw_error(ErrorCode::Io,
                fmt::format("cannot serve metrics at '{}': {}; is the port free, and the address "
                            "one of this machine's?",
                            address, error.what()));
  }
  auto const ports = server->GetListeningPorts();
  KVBM_EXPECTS(!ports.empty(), Io, fmt::format("metrics at '{}': no port was opened", address));
  server->RegisterCollectable(impl_->sources_);
  impl_->server_ = std::move(server);
  return static_cast<std::uint16_t>(ports.front());
}

void Exporter::stop() {
  std::lock_guard const lock(impl_->mutex_);
  impl_->server_.reset();
}

}  // namespace kvbm::metrics
