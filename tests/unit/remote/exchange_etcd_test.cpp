// SPDX-License-Identifier: Apache-2.0
//
// What only the exchange over etcd does: leases, other processes, an etcd that is not well.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <functional>
#include <thread>

#include "kvbm/core/error.hpp"
#include "kvbm/testing/child_process.hpp"
#include "remote/etcd_client.hpp"
#include "remote/etcd_store.hpp"
#include "support/test_program.hpp"
#include "unit/remote/etcd_server.hpp"
#include "unit/remote/raw_server.hpp"

namespace kvbm::remote::test {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;
using ::testing::StartsWith;
using namespace std::chrono_literals;

constexpr std::chrono::milliseconds kPatience = 60s;
constexpr char const* kNobody = "http://127.0.0.1:1";
constexpr char const* kLeaseSeconds = "3";  // of the other process

std::string error_of(std::function<void()> const& call, ErrorCode code) {
  try {
    call();
  } catch (Error const& error) {
    EXPECT_EQ(error.code(), code) << error.what();
    return error.what();
  }
  ADD_FAILURE() << "nothing was thrown";
  return {};
}

/// Looks again and again until it is so, or the patience ends.
bool becomes(std::function<bool()> const& is_so) {
  auto const give_up = std::chrono::steady_clock::now() + kPatience;
  while (!is_so()) {
    if (std::chrono::steady_clock::now() > give_up) { return false; }
    std::this_thread::sleep_for(20ms);
  }
  return true;
}

class EtcdExchange : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string const reason = EtcdServer::why_missing();
    if (!reason.empty()) { GTEST_SKIP() << reason; }
    place_.emplace();
    client_.emplace(place_->options());
    store_.emplace(*client_, place_->prefix());
  }
  std::shared_ptr<MetadataExchange> exchange() { return place_->owner(); }
  testing::LineProcess peer() {
    return testing::LineProcess(
        testing::test_program(KVBM_EXCHANGE_PEER),
        {"etcd", EtcdServer::shared().endpoint(), place_->prefix(), kLeaseSeconds});
  }
  std::vector<std::string> all_keys() { return client_->keys(place_->prefix(), "", 1000); }

  std::optional<EtcdPlace> place_;
  std::optional<EtcdClient> client_;
  std::optional<EtcdStore> store_;
};

TEST_F(EtcdExchange, CrossesProcesses) {
  auto const here = exchange();
  auto there = peer();
  ASSERT_EQ(there.ask("publish there 3000000 5"), "ok");
  EXPECT_TRUE(here->fetch("there", kPatience) == make_blob(3000000, 5));
  here->publish("here", make_blob(100, 6));
  EXPECT_EQ(there.ask("fetch here 60000"), "ok " + checksum_of(make_blob(100, 6)));
  EXPECT_EQ(there.ask("list"), "ok here there");
  EXPECT_THAT(there.ask("publish here 1 1"), StartsWith("error AlreadyExists"));
  EXPECT_THAT(error_of([&] { here->publish("there", {}); }, ErrorCode::AlreadyExists),
              HasSubstr("process " + std::to_string(there.pid())));
  EXPECT_EQ(there.ask("withdraw there"), "ok");
  EXPECT_THAT(here->list(), ElementsAre("here"));
}

TEST_F(EtcdExchange, AnEntryLivesAsLongAsItsProcess) {
  auto const here = exchange();
  auto there = peer();
  ASSERT_EQ(there.ask("publish worker 3000 5"), "ok");
  auto const until = std::chrono::steady_clock::now() + 2s * std::stoi(kLeaseSeconds);
  while (std::chrono::steady_clock::now() < until) {
    ASSERT_EQ(here->fetch("worker", 0ms), make_blob(3000, 5));
    std::this_thread::sleep_for(50ms);
  }
  there.stop();
  EXPECT_TRUE(becomes([&] { return here->list().empty(); }));
  error_of([&] { here->fetch("worker", 0ms); }, ErrorCode::Timeout);
  EXPECT_THAT(all_keys(), IsEmpty());
}

TEST_F(EtcdExchange, AWorkerThatIsStartedAgainWaitsForItsFormerEntryToEnd) {
  auto there = peer();
  ASSERT_EQ(there.ask("publish worker 10 5"), "ok");
  there.stop();
  auto options = place_->options();
  options.name_timeout = kPatience;
  auto const again = make_etcd_exchange(options);
  again->publish("worker", make_blob(10, 6));
  EXPECT_EQ(exchange()->fetch("worker", kPatience), make_blob(10, 6));
}

TEST_F(EtcdExchange, LeavesNoKeysBehind) {
  auto a = exchange();
  auto const b = exchange();
  a->publish("w", make_blob(3 << 20, 1));
  EXPECT_EQ(all_keys().size(), 4U);
  a->publish("w", make_blob(10, 2));
  EXPECT_EQ(all_keys().size(), 2U) << "chunks of the first one stay";
  error_of([&] { b->publish("w", make_blob(3 << 20, 1)); }, ErrorCode::AlreadyExists);
  EXPECT_EQ(all_keys().size(), 2U) << "chunks of the refused one stay";
  a->withdraw("w");
  EXPECT_THAT(all_keys(), IsEmpty());
  a->publish("w", make_blob(10, 2));
  a->publish("v", make_blob(10, 2));
  a.reset();
  EXPECT_THAT(all_keys(), IsEmpty());
}

TEST_F(EtcdExchange, PutsBackWhatWentWithALostLease) {
  auto options = place_->options();
  options.lease_ttl = 2s;
  auto const a = make_etcd_exchange(options);
  a->publish("one", make_blob(10, 1));
  a->publish("two", make_blob(3 << 20, 2));
  auto const before = store_->find("two");
  ASSERT_TRUE(before.has_value());
  // What the exchange does not know of: its lease ends.
  HttpClient http({});
  auto const leases = http.post(EtcdServer::shared().endpoint() + "/v3/lease/leases", "{}",
                                Deadline(kPatience), 1 << 20);
  ASSERT_EQ(leases.status, 200);
  for (std::size_t at = leases.body.find("\"ID\":\""); at != std::string::npos;
       at = leases.body.find("\"ID\":\"", at + 1)) {
    client_->revoke(std::stoll(leases.body.substr(at + 6)), kPatience);
  }
  EXPECT_TRUE(becomes([&] {
    auto const now = store_->find("two");
    return now && now->revision > before->revision;
  }));
  auto const b = exchange();
  EXPECT_EQ(b->fetch("one", kPatience), make_blob(10, 1));
  EXPECT_TRUE(b->fetch("two", kPatience) == make_blob(3 << 20, 2));
  a->publish("one", make_blob(10, 3));
  EXPECT_EQ(b->fetch("one", kPatience), make_blob(10, 3));
  a->withdraw("two");
  EXPECT_THAT(b->list(), ElementsAre("one"));
}

TEST_F(EtcdExchange, ReportsDamage) {
  auto const a = exchange();
  a->publish("w", make_blob(2 << 20, 1));
  auto const keys = all_keys();
  ASSERT_EQ(keys.size(), 3U);
  auto const lease = client_->grant(60s).id;
  std::string const chunk = keys[0];
  std::string const head_key = keys[2];
  ASSERT_THAT(chunk, HasSubstr("/data/w/"));
  std::string const good = client_->get(chunk)->value;
  std::string flipped = good;
  flipped[1000] = static_cast<char>(flipped[1000] ^ 1);
  client_->put(chunk, flipped, lease);
  EXPECT_THAT(error_of([&] { a->fetch("w", 0ms); }, ErrorCode::Corrupt), HasSubstr("checksum"));
  client_->put(chunk, good.substr(1), lease);
  EXPECT_THAT(error_of([&] { a->fetch("w", 0ms); }, ErrorCode::Corrupt), HasSubstr("chunk 0"));
  client_->put(chunk, good, lease);
  EXPECT_TRUE(a->fetch("w", 0ms) == make_blob(2 << 20, 1));

  char const* const huge =
      R"({"version":1,"owner_id":1,"owner":"x","upload":1,"bytes":99999999999,)"
      R"("checksum_low":1,"checksum_high":1})";
  for (char const* const head :
       {"", "nonsense", "{}", "[1]", R"({"version":1})", R"({"version":"1"})", huge}) {
    client_->put(head_key, head, lease);
    error_of([&] { a->fetch("w", 0ms); }, ErrorCode::Corrupt);
  }
  client_->put(head_key, R"({"version":2})", lease);
  error_of([&] { a->fetch("w", kPatience); }, ErrorCode::VersionMismatch);
  client_->revoke(lease, kPatience);
}

TEST_F(EtcdExchange, UsesTheEndpointsThatWork) {
  RawServer const silent("", "");
  auto options = place_->options();
  options.endpoints.insert(options.endpoints.begin(),
                           {kNobody, "http://" + silent.address() + "/"});
  options.request_timeout = 3s;
  auto const a = make_etcd_exchange(options);
  a->publish("w", make_blob(10, 1));
  EXPECT_EQ(exchange()->fetch("w", kPatience), make_blob(10, 1));
}

class UnwellEtcd : public ::testing::Test {
 protected:
  void SetUp() override {
    try {
      at(kNobody);
    } catch (UnsupportedError const& error) { GTEST_SKIP() << error.what(); }
  }
  static std::shared_ptr<MetadataExchange> at(std::string const& endpoint,
                                              std::chrono::milliseconds timeout = kPatience) {
    EtcdExchangeOptions options;
    options.endpoints = {endpoint};
    options.request_timeout = timeout;
    return make_etcd_exchange(options);
  }
  static void expect_everywhere(std::string const& endpoint, ErrorCode code,
                                std::chrono::milliseconds timeout = kPatience) {
    auto const a = at(endpoint, timeout);
    error_of([&] { a->publish("w", {}); }, code);
    error_of([&] { a->list(); }, code);
    error_of([&] { a->fetch("w", 0ms); }, code);
    a->withdraw("w");  // nothing was published
  }
};

TEST_F(UnwellEtcd, DownIsAnErrorThatNamesTheEndpoint) {
  expect_everywhere(kNobody, ErrorCode::Io);
  EXPECT_THAT(error_of([] { at(kNobody)->list(); }, ErrorCode::Io), HasSubstr(kNobody));
  EXPECT_THAT(error_of([] { at(kNobody)->fetch("w", 30ms); }, ErrorCode::Timeout),
              HasSubstr(kNobody));
}

TEST_F(UnwellEtcd, SilentIsATimeout) {
  RawServer const silent("", "");
  expect_everywhere("http://" + silent.address(), ErrorCode::Timeout, 200ms);
}

TEST_F(UnwellEtcd, GarbageIsCorrupt) {
  for (std::string const& answer :
       {std::string("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx"),
        std::string("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"),
        std::string("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[]"),
        std::string("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{\"header\""),
        std::string("HTTP/1.1 404 Not Found\r\nContent-Length: 6\r\n\r\n<html>"),
        std::string("HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:2/\r\n"
                    "Content-Length: 0\r\n\r\n"),
        std::string("SSH-2.0-OpenSSH_9.2\r\n")}) {
    RawServer const garbage("", answer);
    SCOPED_TRACE(answer);
    expect_everywhere("http://" + garbage.address(), ErrorCode::Corrupt);
  }
}

TEST_F(UnwellEtcd, AnAnswerWithoutEndIsCutOff) {
  std::string const header = "HTTP/1.1 200 OK\r\nContent-Length: 99999999\r\n\r\n";
  RawServer const endless("", header + std::string(5 << 20, ' '));
  auto const a = at("http://" + endless.address());
  EXPECT_THAT(error_of([&] { a->list(); }, ErrorCode::Corrupt), HasSubstr("longer than"));
}

TEST_F(UnwellEtcd, RefusesBadOptions) {
  auto const refuse = [](auto change, std::string const& field) {
    EtcdExchangeOptions options;
    options.endpoints = {kNobody};
    change(options);
    EXPECT_THAT(error_of([&] { make_etcd_exchange(options); }, ErrorCode::InvalidArgument),
                HasSubstr(field));
  };
  refuse([](auto& o) { o.endpoints.clear(); }, "endpoints");
  for (char const* const endpoint :
       {"", "127.0.0.1:2379", "ftp://host:1", "http://", "http://a b", "http://host:1/?x"}) {
    refuse([&](auto& o) { o.endpoints.push_back(endpoint); }, "endpoint '");
  }
  EtcdExchangeOptions with_password;
  with_password.endpoints = {"http://me:secret@host:2379"};
  EXPECT_THAT(error_of([&] { make_etcd_exchange(with_password); }, ErrorCode::InvalidArgument),
              Not(HasSubstr("secret")));
  refuse([](auto& o) { o.prefix.clear(); }, "prefix");
  refuse([](auto& o) { o.prefix = "a b"; }, "prefix");
  refuse([](auto& o) { o.lease_ttl = 0s; }, "lease_ttl");
  refuse([](auto& o) { o.request_timeout = 0ms; }, "request_timeout");
}

}  // namespace
}  // namespace kvbm::remote::test
