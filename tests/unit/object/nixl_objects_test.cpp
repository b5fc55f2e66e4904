// SPDX-License-Identifier: Apache-2.0
//
// What is NIXL's alone: temporary objects, requests that cannot be stopped, and who says what is
// wrong.

#include "object/nixl_objects.hpp"

#include <cerrno>

#include "object/s3_client_impl.hpp"
#include "unit/object/object_fixture.hpp"

namespace kvbm::object::test {
namespace {

using Kind = ObjectFault::Kind;

class NixlObjectsTest : public StoreTest {
 protected:
  void SetUp() override {
    KVBM_SKIP_WITHOUT_NIXL_OBJECTS();
    transport_ = ObjectTransport::Nixl;
  }
  [[nodiscard]] std::size_t num_temporaries() const {
    std::size_t count = 0;
    for (auto const& key : server_.keys()) {
      if (key.find("/tmp/") != std::string::npos) { ++count; }
    }
    return count;
  }
  /// Requests that start so and have this in their path.
  [[nodiscard]] std::size_t count(std::string_view method, std::string_view part) const {
    std::size_t count = 0;
    for (auto const& line : server_.requests()) {
      if (line.starts_with(method) && line.find(part) != std::string::npos) { ++count; }
    }
    return count;
  }
  /// One object each way over NIXL, without a store.
  struct Ends {
    Failure put;
    Failure get;
  };
  static Ends move_with(S3Options const& with) {
    S3Client client(with);
    auto const batch = make_nixl_batch(client, S3Client::Impl::of(client).nixl({}));
    auto body = pattern(100, 1);
    batch->put("key", {body}, {}, "tmp/");
    batch->get("key", 0, {{body.data(), body.size()}}, body.size());
    auto const outcomes = batch->wait();
    return {failure_of(outcomes[0].error), failure_of(outcomes[1].error)};
  }
};

TEST_F(NixlObjectsTest, MovesBodiesAndLeavesNothingBehind) {
  auto const store = open();
  expect_good(write(store, {3, 4}));
  expect_blocks(store, {3, 4});
  EXPECT_EQ(count("PUT", "/tmp/"), 2U);
  EXPECT_EQ(count("DELETE", "/tmp/"), 2U);
  EXPECT_EQ(count("PUT", "/i1/"), 2U) << "copies";
  EXPECT_EQ(count("HEAD", "/i1/"), 2U);
  EXPECT_EQ(count("GET", "/i1/"), 2U);
  EXPECT_EQ(num_temporaries(), 0U);
  auto const nixl = S3Client::Impl::of(*store->client()).nixl({});
  EXPECT_EQ(nixl->failures(), 0U);
}

TEST_F(NixlObjectsTest, MoreObjectsThanGoAtOnce) {
  auto with = options();
  with.s3.connections = 3;
  auto const store = ObjectBlockStore::open(with, geometry(), "");
  Blocks const all = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9};
  expect_good(write(store, all));
  expect_blocks(store, all);
  EXPECT_LE(server_.most_at_once(), 6U) << "three of NIXL's, three of libcurl's";
}

TEST_F(NixlObjectsTest, ObjectsAreTheSameForLibcurl) {
  expect_good(write(open(), {1}));
  transport_ = ObjectTransport::Curl;
  auto const curl = open();
  expect_blocks(curl, {1});
  expect_good(write(curl, {2}));
  transport_ = ObjectTransport::Nixl;
  expect_blocks(open(), {2});
}

TEST_F(NixlObjectsTest, ListsShowNoTemporaryObjects) {
  auto const store = open();
  store->put("a", pattern(kBlockBytes, 1));
  server_.store(store->scheme().temporary_prefix() + "12-a", {"half", {}});
  std::vector<std::string> listed;
  store->list([&](std::string const& key, std::uint64_t) {
    listed.push_back(key);
    return true;
  });
  EXPECT_EQ(listed, std::vector<std::string>{"a"});
}

TEST_F(NixlObjectsTest, OldTemporaryObjectsGoWhenAStoreOpens) {
  auto const prefix = options().scheme.temporary_prefix();
  auto const now = std::chrono::duration_cast<std::chrono::seconds>(
                       std::chrono::system_clock::now().time_since_epoch())
                       .count();
  std::string const young = prefix + std::to_string(now - 60) + "-a";
  for (int i = 0; i < 5; ++i) {
    server_.store(prefix + std::to_string(now - 4000 - i) + "-b", {"old", {}});
  }
  server_.store(young, {"somebody's", {}});
  open();
  EXPECT_TRUE(server_.has(young));
  EXPECT_EQ(num_temporaries(), 1U);
}

TEST_F(NixlObjectsTest, WhatCannotBeCopiedIsPutByLibcurl) {
  auto const store = open();
  server_.add_fault({Kind::LateError, 0, 0ms, "PUT", "/i1/", 3});
  expect_good(write(store, {1}));
  server_.add_fault({Kind::Status, 501, 0ms, "PUT", "/i1/", 1});
  expect_good(write(store, {2}));
  expect_blocks(store, {1, 2});
  EXPECT_EQ(num_temporaries(), 0U);
}

TEST_F(NixlObjectsTest, AFailedPutLeavesTheOldBlockAndNoTemporaryObject) {
  auto const store = open();
  expect_good(write(store, {1}));
  server_.add_fault({Kind::Status, 403, 0ms, "PUT", "/i1/"});
  auto const errors = write(store, {1}, 50);
  EXPECT_EQ(failure_of(errors[0]).kind, S3ErrorKind::AccessDenied);
  EXPECT_EQ(num_temporaries(), 0U);
  server_.clear_faults();
  server_.add_fault({Kind::Status, 403, 0ms, "PUT"});
  EXPECT_EQ(failure_of(write(store, {1}, 50)[0]).kind, S3ErrorKind::AccessDenied);
  EXPECT_EQ(num_temporaries(), 0U);
  expect_blocks(store, {1});
}

TEST_F(NixlObjectsTest, WhatNixlFailsAtIsReadByLibcurl) {
  auto const store = open();
  expect_good(write(store, {1, 2}));
  server_.add_fault({Kind::Status, 500, 0ms, "GET", "/i1/", 1});
  server_.add_fault({Kind::Truncate, 100, 0ms, "GET", "/i1/", 1});
  expect_blocks(store, {1, 2});
}

// The bytes and the metadata are two answers, between which another worker may write.
TEST_F(NixlObjectsTest, ABlockThatDoesNotFitItsMetadataIsReadOnceMore) {
  auto const store = open();
  expect_good(write(store, {1}));
  store->put("key", pattern(kBlockBytes, 7));
  server_.add_fault({Kind::Corrupt, 10, 0ms, "GET", "/i1/", 1});
  server_.add_fault({Kind::Corrupt, 10, 0ms, "GET", "/b/", 1});
  expect_blocks(store, {1});
  std::vector<std::byte> bytes(kBlockBytes);
  store->get("key", bytes);
  EXPECT_EQ(bytes, pattern(kBlockBytes, 7));
  server_.add_fault({Kind::Corrupt, 10, 0ms, "GET", "/i1/"});
  EXPECT_EQ(read_failure(store, 1).code, ErrorCode::Corrupt);
}

TEST_F(NixlObjectsTest, MissingThingsAndWrongCredentialsAreToldApart) {
  auto with = options_for(server_.endpoint());
  S3Client client(with);
  auto const batch = make_nixl_batch(client, S3Client::Impl::of(client).nixl({}));
  std::vector<std::byte> bytes(100);
  batch->get("nothing", 0, {{bytes.data(), bytes.size()}}, bytes.size());
  EXPECT_EQ(failure_of(batch->wait_for(0).error).kind, S3ErrorKind::NoSuchKey);
  EXPECT_EQ(S3Client::Impl::of(client).nixl({})->failures(), 0U) << "that is no fault of NIXL's";
  with.bucket = "nowhere";
  auto const no_bucket = move_with(with);
  EXPECT_EQ(no_bucket.put.kind, S3ErrorKind::NoSuchBucket);
  EXPECT_EQ(no_bucket.get.kind, S3ErrorKind::NoSuchBucket);
  server_.add_fault({Kind::Status, 403});
  auto const denied = move_with(options_for(server_.endpoint()));
  EXPECT_EQ(denied.put.kind, S3ErrorKind::AccessDenied);
  EXPECT_EQ(denied.get.kind, S3ErrorKind::AccessDenied);
}

TEST_F(NixlObjectsTest, AnEndpointThatGoesAwayIsSaid) {
  auto const ends =
      move_with(options_for("http://127.0.0.1:" + std::to_string(testing::closed_port())));
  for (auto const& end : {ends.put, ends.get}) {
    EXPECT_EQ(end.kind, S3ErrorKind::Unreachable) << end.message;
    EXPECT_EQ(end.native_code, ECONNREFUSED);
  }
}

// The SDK inside NIXL gives a silent request up by itself after 3 s. Half of that: healthy requests
// end well before, and what is given up at the deadline is still under way when it is counted.
constexpr auto kBeforeTheSdk = 1500ms;

// NIXL goes on in memory of the store's, which lives until it has ended; the caller's is free.
TEST_F(NixlObjectsTest, ASilentEndpointEndsAtTheDeadline) {
  auto with = options();
  with.s3.deadline = kBeforeTheSdk;
  auto store = ObjectBlockStore::open(with, geometry(), "");
  expect_good(write(store, {1}));
  server_.add_fault({Kind::Silence});
  auto const failure = read_failure(store, 1);
  EXPECT_EQ(failure.kind, S3ErrorKind::Silent) << failure.message;
  EXPECT_TRUE(failure.is_timeout_error);
  auto const errors = write(store, {1, 2}, 9);
  EXPECT_EQ(failure_of(errors[0]).kind, S3ErrorKind::Silent);
  EXPECT_EQ(failure_of(errors[1]).kind, S3ErrorKind::Silent);
  store.reset();
  EXPECT_GT(num_retired_agents(), 0U) << "nobody waits for what was given up";
  server_.clear_faults();
  expect_blocks(open(), {1});
}

TEST_F(NixlObjectsTest, ABodyThatStopsEndsAtTheDeadline) {
  auto with = options();
  with.s3.deadline = 3s;  // healthy requests end well before
  auto const store = ObjectBlockStore::open(with, geometry(), "");
  expect_good(write(store, {1}));
  server_.add_fault({Kind::Stall, 0, 0ms, "GET", "/i1/"});
  EXPECT_EQ(read_failure(store, 1).kind, S3ErrorKind::Silent);
}

// NIXL's threads must not run while a process takes down what they use.
TEST_F(NixlObjectsTest, AProcessThatEndsMeanwhileEndsWell) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  auto const end_with_a_read_under_way = [&] {
    static auto* const server = new ObjectServer;  // is never taken down
    auto with = options();
    with.s3 = options_for(server->endpoint());
    with.s3.deadline = kBeforeTheSdk;
    auto store = ObjectBlockStore::open(with, geometry(), "");
    server->add_fault({Kind::Silence});
    bool const is_late = read_failure(store, 1).is_timeout_error;
    store.reset();
    std::exit(is_late && num_retired_agents() == 1 ? 0 : 1);
  };
  EXPECT_EXIT(end_with_a_read_under_way(), ::testing::ExitedWithCode(0), "");
}

TEST_F(NixlObjectsTest, ABatchThatIsDroppedWaits) {
  S3Client client(options_for(server_.endpoint()));
  auto const body = pattern(1000, 1);
  make_nixl_batch(client, S3Client::Impl::of(client).nixl({}))->put("key", {body}, {}, "tmp/");
  EXPECT_EQ(client.head("key")->bytes, body.size());
  EXPECT_EQ(server_.keys(), std::vector<std::string>{"key"});
}

TEST_F(NixlObjectsTest, StoresOfAClientShareAnAgentAndAQueue) {
  auto const client = std::make_shared<S3Client>(options().s3);
  auto with = options();
  auto const first = ObjectBlockStore::open(client, with, geometry(), "");
  with.scheme.tp_size = 2;
  auto const second = ObjectBlockStore::open(client, with, geometry(), "");
  with.transport = ObjectTransport::Curl;
  auto const stranger = ObjectBlockStore::open(client, with, geometry(), "");
  EXPECT_EQ(first->family(), second->family());
  EXPECT_NE(first->family(), stranger->family());
}

TEST_F(NixlObjectsTest, AutoMeasuresBothAndTidiesUp) {
  transport_ = ObjectTransport::Auto;
  auto const store = open();
  auto const& reason = store->backend_reason();
  bool const is_nixl = store->transport() == ObjectTransport::Nixl;
  EXPECT_EQ(reason.find(is_nixl ? "NIXL" : "libcurl"), 0U) << reason;
  for (char const* const part : {"measured", "libcurl", "NIXL", "5000 bytes"}) {
    EXPECT_NE(reason.find(part), std::string::npos) << reason;
  }
  EXPECT_EQ(num_temporaries(), 0U);
  expect_good(write(store, {1}));
  expect_blocks(store, {1});
  auto readers = options();
  readers.read_only = true;
  auto const before = server_.num_requests("PUT");
  EXPECT_NE(ObjectBlockStore::open(readers, geometry(), "")->backend_reason().find("read-only"),
            std::string::npos);
  EXPECT_EQ(server_.num_requests("PUT"), before);
}

TEST_F(NixlObjectsTest, AutoTakesLibcurlWhereNothingCanBeMeasured) {
  open();
  transport_ = ObjectTransport::Auto;
  server_.add_fault({Kind::Status, 403, 0ms, "PUT"});
  auto const store = open();
  EXPECT_EQ(store->transport(), ObjectTransport::Curl);
  EXPECT_NE(store->backend_reason().find("could not be measured"), std::string::npos)
      << store->backend_reason();
}

}  // namespace
}  // namespace kvbm::object::test
