// SPDX-License-Identifier: Apache-2.0
//
// Several blocks to an object: ten blocks by four are objects of 4, 4, 1 and 1.

#include <algorithm>
#include <thread>

#include "kvbm/object/object_store.hpp"
#include "unit/object/object_fixture.hpp"

namespace kvbm::object::test {
namespace {

using Kind = ObjectFault::Kind;

class SharedObjects : public StoreWayTest {
 protected:
  [[nodiscard]] std::shared_ptr<ObjectBlockStore> open_shared() const { return open(4); }
  /// Requests for objects that are there to stay.
  [[nodiscard]] std::size_t count(std::string_view method) const {
    auto const requests = server_.requests();
    return static_cast<std::size_t>(
        std::count_if(requests.begin(), requests.end(), [method](std::string const& line) {
          return line.starts_with(method) && line.find("/tmp/") == std::string::npos;
        }));
  }
  /// Whether the last request was for these bytes; over NIXL there is one more beside it.
  void expect_range(std::string_view bytes) const {
    if (GetParam() == ObjectTransport::Curl) { EXPECT_EQ(server_.last_header("range"), bytes); }
  }
};
KVBM_OBJECT_WAYS(SharedObjects);

TEST_P(SharedObjects, WholeObjectsAreOneRequestEach) {
  auto const store = open_shared();
  EXPECT_EQ(store->blocks_per_object(), 4U);
  auto const puts = count("PUT");
  auto const gets = count("GET");
  expect_good(write(store, {5, 4, 7, 6, 0, 1, 2, 3, 9, 8}));
  EXPECT_EQ(count("PUT") - puts, 4U);
  EXPECT_EQ(count("GET"), gets);
  EXPECT_EQ(server_.object(store->object_key_of(7)).body.size(), 4 * kBlockBytes);
  EXPECT_EQ(server_.object(store->object_key_of(9)).body.size(), kBlockBytes);
  expect_blocks(store, {0, 1, 2, 3, 4, 5, 6, 7, 8, 9});
  EXPECT_EQ(count("GET") - gets, 4U);
}

TEST_P(SharedObjects, BlocksOfOneObjectAreOneRange) {
  auto const store = open_shared();
  expect_good(write(store, {0, 1, 2, 3}));
  auto const gets = count("GET");
  expect_blocks(store, {1, 2});
  expect_range("bytes=5000-14999");
  expect_blocks(store, {3, 1});
  expect_range("bytes=5000-19999");
  expect_blocks(store, {2, 2, 1});
  EXPECT_EQ(count("GET") - gets, 4U);
}

TEST_P(SharedObjects, PartsAreMerged) {
  auto const store = open_shared();
  expect_good(write(store, {5}));
  expect_blocks(store, {5});
  auto const failure = read_failure(store, 6);
  EXPECT_EQ(failure.code, ErrorCode::NotFound);
  EXPECT_NE(failure.message.find("block 6: was never written"), std::string::npos)
      << failure.message;
  expect_good(write(store, {4, 7, 1}, 30));
  expect_blocks(store, {5});
  expect_blocks(store, {4, 7, 1}, 30);
  expect_good(write(store, {5}, 60));
  expect_blocks(store, {5}, 60);
  expect_blocks(store, {4, 7}, 30);
}

TEST_P(SharedObjects, MissingAndGoodBlocksInOneRead) {
  auto const store = open_shared();
  expect_good(write(store, {4, 6}));
  auto const result = read(store, {4, 5, 6});
  EXPECT_EQ(result.errors[0], nullptr);
  EXPECT_EQ(failure_of(result.errors[1]).code, ErrorCode::NotFound);
  EXPECT_EQ(result.errors[2], nullptr);
  EXPECT_EQ(result.memory[1], std::vector<std::byte>(kBlockBytes));
  EXPECT_EQ(result.memory[2], pattern(kBlockBytes, 6));
}

TEST_P(SharedObjects, ForgettingTheLastBlockRemovesTheObject) {
  auto const store = open_shared();
  expect_good(write(store, {5, 6, 9}));
  store->invalidate(0, 5);
  EXPECT_EQ(read_failure(store, 5).code, ErrorCode::NotFound);
  expect_blocks(store, {6});
  store->invalidate(0, 6);
  EXPECT_FALSE(server_.has(store->object_key_of(6)));
  store->invalidate(0, 6);
  store->invalidate(0, 9);
  EXPECT_FALSE(server_.has(store->object_key_of(9)));
}

TEST_P(SharedObjects, BoundBlocksStandAlone) {
  auto const store = open_shared();
  expect_good(write(store, {0, 1, 2, 3}));
  store->bind(1, "key");
  auto const puts = count("PUT");
  expect_good(write(store, {0, 1, 2, 3}, 40));
  EXPECT_EQ(count("PUT") - puts, 2U);
  EXPECT_TRUE(server_.has(store->scheme().content_key("key")));
  expect_blocks(store, {0, 1, 2, 3}, 40);
  store->unbind(1);
  expect_blocks(store, {1});
}

TEST_P(SharedObjects, ADamagedNeighbourStaysDamagedAndOthersGood) {
  auto const store = open_shared();
  expect_good(write(store, {0, 1, 2, 3}));
  auto object = server_.object(store->object_key_of(0));
  object.body[kBlockBytes + 3] = static_cast<char>(object.body[kBlockBytes + 3] ^ 8);
  server_.store(store->object_key_of(0), object);
  expect_good(write(store, {2}, 90));
  EXPECT_EQ(read_failure(store, 1).code, ErrorCode::Corrupt);
  expect_blocks(store, {0, 3});
  expect_blocks(store, {2}, 90);
  auto const result = read(store, {0, 1, 2});
  EXPECT_EQ(result.errors[0], nullptr);
  EXPECT_EQ(failure_of(result.errors[1]).code, ErrorCode::Corrupt);
  EXPECT_EQ(result.errors[2], nullptr);
}

TEST_P(SharedObjects, FaultsReachEveryBlockOfTheRequest) {
  auto const store = open_shared();
  expect_good(write(store, {0, 1, 2, 3, 4, 5, 6, 7}));
  server_.add_fault({Kind::Status, 403, 0ms, "PUT", "i4/0000000000"});
  server_.add_fault({Kind::Status, 500, 0ms, "GET", "i4/0000000004"});
  // The first object in whole, the second in part.
  auto const errors = write(store, {0, 1, 2, 3, 6, 9}, 10);
  for (std::size_t i = 0; i < 4; ++i) {
    EXPECT_EQ(failure_of(errors[i]).kind, S3ErrorKind::AccessDenied) << i;
  }
  EXPECT_EQ(failure_of(errors[4]).kind, S3ErrorKind::Server);
  EXPECT_EQ(errors[5], nullptr);
  server_.clear_faults();
  expect_blocks(store, {0, 1, 2, 3, 4, 5, 6, 7});
}

// Writers of neighbours in one object must not lose each other's blocks.
TEST_P(SharedObjects, WritersOfPartsExcludeEachOther) {
  auto const store = open_shared();
  std::vector<std::thread> threads;
  for (unsigned t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      for (unsigned round = 0; round < 5; ++round) {
        // Each touches two objects, in turning order.
        Blocks const mine = round % 2 == 0 ? Blocks{t, t + 4} : Blocks{t + 4, t};
        expect_good(write(store, mine, round));
      }
    });
  }
  for (auto& thread : threads) {
    thread.join();
  }
  expect_blocks(store, {0, 1, 2, 3, 4, 5, 6, 7}, 4);
}

// What ten and twelve blocks share are whole objects; the others miss, and are never mistaken.
TEST_P(SharedObjects, AStoreMayGrow) {
  expect_good(write(open_shared(), {0, 1, 2, 3, 6, 8, 9}));
  auto more = geometry();
  more.count = 12;
  auto const store = ObjectBlockStore::open(options(4), more, "");
  expect_blocks(store, {0, 1, 2, 3, 6});
  EXPECT_EQ(read_failure(store, 8).code, ErrorCode::NotFound);
  expect_good(write(store, {8, 11}, 20));
  expect_blocks(store, {8, 11}, 20);
  expect_blocks(open_shared(), {8, 9});
}

TEST_P(SharedObjects, SmallBlocksShareByDefault) {
  EXPECT_EQ(default_blocks_per_object(1), kMaxBlocksPerObject);
  EXPECT_EQ(default_blocks_per_object(4096), kMaxBlocksPerObject);
  EXPECT_EQ(default_blocks_per_object(16384), 16U);
  EXPECT_EQ(default_blocks_per_object(65536), 4U);
  EXPECT_EQ(default_blocks_per_object(65537), 1U);
  EXPECT_EQ(default_blocks_per_object(4 << 20), 1U);
  auto many = geometry();
  many.count = 100;
  auto with = options(0);
  with.scheme.model = "small";
  EXPECT_EQ(ObjectBlockStore::open(with, many, "")->blocks_per_object(), kMaxBlocksPerObject);
}

TEST_P(SharedObjects, WhoGivesNoNumberTakesTheStoresOwn) {
  expect_good(write(open_shared(), {0, 1, 2, 3}));
  auto const store = ObjectBlockStore::open(options(0), geometry(), "");
  EXPECT_EQ(store->blocks_per_object(), 4U);
  expect_blocks(store, {0, 1, 2, 3});
  EXPECT_EQ(failure_of_call([&] { ObjectBlockStore::open(options(1), geometry(), ""); }).code,
            ErrorCode::InvalidArgument);
}

TEST_P(SharedObjects, ThirtyTwoBlocksFitTheMetadata) {
  memory::ExtentGroup const many{0, 64, 4096, 64};
  auto with = options(kMaxBlocksPerObject);
  with.scheme.model = "many";
  auto const store = ObjectBlockStore::open(with, many, "");
  auto memory = pattern(64 * 64, 5);
  std::vector<memory::ExtentIo> list;
  for (std::uint64_t i = 0; i < many.count; ++i) {
    list.push_back({0, i, memory.data() + i * 64, 64});
  }
  auto const puts = count("PUT");
  auto const queue = store->make_queue();
  queue->start_write(store, list);
  expect_good(queue->finish());
  EXPECT_EQ(count("PUT") - puts, 2U);
  auto const expected = memory;
  std::fill(memory.begin(), memory.end(), std::byte{0});
  queue->start_read(store, list);
  expect_good(queue->finish());
  EXPECT_EQ(memory, expected);
}

}  // namespace
}  // namespace kvbm::object::test
