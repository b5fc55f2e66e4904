// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <gtest/gtest.h>

#include <cstddef>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "kvbm/core/error.hpp"
#include "kvbm/object/object_store.hpp"
#include "kvbm/testing/object_server.hpp"
#include "unit/object/object_ways.hpp"

namespace kvbm::object::test {

using testing::ObjectFault;
using testing::ObjectServer;
using namespace std::chrono_literals;

constexpr char const* kSecret = "a-secret-that-nothing-prints";

inline S3Options options_for(std::string const& endpoint) {
  S3Options options;
  options.endpoint = endpoint;
  options.bucket = "blocks";
  options.credentials = Credentials{"TESTKEYID", kSecret, "", "the test", {}};
  options.max_retries = 2;
  options.backoff_base = 1ms;
  options.backoff_cap = 4ms;
  options.connect_timeout = 20s;
  options.stall_timeout = 20s;
  options.deadline = 60s;
  return options;
}

inline std::vector<std::byte> pattern(std::size_t bytes, unsigned seed) {
  std::vector<std::byte> data(bytes);
  for (std::size_t i = 0; i < bytes; ++i) {
    data[i] = static_cast<std::byte>((i * 131 + std::size_t{seed} * 17 + (i >> 8U)) & 255U);
  }
  return data;
}

/// How a call failed.
struct Failure {
  ErrorCode code = ErrorCode::Internal;
  std::optional<S3ErrorKind> kind;
  std::uint32_t attempts = 0;
  int http_status = 0;
  int native_code = 0;
  std::string message;
  bool is_corrupt_error = false;
  bool is_timeout_error = false;
};

inline Failure failure_of(std::exception_ptr const& error) {
  Failure failure;
  try {
    std::rethrow_exception(error);
  } catch (Error const& thrown) {
    failure.code = thrown.code();
    failure.native_code = thrown.native_code();
    failure.message = thrown.what();
    failure.is_corrupt_error = dynamic_cast<CorruptError const*>(&thrown) != nullptr;
    failure.is_timeout_error = dynamic_cast<TimeoutError const*>(&thrown) != nullptr;
    if (auto const* const said = s3_failure(thrown)) {
      failure.kind = said->kind();
      failure.attempts = said->attempts();
      failure.http_status = said->http_status();
    }
  } catch (std::exception const& other) { failure.message = other.what(); }
  EXPECT_EQ(failure.message.find(kSecret), std::string::npos) << "a secret in an error";
  return failure;
}

template <typename Call>
Failure failure_of_call(Call&& call) {
  try {
    std::forward<Call>(call)();
  } catch (...) { return failure_of(std::current_exception()); }
  ADD_FAILURE() << "nothing was thrown";
  return {};
}

inline std::uint64_t errors_of(S3Stats const& stats, S3ErrorKind kind) {
  return stats.attempt_errors[static_cast<std::size_t>(kind)];
}

/// A store of small blocks on a server of the test's own.
class StoreTest : public ::testing::Test {
 protected:
  static constexpr std::uint64_t kBlockBytes = 5000;  // no power of two, no page
  static constexpr std::uint64_t kNumBlocks = 10;

  [[nodiscard]] ObjectStoreOptions options(std::uint32_t blocks_per_object = 1) const {
    ObjectStoreOptions options;
    options.s3 = options_for(server_.endpoint());
    options.scheme = {"model", "OperationalNHD", 1, 0, "cache"};
    options.blocks_per_object = blocks_per_object;
    options.transport = transport_;
    return options;
  }
  std::shared_ptr<ObjectBlockStore> open(std::uint32_t blocks_per_object = 1) const {
    return ObjectBlockStore::open(options(blocks_per_object), geometry(), "descriptor");
  }
  static memory::ExtentGroup geometry() { return {0, kBlockBytes, 8192, kNumBlocks}; }

  using Blocks = std::vector<std::uint64_t>;
  /// Block b gets pattern(b + seed).
  static std::vector<std::exception_ptr> write(std::shared_ptr<ObjectBlockStore> const& store,
                                               Blocks const& blocks, unsigned seed = 0) {
    std::vector<std::vector<std::byte>> memory;
    for (auto const block : blocks) {
      memory.push_back(pattern(kBlockBytes, static_cast<unsigned>(block) + seed));
    }
    auto const queue = store->make_queue();
    queue->start_write(store, extents(blocks, memory));
    EXPECT_EQ(queue->num_started(), blocks.size());
    return queue->finish();
  }
  struct ReadResult {
    std::vector<std::exception_ptr> errors;
    std::vector<std::vector<std::byte>> memory;
  };
  static ReadResult read(std::shared_ptr<ObjectBlockStore> const& store, Blocks const& blocks) {
    ReadResult result;
    result.memory.assign(blocks.size(), std::vector<std::byte>(kBlockBytes, std::byte{0xEE}));
    auto const queue = store->make_queue();
    queue->start_read(store, extents(blocks, result.memory));
    result.errors = queue->finish();
    return result;
  }
  static void expect_blocks(std::shared_ptr<ObjectBlockStore> const& store, Blocks const& blocks,
                            unsigned seed = 0) {
    auto const result = read(store, blocks);
    for (std::size_t i = 0; i < blocks.size(); ++i) {
      ASSERT_EQ(result.errors[i], nullptr) << failure_of(result.errors[i]).message;
      EXPECT_EQ(result.memory[i], pattern(kBlockBytes, static_cast<unsigned>(blocks[i]) + seed))
          << "block " << blocks[i];
    }
  }
  static void expect_good(std::vector<std::exception_ptr> const& errors) {
    for (auto const& error : errors) {
      if (error != nullptr) { ADD_FAILURE() << failure_of(error).message; }
    }
  }
  /// The only block read has to fail, with its memory zeroed.
  static Failure read_failure(std::shared_ptr<ObjectBlockStore> const& store, std::uint64_t block) {
    auto const result = read(store, {block});
    EXPECT_NE(result.errors[0], nullptr);
    EXPECT_EQ(result.memory[0], std::vector<std::byte>(kBlockBytes));
    return result.errors[0] == nullptr ? Failure{} : failure_of(result.errors[0]);
  }
  static std::vector<memory::ExtentIo> extents(Blocks const& blocks,
                                               std::vector<std::vector<std::byte>>& memory) {
    std::vector<memory::ExtentIo> list;
    for (std::size_t i = 0; i < blocks.size(); ++i) {
      list.push_back({0, blocks[i], memory[i].data(), memory[i].size()});
    }
    return list;
  }

  ObjectServer server_;
  ObjectTransport transport_ = ObjectTransport::Curl;
};

/// The same over each way of moving objects.
class StoreWayTest : public StoreTest, public ::testing::WithParamInterface<ObjectTransport> {
 protected:
  void SetUp() override {
    KVBM_SKIP_WITHOUT_WAY(GetParam());
    transport_ = GetParam();
  }
};

}  // namespace kvbm::object::test
