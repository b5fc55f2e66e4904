// SPDX-License-Identifier: Apache-2.0
#include "kvbm/object/s3_client.hpp"

#include <atomic>
#include <condition_variable>
#include <mutex>
#include <thread>

#include "unit/object/object_fixture.hpp"

namespace kvbm::object::test {
namespace {

TEST(S3Client, PutsAndGets) {
  ObjectServer server;
  S3Client client(options_for(server.endpoint()));
  EXPECT_EQ(client.url(), server.endpoint() + "/blocks");
  auto const data = pattern(100'000, 1);
  client.put("a/b c+~%?&=", data, {{"name", "value, with spaces"}});
  EXPECT_EQ(server.keys(), std::vector<std::string>{"a/b c+~%?&="});
  std::vector<std::byte> back(data.size());
  auto const object = client.get("a/b c+~%?&=", back);
  EXPECT_EQ(back, data);
  EXPECT_EQ(object.bytes, data.size());
  EXPECT_EQ(object.find("name"), "value, with spaces");
  EXPECT_EQ(object.find("other"), std::nullopt);
}

TEST(S3Client, ReadsRanges) {
  ObjectServer server;
  S3Client client(options_for(server.endpoint()));
  auto const data = pattern(10'000, 2);
  client.put("key", data);
  std::vector<std::byte> part(300);
  EXPECT_EQ(client.get_range("key", 700, part).bytes, data.size());
  EXPECT_EQ(part, std::vector<std::byte>(data.begin() + 700, data.begin() + 1000));
}

TEST(S3Client, StoresNothingAtAll) {
  ObjectServer server;
  S3Client client(options_for(server.endpoint()));
  client.put("empty", {});
  EXPECT_EQ(client.head("empty")->bytes, 0U);
  EXPECT_EQ(client.get("empty", {}).bytes, 0U);
  EXPECT_EQ(client.get_all("empty", 10), "");
}

TEST(S3Client, HeadAndDelete) {
  ObjectServer server;
  S3Client client(options_for(server.endpoint()));
  EXPECT_EQ(client.head("key"), std::nullopt);
  client.put("key", pattern(77, 3), {{"a", "b"}});
  ASSERT_TRUE(client.head("key"));
  EXPECT_EQ(client.head("key")->bytes, 77U);
  EXPECT_EQ(client.head("key")->find("a"), "b");
  client.delete_object("key");
  client.delete_object("key");
  EXPECT_EQ(client.head("key"), std::nullopt);
}

TEST(S3Client, ListsPageByPage) {
  ObjectServer server;
  S3Client client(options_for(server.endpoint()));
  std::vector<std::string> expected;
  for (int i = 0; i < 10; ++i) {
    expected.push_back("x/key & " + std::to_string(i));
    client.put(expected.back(), pattern(static_cast<std::size_t>(i), 4));
  }
  client.put("y", {});
  std::vector<std::string> found;
  client.list("x/", [&](S3Listed const& each) {
    EXPECT_EQ(each.bytes, found.size());
    found.push_back(each.key);
    return true;
  });
  EXPECT_EQ(found, expected);
  std::size_t count = 0;
  client.list("", [&](S3Listed const&) { return ++count < 2; });
  EXPECT_EQ(count, 2U);
}

TEST(S3Client, SignsBodiesOverPlainHttpUnlessToldNotTo) {
  ObjectServer server;
  auto options = options_for(server.endpoint());
  options.credentials->session_token = "token";
  {
    S3Client client(options);
    client.put("key", pattern(3, 5));
    EXPECT_EQ(server.last_header("x-amz-content-sha256").size(), 64U);
    EXPECT_EQ(server.last_header("x-amz-security-token"), "token");
    EXPECT_NE(server.last_header("authorization").find("x-amz-security-token"), std::string::npos);
    EXPECT_EQ(server.last_header("expect"), "");
  }
  options.payload_signing = PayloadSigning::Unsigned;
  S3Client client(options);
  client.put("key", pattern(3, 5));
  EXPECT_EQ(server.last_header("x-amz-content-sha256"), "UNSIGNED-PAYLOAD");
}

TEST(S3Client, KeepsItsConnections) {
  ObjectServer server;
  auto options = options_for(server.endpoint());
  options.threads = 1;
  options.connections = 4;
  S3Client client(options);
  for (int round = 0; round < 3; ++round) {
    S3Batch batch(client);
    for (int i = 0; i < 40; ++i) {
      batch.head("key");
    }
    batch.wait();
  }
  EXPECT_LE(server.num_connections(), 4U);
  EXPECT_EQ(client.stats().connections, server.num_connections());
  EXPECT_EQ(client.stats().requests, 120U);
}

// Every request waits at the server until as many as there are connections have come.
TEST(S3Client, HasAsManyRequestsInFlightAsConnections) {
  ObjectServer server;
  constexpr int kConnections = 8;
  std::mutex mutex;
  std::condition_variable changed;
  int arrived = 0;
  server.on_request([&](std::string const&, std::string const&) {
    std::unique_lock lock(mutex);
    ++arrived;
    changed.notify_all();
    changed.wait(lock, [&] { return arrived >= kConnections; });
  });
  auto options = options_for(server.endpoint());
  options.connections = kConnections;
  options.threads = 2;
  S3Client client(options);
  S3Batch batch(client);
  for (int i = 0; i < 3 * kConnections; ++i) {
    batch.head("key");
  }
  EXPECT_EQ(batch.wait().size(), 3U * kConnections);
  EXPECT_EQ(server.most_at_once(), std::size_t{kConnections});
}

TEST(S3Client, BatchesMixWhatEnds) {
  ObjectServer server;
  S3Client client(options_for(server.endpoint()));
  client.put("there", pattern(64, 6));
  std::vector<std::byte> first(16);
  std::vector<std::byte> last(16);
  S3Batch batch(client);
  batch.get("there", 0, {{first.data(), 16}, {nullptr, 32}, {last.data(), 16}}, 64);
  batch.get("missing", 0, {{first.data(), 0}}, 0);
  batch.head("there");
  EXPECT_EQ(batch.size(), 3U);
  EXPECT_EQ(batch.wait_for(0).error, nullptr);
  auto const outcomes = batch.wait();
  EXPECT_EQ(batch.size(), 0U);
  ASSERT_EQ(outcomes.size(), 3U);
  EXPECT_EQ(failure_of(outcomes[1].error).kind, S3ErrorKind::NoSuchKey);
  EXPECT_EQ(outcomes[2].error, nullptr);
  auto const data = pattern(64, 6);
  EXPECT_TRUE(std::equal(first.begin(), first.end(), data.begin()));
  EXPECT_TRUE(std::equal(last.begin(), last.end(), data.begin() + 48));
}

TEST(S3Client, ManyThreadsShareOne) {
  ObjectServer server;
  auto options = options_for(server.endpoint());
  options.connections = 6;
  options.threads = 2;
  S3Client client(options);
  std::vector<std::thread> threads;
  std::atomic<int> good{0};
  for (unsigned t = 0; t < 6; ++t) {
    threads.emplace_back([&, t] {
      for (unsigned i = 0; i < 20; ++i) {
        std::string const key = std::to_string(t) + "/" + std::to_string(i);
        auto const data = pattern(1000 + t * 100 + i, t * 100 + i);
        client.put(key, data);
        std::vector<std::byte> back(data.size());
        client.get(key, back);
        good += back == data ? 1 : 0;
      }
    });
  }
  for (auto& thread : threads) {
    thread.join();
  }
  EXPECT_EQ(good, 120);
  auto const stats = client.stats();
  EXPECT_EQ(stats.succeeded, 240U);
  EXPECT_EQ(stats.failed, 0U);
  EXPECT_EQ(stats.bytes_sent, stats.bytes_received);
}

TEST(S3Client, ItsEndEndsWhatIsUnderWay) {
  ObjectServer server;
  server.add_fault({ObjectFault::Kind::Silence});
  auto client = std::make_unique<S3Client>(options_for(server.endpoint()));
  S3Batch batch(*client);
  for (int i = 0; i < 50; ++i) {
    batch.head("key");
  }
  client.reset();
  batch.head("after");
  for (auto const& outcome : batch.wait()) {
    auto const failure = failure_of(outcome.error);
    EXPECT_EQ(failure.code, ErrorCode::ShuttingDown);
    EXPECT_EQ(failure.kind, S3ErrorKind::Cancelled);
  }
}

TEST(S3Client, MakesBuckets) {
  ObjectServer server;
  S3Client client(options_for(server.endpoint()));
  client.create_bucket();
  server.add_fault({ObjectFault::Kind::Status, 409});
  EXPECT_EQ(failure_of_call([&] { client.create_bucket(); }).kind, S3ErrorKind::Refused);
}

TEST(S3Options, RefusesWhatCannotBe) {
  auto const refused = [](auto const& change) {
    auto options = options_for("http://127.0.0.1:1");
    change(options);
    auto const failure = failure_of_call([&] { S3Client const client(options); });
    EXPECT_EQ(failure.code, ErrorCode::InvalidArgument) << failure.message;
    return failure.message;
  };
  refused([](S3Options& o) { o.endpoint = "ftp://x"; });
  refused([](S3Options& o) { o.endpoint = "http://"; });
  refused([](S3Options& o) { o.endpoint = "http://host/path"; });
  refused([](S3Options& o) { o.endpoint = "http://host\r\nX: y"; });
  refused([](S3Options& o) { o.bucket = ""; });
  refused([](S3Options& o) { o.bucket = "a/b"; });
  refused([](S3Options& o) { o.region = "x y"; });
  refused([](S3Options& o) { o.connections = 0; });
  refused([](S3Options& o) { o.connections = 2000; });
  refused([](S3Options& o) { o.threads = 17; });
  refused([](S3Options& o) { o.deadline = 0ms; });
  refused([](S3Options& o) { o.credentials->secret_access_key = ""; });
  refused([](S3Options& o) { o.credentials->access_key_id = "a\nb"; });
  auto const message = refused([](S3Options& o) { o.endpoint = "http://me:hunter2@host"; });
  EXPECT_EQ(message.find("hunter2"), std::string::npos);
}

TEST(S3Options, TheEndpointFollowsTheStyle) {
  auto options = options_for("");
  options.region = "eu-west-1";
  EXPECT_EQ(S3Client(options).url(), "https://blocks.s3.eu-west-1.amazonaws.com");
  options.path_style = true;
  EXPECT_EQ(S3Client(options).url(), "https://s3.eu-west-1.amazonaws.com/blocks");
  options.path_style.reset();
  options.bucket = "with.dots";
  EXPECT_EQ(S3Client(options).url(), "https://s3.eu-west-1.amazonaws.com/with.dots");
  options = options_for("http://store:9000/");
  options.path_style = false;
  EXPECT_EQ(S3Client(options).url(), "http://blocks.store:9000");
  EXPECT_FALSE(S3Client(options).options().credentials);
}

TEST(S3Client, RefusesKeysAndMetadataThatHttpCannotCarry) {
  ObjectServer server;
  S3Client client(options_for(server.endpoint()));
  EXPECT_THROW(client.put("", {}), Error);
  EXPECT_THROW(client.put(std::string(1025, 'k'), {}), Error);
  EXPECT_THROW(client.put("k", {}, {{"a", "b\r\nx-other: c"}}), Error);
  EXPECT_THROW(client.put("k", {}, {{"A b", "c"}}), Error);
  EXPECT_THROW(client.put("k", {}, {{"a", std::string(3000, 'b')}}), Error);
  EXPECT_THROW(client.get_range("k", 0, {}), Error);
  EXPECT_TRUE(server.requests().empty());
}

}  // namespace
}  // namespace kvbm::object::test
