// SPDX-License-Identifier: Apache-2.0
#include "kvbm/metrics/exporter.hpp"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <random>
#include <sstream>
#include <stdexcept>
#include <stop_token>
#include <thread>

#include "contract/transfer_fixture.hpp"
#include "kvbm/testing/faulty_disk_io.hpp"
#include "unit/metrics/exposition.hpp"

namespace kvbm::testing {
namespace {

using namespace std::chrono_literals;
using metrics::Exporter;
using metrics::Kind;
using metrics::Sample;
using transfer::KvBlocks;

class Metrics : public TransferTest {
 protected:
  PhysicalLayout make_plain(StorageKind storage, std::uint64_t num_blocks = 8) {
    return make(small_config(num_blocks), contiguous(KvBlockLayout::OperationalNHD), storage);
  }
  static Sample gauge(std::string name, double value, std::vector<metrics::Label> labels = {}) {
    return {std::move(name), "A number.", Kind::Gauge, std::move(labels), value, {}};
  }
  [[nodiscard]] Exposition read() const { return Exposition(exporter_.text()); }

  Exporter exporter_;
};

/// What a manager's own books say is what the text says.
void expect_same(Exposition const& text, transfer::TransferStats const& stats) {
  for (auto const& [route, counts] : stats.routes) {
    Exposition::Labels const labels{{"route", to_string(route)},
                                    {"reach", std::string(to_string(route.reach))}};
    auto const with = [&labels](std::string const& name, std::string const& value) {
      auto more = labels;
      more.emplace(name, value);
      return more;
    };
    auto const expect = [](double found, std::uint64_t expected) {
      EXPECT_EQ(found, static_cast<double>(expected));
    };
    expect(text.value("kvbm_transfers_submitted_total", labels), counts.submitted);
    expect(text.value("kvbm_transfers_total", with("outcome", "completed")), counts.completed);
    expect(text.value("kvbm_transfers_total", with("outcome", "failed")), counts.failed);
    expect(text.value("kvbm_transfers_total", with("outcome", "cancelled")), counts.cancelled);
    expect(text.value("kvbm_transfers_in_flight", labels), counts.in_flight);
    expect(text.value("kvbm_transfer_submitted_bytes_total", labels), counts.bytes_submitted);
    expect(text.value("kvbm_transfer_bytes_total", with("outcome", "completed")),
           counts.bytes_completed);
    expect(text.value("kvbm_transfer_bytes_total", with("outcome", "failed")), counts.bytes_failed);
    expect(text.value("kvbm_transfer_in_flight_bytes", labels), counts.bytes_in_flight);
    expect(text.part("kvbm_transfer_duration_seconds", "_count", labels), counts.latency.count());
    expect(text.sum("kvbm_transfer_errors_total", labels), counts.failed + counts.cancelled);
  }
}

TEST_F(Metrics, TheTextSaysWhatTheManagerCounts) {
  exporter_.add(manager_);
  auto const system = make_plain(StorageKind::System);
  move(system, {0, 1}, make_plain(StorageKind::Pinned), {3, 4});
  move(system, {0, 1, 2}, make_plain(StorageKind::Disk), {3, 4, 5}).wait();
  std::stop_source stop;
  stop.request_stop();
  EXPECT_THROW(move(system, {0}, make_plain(StorageKind::Device), {1},
                    TransferOptions::builder().cancellation(stop.get_token()).build())
                   .wait(),
               CancelledError);
  manager_.register_layout(system);

  auto const text = read();
  auto const stats = manager_.statistics();
  expect_same(text, stats.transfers);
  auto const block = static_cast<double>(small_config(1).block_bytes());
  EXPECT_EQ(text.value("kvbm_transfer_bytes_total",
                       {{"route", "system_to_disk"}, {"reach", "local"}, {"outcome", "completed"}}),
            3 * block);
  EXPECT_EQ(text.value("kvbm_transfer_errors_total",
                       {{"route", "system_to_device"}, {"reach", "local"}, {"code", "Cancelled"}}),
            1);
  EXPECT_EQ(text.value("kvbm_layouts"), 1);
  EXPECT_EQ(text.value("kvbm_exporter_errors_total"), 0);
  EXPECT_FALSE(text.has("kvbm_remote_workers")) << "this manager knows no other workers";
  EXPECT_EQ(text.families().at("kvbm_transfer_duration_seconds").type, "histogram");
}

TEST_F(Metrics, LatenciesAreInSeconds) {
  manager::ManagerStats stats;
  stats.transfers.routes.push_back({{StorageKind::Device, StorageKind::Pinned, {}}, {}});
  auto& latency = stats.transfers.routes[0].counts.latency;
  for (auto const time : {500ns, 2000ns, 3000ns, 200'000'000'000ns}) {
    latency.add(time);
  }
  exporter_.add([stats] { return metrics::samples_of(stats); });
  auto const text = read();
  Exposition::Labels const labels{{"route", "device_to_pinned"}, {"reach", "local"}};
  std::string const name = "kvbm_transfer_duration_seconds";
  EXPECT_DOUBLE_EQ(text.part(name, "_sum", labels), 200.0000055);
  std::map<double, double> buckets;
  for (auto const& [series, count] : text.families().at(name).series) {
    if (series.first == name + "_bucket" && series.second.at("le") != "+Inf") {
      buckets[std::stod(series.second.at("le"))] = count;
    }
  }
  ASSERT_EQ(buckets.size(), transfer::LatencyHistogram::kNumBounds);
  auto bucket = buckets.begin();
  for (auto const& [bound, count] : {std::pair(1e-6, 1.0), {2e-6, 2.0}, {4e-6, 3.0}, {8e-6, 3.0}}) {
    EXPECT_DOUBLE_EQ(bucket->first, bound);
    EXPECT_EQ(bucket->second, count);
    ++bucket;
  }
  EXPECT_DOUBLE_EQ(buckets.rbegin()->first, 134.217728);
  EXPECT_EQ(buckets.rbegin()->second, 3) << "the fourth took longer";
}

TEST_F(Metrics, AnS3ClientsCountsAreCountersOfItsOwn) {
  object::S3Stats stats;
  stats.requests = 10;
  stats.retries = 3;
  stats.succeeded = 6;
  stats.failed = 1;
  stats.bytes_sent = 4096;
  stats.bytes_received = 100;
  stats.connections = 2;
  stats.attempt_errors[static_cast<std::size_t>(object::S3ErrorKind::Throttled)] = 4;
  exporter_.add([stats] { return metrics::samples_of(stats); });
  auto const text = read();
  EXPECT_EQ(text.value("kvbm_s3_attempts_total"), 10);
  EXPECT_EQ(text.value("kvbm_s3_retries_total"), 3);
  EXPECT_EQ(text.value("kvbm_s3_requests_total", {{"outcome", "completed"}}), 6);
  EXPECT_EQ(text.value("kvbm_s3_requests_total", {{"outcome", "failed"}}), 1);
  EXPECT_EQ(text.value("kvbm_s3_sent_bytes_total"), 4096);
  EXPECT_EQ(text.value("kvbm_s3_received_bytes_total"), 100);
  EXPECT_EQ(text.value("kvbm_s3_connections_total"), 2);
  EXPECT_EQ(text.value("kvbm_s3_attempt_errors_total", {{"kind", "Throttled"}}), 4);
}

TEST_F(Metrics, APrefixStoresTiersAreToldApartByTheirLabel) {
  prefix::PrefixStats stats;
  stats.lookups = 5;
  stats.missed = 7;
  stats.queued_writes = 2;
  stats.tiers.resize(2);
  stats.tiers[0].tier = remote::LogicalLayoutHandle::G2;
  stats.tiers[0].hits = 3;
  stats.tiers[1].tier = remote::LogicalLayoutHandle::G3;
  stats.tiers[1].hits = 4;
  stats.tiers[1].corrupt = 1;
  stats.tiers[1].blocks = 9;
  exporter_.add([stats] { return metrics::samples_of(stats); });
  auto const text = read();
  EXPECT_EQ(text.value("kvbm_prefix_tier_hits_total", {{"tier", "G2"}}), 3);
  EXPECT_EQ(text.value("kvbm_prefix_tier_hits_total", {{"tier", "G3"}}), 4);
  EXPECT_EQ(text.value("kvbm_prefix_tier_errors_total", {{"tier", "G3"}, {"kind", "corrupt"}}), 1);
  EXPECT_EQ(text.value("kvbm_prefix_tier_errors_total", {{"tier", "G2"}, {"kind", "corrupt"}}), 0);
  EXPECT_EQ(text.value("kvbm_prefix_tier_blocks", {{"tier", "G3"}}), 9);
  EXPECT_EQ(text.value("kvbm_prefix_lookups_total"), 5);
  EXPECT_EQ(text.value("kvbm_prefix_missed_blocks_total"), 7);
  EXPECT_EQ(text.value("kvbm_prefix_queued_writes"), 2);
  EXPECT_EQ(text.value("kvbm_exporter_errors_total"), 0);
}

TEST_F(Metrics, SeveralManagersAreToldApartByTheirNames) {
  auto const name = [](char const* manager) { return Exposition::Labels{{"manager", manager}}; };
  exporter_.add(manager_, "engine");
  {
    auto other = small_manager().build();
    exporter_.add(other, "cache");
    other.register_layout(make_plain(StorageKind::System));
    EXPECT_EQ(read().value("kvbm_layouts", name("cache")), 1);
    EXPECT_EQ(failure_of_call([&] {
                exporter_.add(manager_, "cache");
                return 0;
              }).code,
              ErrorCode::AlreadyExists);
    auto const moved = std::move(other);
    EXPECT_EQ(read().value("kvbm_layouts", name("cache")), 1) << "a manager may be moved";
  }
  auto const text = read();
  EXPECT_FALSE(text.has("kvbm_layouts", name("cache"))) << "that manager is gone";
  EXPECT_EQ(text.value("kvbm_layouts", name("engine")), 0);
  exporter_.add(manager_, "cache");
  EXPECT_TRUE(read().has("kvbm_layouts", name("cache"))) << "its name is free again";
}

TEST_F(Metrics, SourcesOfOthersAreAskedAtEachLook) {
  auto const looks = std::make_shared<std::atomic<int>>(0);
  exporter_.add([looks] {
    return std::vector<Sample>{
        gauge("tier_blocks", ++*looks, {{"tier", "a \"quoted\"\\ name\nof two lines"}})};
  });
  for (int look = 1; look <= 3; ++look) {
    EXPECT_EQ(read().value("tier_blocks", {{"tier", "a \"quoted\"\\ name\nof two lines"}}), look);
  }
  EXPECT_EQ(failure_of_call([&] {
              exporter_.add(Exporter::Source{});
              return 0;
            }).code,
            ErrorCode::InvalidArgument);
}

TEST_F(Metrics, WhatPrometheusWouldRefuseIsLeftOutAndCounted) {
  exporter_.add([]() -> std::vector<Sample> { throw std::runtime_error("no answer"); });
  exporter_.add([] {
    auto other_kind = gauge("good", 1, {{"kind", "other"}});
    other_kind.kind = Kind::Counter;
    return std::vector<Sample>{gauge("good", 1),
                               gauge("good", 2),  // again
                               gauge("good", 3, {{"a", "1"}, {"b", "2"}}),
                               gauge("good", 4, {{"b", "2"}, {"a", "1"}}),  // again
                               gauge("", 5),
                               gauge("9lives", 6),
                               gauge("with space", 7),
                               gauge("bad_label", 8, {{"9", "x"}}),
                               gauge("same_label", 9, {{"a", "x"}, {"a", "y"}}),
                               gauge("le_label", 10, {{"le", "1"}}),
                               other_kind};
  });
  auto const text = read();
  EXPECT_EQ(text.families().size(), 2U);
  EXPECT_EQ(text.value("good"), 1);
  EXPECT_EQ(text.value("good", {{"a", "1"}, {"b", "2"}}), 3);
  EXPECT_EQ(text.value("kvbm_exporter_errors_total"), 10);
}

// --- HTTP

/// What a server answers to `request`, as it came.
std::string ask(std::uint16_t port, std::string const& request) {
  int const fd = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(port);
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  std::string answer;
  if (::connect(fd, reinterpret_cast<sockaddr*>(&address), sizeof address) == 0 &&
      ::send(fd, request.data(), request.size(), MSG_NOSIGNAL) ==
          static_cast<ssize_t>(request.size())) {
    char buffer[4096];
    for (ssize_t got = 0; (got = ::recv(fd, buffer, sizeof buffer, 0)) > 0;) {
      answer.append(buffer, static_cast<std::size_t>(got));
    }
  }
  ::close(fd);
  return answer;
}

constexpr char const* kScrape =
    "GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";

TEST_F(Metrics, AScrapeThroughASocketReadsTheSameNumbers) {
  exporter_.add(manager_);
  move(make_plain(StorageKind::System), {0, 1}, make_plain(StorageKind::Pinned), {3, 4});
  auto const port = exporter_.listen("127.0.0.1:0");
  ASSERT_NE(port, 0);
  auto const answer = ask(port, kScrape);
  ASSERT_TRUE(answer.starts_with("HTTP/1.1 200 ")) << answer;
  auto const end = answer.find("\r\n\r\n");
  ASSERT_NE(end, std::string::npos);
  EXPECT_NE(answer.substr(0, end).find("Content-Type: text/plain"), std::string::npos)
      << answer.substr(0, end);
  Exposition const text([&] {
    // The server adds families of its own, among them a summary.
    std::string ours;
    std::istringstream lines(answer.substr(end + 4));
    for (std::string line; std::getline(lines, line);) {
      if (line.find("exposer_") == std::string::npos) { ours += line + "\n"; }
    }
    return ours;
  }());
  expect_same(text, manager_.statistics().transfers);
  EXPECT_FALSE(ask(port, "GET /secrets HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
                   .starts_with("HTTP/1.1 200 "));
  exporter_.stop();
  EXPECT_EQ(ask(port, kScrape), "");
  EXPECT_NE(exporter_.listen("127.0.0.1:0"), 0) << "it may serve again";
}

TEST_F(Metrics, AddressesThatCannotBeServedAreRefused) {
  auto const failure = [this](std::string const& address) {
    return failure_of_call([&] { return exporter_.listen(address); });
  };
  for (auto const* const address :
       {"", "localhost", "127.0.0.1:", "127.0.0.1:http", "127.0.0.1:65536", "127.0.0.1:-1",
        "127.0.0.1:1,2:3", "127.0.0.1:80s", "127.0.0.1: 80"}) {
    EXPECT_EQ(failure(address).code, ErrorCode::InvalidArgument) << address;
  }
  auto const port = exporter_.listen("127.0.0.1:0");
  EXPECT_EQ(failure("127.0.0.1:0").code, ErrorCode::AlreadyExists);
  Exporter second;
  auto const taken =
      failure_of_call([&] { return second.listen("127.0.0.1:" + std::to_string(port)); });
  EXPECT_EQ(taken.code, ErrorCode::Io) << "the port is taken";
  EXPECT_TRUE(taken.names(std::to_string(port))) << taken.message;
  EXPECT_EQ(failure_of_call([&] { return second.listen("203.0.113.7:0"); }).code, ErrorCode::Io);
}

TEST_F(Metrics, AnExporterOutlivesItsManagersAndServesWhileTheyEnd) {
  auto const port = exporter_.listen("127.0.0.1:0");
  std::atomic<bool> ended{false};
  std::jthread scraper([&] {
    while (!ended) {
      EXPECT_TRUE(ask(port, kScrape).starts_with("HTTP/1.1 200 "));
      Exposition const text(exporter_.text());
    }
  });
  for (int round = 0; round < 20; ++round) {
    auto manager = small_manager().build();
    exporter_.add(manager);
    auto const src = make_plain(StorageKind::System);
    manager.execute_transfer(KvBlocks::of(src, {0, 1}),
                             KvBlocks::of(make_plain(StorageKind::Disk), {0, 1}));
  }
  ended = true;
}

// --- the invariant

TEST(MetricsInvariant, HoldsInTenThousandSnapshotsWhileTransfersSucceedFailAndAreStopped) {
  // Every 5th request of the disk fails; deadlines and tokens stop some transfers.
  auto const disk = std::make_shared<FaultyDiskIo>(
      memory::make_disk_io(),
      [](memory::DiskRequest const&, std::uint64_t number) -> std::optional<DiskFault> {
        if (number % 5 != 4) { return std::nullopt; }
        return DiskFault{EIO, 0};
      });
  auto manager = small_manager().disk_io(disk).build();
  auto const make = [&](StorageKind storage) {
    return make_layout(manager.memory_source(), small_config(16),
                       contiguous(KvBlockLayout::OperationalNHD), storage);
  };
  Exporter exporter;
  exporter.add(manager);

  struct Seen {  // by those who asked for the transfers
    std::uint64_t submitted = 0, failed = 0, cancelled = 0, blocks = 0, failed_blocks = 0;
  };
  constexpr unsigned kThreads = 4;
  constexpr int kTransfers = 400;
  std::vector<Seen> seen(kThreads);
  std::atomic<unsigned> running{kThreads};
  std::vector<std::jthread> threads;
  for (unsigned thread = 0; thread < kThreads; ++thread) {
    auto const src = make(thread % 2 == 0 ? StorageKind::Pinned : StorageKind::System);
    threads.emplace_back([&, thread, src, device = make(StorageKind::Device),
                          file = make(StorageKind::Disk), host = make(StorageKind::System)] {
      std::mt19937 random(thread);
      for (int i = 0; i < kTransfers; ++i) {
        auto const& dst = i % 3 == 0 ? file : i % 3 == 1 ? device : host;
        auto const count = random() % 17;
        std::stop_source stop;
        TransferOptions options;
        if (random() % 4 == 0) { options.timeout = std::chrono::microseconds(1 + random() % 300); }
        if (random() % 4 == 0) { options.cancellation = stop.get_token(); }
        auto const ids = first_blocks(count);
        auto const notification =
            manager.execute_transfer(KvBlocks::of(src, ids), KvBlocks::of(dst, ids), options);
        if (random() % 2 == 0) { stop.request_stop(); }
        auto const failure = failure_of_call([&] {
          notification.wait();
          return 0;
        });
        ++seen[thread].submitted;
        seen[thread].blocks += count;
        seen[thread].failed_blocks += notification.failed_blocks().size();
        bool const cancelled = failure.code == ErrorCode::Cancelled;
        seen[thread].cancelled += cancelled ? 1U : 0U;
        seen[thread].failed += failure.code && !cancelled ? 1U : 0U;
      }
      --running;
    });
  }
  transfer::TransferCounts before;
  int snapshots = 0;
  while (snapshots < 10'000 || running > 0) {
    auto const stats = manager.statistics().transfers;
    expect_balanced(stats);
    auto const total = stats.total();
    EXPECT_GE(total.bytes_submitted, before.bytes_submitted);
    EXPECT_GE(total.bytes_completed, before.bytes_completed);
    EXPECT_GE(total.bytes_failed, before.bytes_failed);
    before = total;
    if (snapshots++ % 100 == 0) {
      Exposition const text(exporter.text());
      EXPECT_EQ(text.sum("kvbm_transfer_submitted_bytes_total"),
                text.sum("kvbm_transfer_bytes_total") + text.sum("kvbm_transfer_in_flight_bytes"));
    }
    if (::testing::Test::HasFailure()) { break; }
  }
  threads.clear();

  Seen all;
  for (auto const& one : seen) {
    all.submitted += one.submitted;
    all.failed += one.failed;
    all.cancelled += one.cancelled;
    all.blocks += one.blocks;
    all.failed_blocks += one.failed_blocks;
  }
  auto const total = manager.statistics().transfers.total();
  auto const block_bytes = small_config(1).block_bytes();
  EXPECT_EQ(total.submitted, all.submitted);
  EXPECT_EQ(total.failed, all.failed);
  EXPECT_EQ(total.cancelled, all.cancelled);
  EXPECT_EQ(total.in_flight, 0U);
  EXPECT_EQ(total.bytes_in_flight, 0U);
  EXPECT_EQ(total.bytes_submitted, all.blocks * block_bytes);
  EXPECT_EQ(total.bytes_failed, all.failed_blocks * block_bytes);
  EXPECT_GT(total.failed, 0U);
  EXPECT_GT(total.cancelled, 0U);
  EXPECT_GT(total.completed, 0U);
}

}  // namespace
}  // namespace kvbm::testing
