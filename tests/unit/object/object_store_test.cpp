// SPDX-License-Identifier: Apache-2.0
#include "kvbm/object/object_store.hpp"

#include <thread>

#include "unit/object/object_fixture.hpp"

namespace kvbm::object::test {
namespace {

class ObjectBlockStoreTest : public StoreWayTest {};
KVBM_OBJECT_WAYS(ObjectBlockStoreTest);

TEST_P(ObjectBlockStoreTest, WritesBlocksAndReadsThemBack) {
  auto const store = open();
  EXPECT_EQ(store->kind(), memory::StorageKind::Object);
  EXPECT_TRUE(store->is_writable());
  EXPECT_EQ(store->groups(), std::vector{geometry()});
  EXPECT_EQ(store->name(),
            server_.endpoint() + "/blocks/cache/kvbm-v1/model/OperationalNHD/tp1-r0");
  expect_good(write(store, {3, 0, 9}));
  expect_blocks(store, {0, 9, 3, 0});
  expect_good(write(store, {3}, 50));
  expect_blocks(store, {3}, 50);
  store->sync();
}

TEST_P(ObjectBlockStoreTest, ObjectsSayWhatIsInThem) {
  auto const store = open();
  expect_good(write(store, {7}));
  EXPECT_EQ(store->object_key_of(7), store->scheme().index_key(7, 1));
  auto const object = server_.object(store->object_key_of(7));
  auto const data = pattern(kBlockBytes, 7);
  EXPECT_EQ(object.body, std::string(reinterpret_cast<char const*>(data.data()), data.size()));
  decltype(object.metadata) const expected = {
      {"x-amz-meta-kvbm-extent-bytes", "5000"},
      {"x-amz-meta-kvbm-format", "1"},
      {"x-amz-meta-kvbm-xxh3", to_string(checksum_bytes(data.data(), data.size()))}};
  EXPECT_EQ(object.metadata, expected);
}

TEST_P(ObjectBlockStoreTest, ALaterStoreFindsTheBlocks) {
  expect_good(write(open(), {1, 2}));
  auto readers = options();
  readers.read_only = true;
  auto const store = ObjectBlockStore::open(readers, geometry(), "another descriptor");
  EXPECT_EQ(store->metadata(), "descriptor");
  EXPECT_FALSE(store->is_writable());
  expect_blocks(store, {1, 2});
  EXPECT_THROW(write(store, {1}), Error);
  EXPECT_THROW(store->invalidate(0, 1), Error);
  EXPECT_THROW(store->put("key", pattern(kBlockBytes, 0)), Error);
  EXPECT_THROW(store->remove("key"), Error);
}

TEST_P(ObjectBlockStoreTest, NeverWrittenAndForgottenBlocksAreMissing) {
  auto const store = open();
  auto failure = read_failure(store, 4);
  EXPECT_EQ(failure.code, ErrorCode::NotFound);
  EXPECT_EQ(failure.kind, S3ErrorKind::NoSuchKey);
  EXPECT_NE(failure.message.find("block 4 was never written"), std::string::npos)
      << failure.message;
  expect_good(write(store, {4}));
  EXPECT_EQ(store->checksum(0, 4), std::nullopt);
  store->invalidate(0, 4);
  store->invalidate(0, 4);
  EXPECT_EQ(read_failure(store, 4).code, ErrorCode::NotFound);
}

TEST_P(ObjectBlockStoreTest, BlocksCanHaveContentKeys) {
  auto const store = open();
  expect_good(write(store, {2}));
  store->bind(2, "hash-of-tokens");
  EXPECT_EQ(store->key_of(2), "hash-of-tokens");
  EXPECT_EQ(store->object_key_of(2), store->scheme().content_key("hash-of-tokens"));
  EXPECT_EQ(read_failure(store, 2).code, ErrorCode::NotFound);
  expect_good(write(store, {2}, 70));
  std::vector<std::byte> bytes(kBlockBytes);
  store->get("hash-of-tokens", bytes);
  EXPECT_EQ(bytes, pattern(kBlockBytes, 72));
  store->bind(5, "hash-of-tokens");
  expect_blocks(store, {5}, 67);
  store->unbind(2);
  EXPECT_EQ(store->key_of(2), std::nullopt);
  expect_blocks(store, {2});
  EXPECT_THROW(store->bind(kNumBlocks, "key"), Error);
  EXPECT_THROW(store->bind(0, ""), Error);
  EXPECT_THROW(store->unbind(kNumBlocks), Error);
  EXPECT_THROW(static_cast<void>(store->key_of(kNumBlocks)), Error);
}

TEST_P(ObjectBlockStoreTest, WorksByKeyAlone) {
  auto const store = open();
  EXPECT_FALSE(store->exists("a"));
  store->put("a", pattern(kBlockBytes, 1));
  store->put("b/../c", pattern(kBlockBytes, 2));
  EXPECT_TRUE(store->exists("a"));
  std::vector<std::string> const asked = {"b/../c", "no", "a"};
  EXPECT_EQ(store->exist(asked), (std::vector<bool>{true, false, true}));
  std::vector<std::byte> bytes(kBlockBytes);
  store->get("b/../c", bytes);
  EXPECT_EQ(bytes, pattern(kBlockBytes, 2));
  store->put("a", pattern(kBlockBytes, 3));
  store->get("a", bytes);
  EXPECT_EQ(bytes, pattern(kBlockBytes, 3));
  server_.store(store->scheme().content_prefix() + "~zz", {"somebody else's", {}});
  std::vector<std::string> listed;
  store->list([&](std::string const& key, std::uint64_t size) {
    EXPECT_EQ(size, kBlockBytes);
    listed.push_back(key);
    return true;
  });
  EXPECT_EQ(listed, (std::vector<std::string>{"a", "b/../c"}));
  store->remove("a");
  store->remove("a");
  EXPECT_FALSE(store->exists("a"));
  bytes.assign(kBlockBytes, std::byte{1});
  EXPECT_EQ(failure_of_call([&] { store->get("a", bytes); }).code, ErrorCode::NotFound);
  EXPECT_EQ(bytes, std::vector<std::byte>(kBlockBytes));
  EXPECT_EQ(failure_of_call([&] { store->put("a", pattern(10, 1)); }).code,
            ErrorCode::InvalidArgument);
}

TEST_P(ObjectBlockStoreTest, RefusesAnotherGeometry) {
  open();
  auto other = geometry();
  other.extent_bytes = 4096;
  auto const failure =
      failure_of_call([&] { ObjectBlockStore::open(options(), other, "descriptor"); });
  EXPECT_EQ(failure.code, ErrorCode::InvalidArgument);
  EXPECT_NE(failure.message.find("5000 bytes"), std::string::npos) << failure.message;
  EXPECT_EQ(failure_of_call([&] { open(2); }).code, ErrorCode::InvalidArgument);
  // More or fewer blocks of the same size are the same store.
  other = geometry();
  other.count = 99;
  EXPECT_EQ(ObjectBlockStore::open(options(), other, "")->groups()[0].count, 99U);
}

TEST_P(ObjectBlockStoreTest, RefusesBadOptions) {
  auto const refuse = [&](auto const& change) {
    auto bad = options();
    auto extents = geometry();
    change(bad, extents);
    EXPECT_EQ(failure_of_call([&] { ObjectBlockStore::open(bad, extents, ""); }).code,
              ErrorCode::InvalidArgument);
  };
  using Options = ObjectStoreOptions;
  using Extents = memory::ExtentGroup;
  refuse([](Options& o, Extents&) { o.scheme.model = ""; });
  refuse([](Options& o, Extents&) { o.blocks_per_object = kMaxBlocksPerObject + 1; });
  refuse([](Options&, Extents& e) { e.count = 0; });
  refuse([](Options&, Extents& e) { e.extent_bytes = 0; });
  refuse([](Options&, Extents& e) { e.extent_bytes = std::uint64_t{6} << 30; });
  EXPECT_TRUE(server_.requests().empty());
}

TEST_P(ObjectBlockStoreTest, RefusesBadExtentsAndStartsNothing) {
  auto const store = open();
  std::vector<std::byte> memory(kBlockBytes);
  auto const queue = store->make_queue();
  auto const code = [&](memory::ExtentIo io) {
    std::vector<memory::ExtentIo> const list = {{0, 0, memory.data(), memory.size()}, io};
    auto const failure = failure_of_call([&] { queue->start_write(store, list); });
    EXPECT_EQ(queue->num_started(), 0U);
    EXPECT_TRUE(queue->finish().empty());
    return failure.code;
  };
  EXPECT_EQ(code({1, 0, memory.data(), memory.size()}), ErrorCode::OutOfRange);
  EXPECT_EQ(code({0, kNumBlocks, memory.data(), memory.size()}), ErrorCode::OutOfRange);
  EXPECT_EQ(code({0, 0, nullptr, memory.size()}), ErrorCode::InvalidArgument);
  EXPECT_EQ(code({0, 0, memory.data(), memory.size() - 1}), ErrorCode::InvalidArgument);
  EXPECT_EQ(server_.num_requests("PUT"), 1U) << "the manifest alone";
  EXPECT_THROW(static_cast<void>(store->checksum(0, kNumBlocks)), Error);
  EXPECT_THROW(store->invalidate(1, 0), Error);
}

TEST_P(ObjectBlockStoreTest, OneQueueServesStoresOfOneClientOnly) {
  auto const client = std::make_shared<S3Client>(options().s3);
  auto with = options();
  auto const first = ObjectBlockStore::open(client, with, geometry(), "");
  with.scheme.tp_size = 2;
  auto const second = ObjectBlockStore::open(client, with, geometry(), "");
  auto const stranger = open();
  EXPECT_EQ(first->family(), second->family());
  EXPECT_NE(first->family(), stranger->family());
  std::vector<std::vector<std::byte>> memory = {pattern(kBlockBytes, 1), pattern(kBlockBytes, 2)};
  auto const list = extents({0, 1}, memory);
  auto const queue = first->make_queue();
  queue->start_write(first, std::span(list).first(1));
  queue->start_write(second, std::span(list).last(1));
  EXPECT_THROW(queue->start_write(stranger, list), Error);
  EXPECT_THROW(queue->start_write(nullptr, list), Error);
  expect_good(queue->finish());
  expect_blocks(first, {0}, 1);
  expect_blocks(second, {1}, 1);
  EXPECT_EQ(read_failure(first, 1).code, ErrorCode::NotFound);
}

TEST_P(ObjectBlockStoreTest, AQueueGoesWithRequestsUnderWay) {
  auto const store = open();
  std::vector<std::vector<std::byte>> memory = {pattern(kBlockBytes, 0), pattern(kBlockBytes, 1)};
  {
    auto const queue = store->make_queue();
    queue->start_write(store, extents({0, 1}, memory));
  }
  expect_blocks(store, {0, 1});
}

TEST_P(ObjectBlockStoreTest, SeveralThreadsMoveBlocks) {
  auto const store = open();
  std::vector<std::thread> threads;
  for (unsigned t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      Blocks const mine = {t, t + 4};
      for (unsigned round = 0; round < 5; ++round) {
        expect_good(write(store, mine, round));
        expect_blocks(store, mine, round);
        std::string const key = "key" + std::to_string(t);
        store->bind(9, key);
        static_cast<void>(store->key_of(9));
        static_cast<void>(store->exists(key));
        store->unbind(9);
      }
    });
  }
  for (auto& thread : threads) {
    thread.join();
  }
}

TEST_P(ObjectBlockStoreTest, SaysWhichWayItTook) {
  auto const store = open();
  EXPECT_EQ(store->transport(), GetParam());
  char const* const name = GetParam() == ObjectTransport::Curl ? "libcurl" : "NIXL";
  EXPECT_EQ(store->backend_reason().find(name), 0U) << store->backend_reason();
}

}  // namespace
}  // namespace kvbm::object::test
