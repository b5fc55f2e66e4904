// SPDX-License-Identifier: Apache-2.0
#include <cerrno>

#include "kvbm/object/object_store.hpp"
#include "unit/object/object_fixture.hpp"

namespace kvbm::object::test {
namespace {

using Kind = ObjectFault::Kind;

class ObjectStoreFaults : public StoreWayTest {};
KVBM_OBJECT_WAYS(ObjectStoreFaults);

class LibcurlStoreFaults : public StoreTest {};

TEST_P(ObjectStoreFaults, OpenTellsApartWhatIsWrongWithoutRetries) {
  auto dead = options();
  dead.s3.endpoint = "http://127.0.0.1:" + std::to_string(testing::closed_port());
  auto failure = failure_of_call([&] { ObjectBlockStore::open(dead, geometry(), ""); });
  EXPECT_EQ(failure.kind, S3ErrorKind::Unreachable);
  EXPECT_EQ(failure.native_code, ECONNREFUSED);
  EXPECT_EQ(failure.attempts, 1U);

  auto no_bucket = options();
  no_bucket.s3.bucket = "nowhere";
  failure = failure_of_call([&] { ObjectBlockStore::open(no_bucket, geometry(), ""); });
  EXPECT_EQ(failure.kind, S3ErrorKind::NoSuchBucket);
  EXPECT_EQ(failure.attempts, 1U);

  server_.add_fault({Kind::Status, 403, 0ms, "", "", 1});
  failure = failure_of_call([&] { open(); });
  EXPECT_EQ(failure.kind, S3ErrorKind::AccessDenied);
  EXPECT_EQ(failure.native_code, EACCES);
  EXPECT_NE(failure.message.find("credentials"), std::string::npos) << failure.message;

  server_.add_fault({Kind::Silence});
  auto impatient = options();
  impatient.s3.stall_timeout = 20ms;
  failure = failure_of_call([&] { ObjectBlockStore::open(impatient, geometry(), ""); });
  EXPECT_EQ(failure.kind, S3ErrorKind::Silent);
  EXPECT_TRUE(failure.is_timeout_error);
  EXPECT_EQ(failure.attempts, 1U);

  server_.clear_faults();
  server_.add_fault({Kind::Status, 503, 0ms, "", "", 2});
  open();
}

TEST_P(ObjectStoreFaults, AReadOnlyStoreHasToBeThere) {
  auto readers = options();
  readers.read_only = true;
  auto const failure = failure_of_call([&] { ObjectBlockStore::open(readers, geometry(), ""); });
  EXPECT_EQ(failure.kind, S3ErrorKind::NoSuchKey);
  EXPECT_TRUE(server_.keys().empty());
}

TEST_P(ObjectStoreFaults, DamagedManifestsAreFound) {
  auto const key = open()->scheme().manifest_key();
  auto const good = server_.object(key);
  auto const code = [&](std::string body, bool keeps_checksum) {
    auto metadata = good.metadata;
    if (!keeps_checksum) {
      metadata = {{"x-amz-meta-kvbm-xxh3", to_string(checksum_bytes(body.data(), body.size()))}};
    }
    server_.store(key, {std::move(body), metadata});
    return failure_of_call([&] { open(); }).code;
  };
  std::string flipped = good.body;
  flipped[flipped.size() / 2] = static_cast<char>(flipped[flipped.size() / 2] ^ 1);
  EXPECT_EQ(code(flipped, true), ErrorCode::Corrupt);
  EXPECT_EQ(code("", true), ErrorCode::Corrupt);
  EXPECT_EQ(code("{}", false), ErrorCode::Corrupt);
  EXPECT_EQ(code("[1", false), ErrorCode::Corrupt);
  EXPECT_EQ(code("{\"format_version\": 2}", false), ErrorCode::VersionMismatch);
  server_.store(key, {good.body, {}});
  EXPECT_EQ(failure_of_call([&] { open(); }).code, ErrorCode::Corrupt);
  server_.store(key, good);
  open();
}

TEST_P(ObjectStoreFaults, DamagedBlocksAreNeverReturned) {
  auto const store = open();
  expect_good(write(store, {1, 2}));
  auto const key = store->object_key_of(1);
  auto const good = server_.object(key);
  auto const damage = [&](auto const& change) {
    auto object = good;
    change(object);
    server_.store(key, object);
    return read_failure(store, 1);
  };
  using Object = ObjectServer::Object;
  EXPECT_EQ(damage([](Object& o) { o.body[17] = static_cast<char>(o.body[17] ^ 4); }).code,
            ErrorCode::Corrupt);
  EXPECT_EQ(damage([](Object& o) { o.body.pop_back(); }).kind, S3ErrorKind::WrongSize);
  EXPECT_EQ(damage([](Object& o) { o.body += 'x'; }).kind, S3ErrorKind::WrongSize);
  EXPECT_EQ(damage([](Object& o) { o.metadata.clear(); }).code, ErrorCode::Corrupt);
  EXPECT_EQ(damage([](Object& o) { o.metadata[0].second = "4999"; }).code, ErrorCode::Corrupt);
  EXPECT_EQ(damage([](Object& o) { o.metadata[1].second = "2"; }).code, ErrorCode::VersionMismatch);
  EXPECT_EQ(damage([](Object& o) { o.metadata[1].second = "x"; }).code, ErrorCode::Corrupt);
  EXPECT_EQ(damage([](Object& o) { o.metadata[2].second = "abc"; }).code, ErrorCode::Corrupt);
  EXPECT_EQ(damage([](Object& o) { o.metadata[2].second += ",-"; }).code, ErrorCode::Corrupt);
  auto const failure = damage([](Object& o) { o.body[0] = static_cast<char>(o.body[0] ^ 1); });
  EXPECT_NE(failure.message.find("block 1"), std::string::npos) << failure.message;
  EXPECT_NE(failure.message.find(key), std::string::npos) << failure.message;
  expect_blocks(store, {2});
}

TEST_P(ObjectStoreFaults, DamageOnTheWayIsFound) {
  auto const store = open();
  expect_good(write(store, {1}));
  store->put("key", pattern(kBlockBytes, 1));
  server_.add_fault({Kind::Corrupt, 4321, 0ms, "GET"});
  EXPECT_EQ(read_failure(store, 1).code, ErrorCode::Corrupt);
  std::vector<std::byte> bytes(kBlockBytes, std::byte{1});
  auto const failure = failure_of_call([&] { store->get("key", bytes); });
  EXPECT_TRUE(failure.is_corrupt_error);
  EXPECT_EQ(bytes, std::vector<std::byte>(kBlockBytes));
}

TEST_P(ObjectStoreFaults, EveryBlockHasItsOwnEnd) {
  auto const store = open();
  expect_good(write(store, {0, 1, 2, 3}));
  server_.add_fault({Kind::Status, 403, 0ms, "", "i1/0000000001"});
  server_.add_fault({Kind::Truncate, 100, 0ms, "", "i1/0000000002"});
  auto const result = read(store, {0, 1, 2, 3, 4});
  EXPECT_EQ(result.errors[0], nullptr);
  EXPECT_EQ(failure_of(result.errors[1]).kind, S3ErrorKind::AccessDenied);
  EXPECT_EQ(failure_of(result.errors[2]).kind, S3ErrorKind::Truncated);
  EXPECT_EQ(result.errors[3], nullptr);
  EXPECT_EQ(failure_of(result.errors[4]).kind, S3ErrorKind::NoSuchKey);
  EXPECT_EQ(result.memory[3], pattern(kBlockBytes, 3));
  EXPECT_EQ(result.memory[2], std::vector<std::byte>(kBlockBytes));
}

TEST_P(ObjectStoreFaults, FailedWritesLeaveTheOldBlock) {
  auto const store = open();
  expect_good(write(store, {0, 1}));
  server_.add_fault({Kind::ResetBody, 0, 0ms, "PUT", "i1/0000000001"});
  auto const errors = write(store, {0, 1, 2}, 100);
  EXPECT_EQ(errors[0], nullptr);
  EXPECT_EQ(failure_of(errors[1]).kind, S3ErrorKind::Interrupted);
  EXPECT_EQ(errors[2], nullptr);
  server_.clear_faults();
  expect_blocks(store, {0, 2}, 100);
  expect_blocks(store, {1});
}

TEST_F(LibcurlStoreFaults, ATransientFaultOfSomeRequestsIsNoticedInTheCountersOnly) {
  auto const store = open();
  server_.add_fault({Kind::Status, 503, 0ms, "PUT", "", 3});
  server_.add_fault({Kind::Reset, 0, 0ms, "GET", "", 1});
  auto const before = store->client()->stats();
  expect_good(write(store, {0, 1, 2, 3, 4, 5, 6, 7}));
  expect_blocks(store, {0, 1, 2, 3, 4, 5, 6, 7});
  auto const after = store->client()->stats();
  EXPECT_EQ(errors_of(after, S3ErrorKind::Throttled), 3U);
  EXPECT_GE(after.retries, 3U);
  EXPECT_EQ(after.succeeded - before.succeeded, 16U);
  EXPECT_EQ(after.failed, before.failed);
}

TEST_P(ObjectStoreFaults, ListAndExistReportErrors) {
  auto const store = open();
  server_.add_fault({Kind::Status, 500});
  std::vector<std::string> const keys = {"a", "b"};
  EXPECT_EQ(failure_of_call([&] { static_cast<void>(store->exists("a")); }).kind,
            S3ErrorKind::Server);
  EXPECT_EQ(failure_of_call([&] { static_cast<void>(store->exist(keys)); }).kind,
            S3ErrorKind::Server);
  EXPECT_EQ(failure_of_call([&] { store->list([](auto const&, auto) { return true; }); }).kind,
            S3ErrorKind::Server);
  EXPECT_EQ(failure_of_call([&] { store->remove("a"); }).kind, S3ErrorKind::Server);
  EXPECT_EQ(failure_of_call([&] { store->invalidate(0, 0); }).kind, S3ErrorKind::Server);
}

}  // namespace
}  // namespace kvbm::object::test
