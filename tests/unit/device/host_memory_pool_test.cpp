// SPDX-License-Identifier: Apache-2.0
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "contract/device_support.hpp"
#include "kvbm/device/device.hpp"

namespace kvbm::device {
namespace {

using contract::code_of;
using contract::Latch;
using namespace kvbm::literals;

class HostMemoryPool : public ::testing::Test {
 protected:
  using Lease = std::unique_ptr<memory::Region>;  // a region that a test drops when it likes

  static Lease take(MemoryPool& pool, std::uint64_t bytes, StreamPtr const& stream) {
    return std::make_unique<memory::Region>(pool.allocate(bytes, stream));
  }
  void hold(StreamPtr const& stream) {
    stream->enqueue([this] { EXPECT_TRUE(latch_.wait()); });
  }

  DevicePtr device_ = make_host_device(0, {16_MiB});
  Latch latch_;
  StreamPtr a_ = device_->create_stream("a");
  StreamPtr b_ = device_->create_stream("b");
};

TEST_F(HostMemoryPool, ReserveIsTakenFromTheDeviceAndGivenBackAtTheEnd) {
  auto pool = device_->create_memory_pool(8_MiB, 8_MiB);
  EXPECT_EQ(device_->used_bytes(), 8_MiB);
  EXPECT_EQ(pool->stats().reserved_bytes, 8_MiB);
  EXPECT_EQ(pool->stats().num_device_allocations, 1U);
  pool.reset();
  EXPECT_EQ(device_->used_bytes(), 0U);
}

TEST_F(HostMemoryPool, ReserveBeyondTheDeviceIsRefused) {
  EXPECT_EQ(code_of([&] { static_cast<void>(device_->create_memory_pool(17_MiB, 0)); }),
            ErrorCode::OutOfMemory);
  EXPECT_EQ(device_->used_bytes(), 0U);
}

TEST_F(HostMemoryPool, FreeMemoryBeyondTheThresholdGoesBack) {
  auto const pool = device_->create_memory_pool(0, 3_MiB);
  auto first = take(*pool, 2_MiB, a_);
  auto second = take(*pool, 2_MiB, a_);
  auto third = take(*pool, 4_MiB, a_);
  EXPECT_EQ(pool->stats().reserved_bytes, 8_MiB);
  first.reset();
  EXPECT_EQ(pool->stats().reserved_bytes, 8_MiB) << "2 MiB free, below the threshold";
  second.reset();
  EXPECT_EQ(pool->stats().reserved_bytes, 6_MiB) << "4 MiB were free, one piece is enough";
  third.reset();
  EXPECT_EQ(pool->stats().reserved_bytes, 2_MiB) << "6 MiB were free, the larger piece goes";
  EXPECT_EQ(device_->used_bytes(), 2_MiB);
  EXPECT_EQ(pool->stats().used_bytes, 0U);
  EXPECT_EQ(pool->stats().peak_used_bytes, 8_MiB);
}

TEST_F(HostMemoryPool, ThresholdZeroKeepsNothing) {
  auto const pool = device_->create_memory_pool(4_MiB, 0);
  take(*pool, 1_MiB, a_);
  EXPECT_EQ(pool->stats().reserved_bytes, 0U);
  EXPECT_EQ(device_->used_bytes(), 0U);
}

TEST_F(HostMemoryPool, SmallRequestsShareOnePiece) {
  auto const pool = device_->create_memory_pool(0, 16_MiB);
  std::vector<memory::Region> regions;
  for (int i = 0; i < 100; ++i) {
    regions.push_back(pool->allocate(1000, a_));
  }
  EXPECT_EQ(pool->stats().num_device_allocations, 1U);
  EXPECT_EQ(pool->stats().used_bytes, 100U * 1024);
  std::vector<std::uintptr_t> addresses;
  for (auto const& region : regions) {
    addresses.push_back(region.address());
  }
  std::sort(addresses.begin(), addresses.end());
  for (std::size_t i = 1; i < addresses.size(); ++i) {
    EXPECT_GE(addresses[i] - addresses[i - 1], 1000U);
  }
}

TEST_F(HostMemoryPool, FreedNeighboursServeALargerRequest) {
  auto const pool = device_->create_memory_pool(2_MiB, 2_MiB);
  std::vector<Lease> parts;
  for (int i = 0; i < 4; ++i) {
    parts.push_back(take(*pool, 512_KiB, a_));
  }
  parts.clear();
  auto const whole = pool->allocate(2_MiB, b_);
  EXPECT_EQ(pool->stats().num_device_allocations, 1U);
}

TEST_F(HostMemoryPool, FreedMemoryIsReusedAtOnceOnItsOwnStream) {
  auto const pool = device_->create_memory_pool(2_MiB, 2_MiB);
  hold(a_);
  auto first = take(*pool, 2_MiB, a_);
  auto const address = first->address();
  auto* const data = first->host_data();
  std::byte seen{};
  a_->enqueue([data] { std::memset(data, 1, 2_MiB); });
  a_->enqueue([data, &seen] { seen = data[2_MiB - 1]; });
  first.reset();  // its work has not even begun
  EXPECT_EQ(pool->stats().used_bytes, 0U);
  auto const second = pool->allocate(2_MiB, a_);
  EXPECT_EQ(second.address(), address);
  EXPECT_EQ(pool->stats().num_device_allocations, 1U);
  a_->enqueue([data] { std::memset(data, 2, 2_MiB); });
  latch_.open();
  a_->synchronize();
  EXPECT_EQ(seen, std::byte{1}) << "the former use came first";
  EXPECT_EQ(second.host_data()[0], std::byte{2});
}

TEST_F(HostMemoryPool, AnotherStreamGetsOtherMemoryWhileThatIsPending) {
  auto const pool = device_->create_memory_pool(2_MiB, 16_MiB);
  hold(a_);
  auto first = take(*pool, 2_MiB, a_);
  auto const address = first->address();
  first.reset();
  auto const second = pool->allocate(2_MiB, b_);
  EXPECT_NE(second.address(), address);
  EXPECT_EQ(pool->stats().num_device_allocations, 2U);
  b_->synchronize();  // and does not wait for a
  latch_.open();
  a_->synchronize();
  EXPECT_EQ(pool->allocate(2_MiB, b_).address(), address) << "free for all once a is through";
}

TEST_F(HostMemoryPool, FullDeviceMakesTheStreamWaitInsteadOfFailing) {
  auto const pool = device_->create_memory_pool(16_MiB, 16_MiB);
  hold(a_);
  auto first = take(*pool, 16_MiB, a_);
  auto* const data = first->host_data();
  int const* unguarded = nullptr;
  int value = 0;
  a_->enqueue([&] {
    value = 1;
    std::memset(data, 1, 4096);
  });
  first.reset();
  auto const second = pool->allocate(16_MiB, b_);  // returns at once, although a is held
  EXPECT_EQ(second.host_data(), data);
  EXPECT_FALSE(b_->is_idle()) << "b waits, though nothing was enqueued there";
  b_->enqueue([&] {
    unguarded = &value;
    EXPECT_EQ(value, 1);
    EXPECT_EQ(data[0], std::byte{1});
  });
  latch_.open();
  b_->synchronize();
  EXPECT_EQ(unguarded, &value);
}

TEST_F(HostMemoryPool, PendingMemoryGoesBackWhenTheStreamIsThrough) {
  auto const pool = device_->create_memory_pool(0, 0);
  hold(a_);
  take(*pool, 4_MiB, a_);
  EXPECT_EQ(pool->stats().reserved_bytes, 4_MiB) << "still in use by the stream";
  latch_.open();
  a_->synchronize();
  EXPECT_EQ(pool->stats().reserved_bytes, 0U);
  EXPECT_EQ(device_->used_bytes(), 0U);
}

TEST_F(HostMemoryPool, PendingMemoryOutlivesPoolAndRegion) {
  auto pool = device_->create_memory_pool(0, 0);
  hold(a_);
  auto region = take(*pool, 64_KiB, a_);
  auto* const data = region->host_data();
  a_->enqueue([data] { std::memset(data, 1, 64_KiB); });  // the sanitizers watch
  region.reset();
  pool.reset();
  EXPECT_GT(device_->used_bytes(), 0U);
  latch_.open();
  a_->synchronize();
  EXPECT_EQ(device_->used_bytes(), 0U);
}

TEST_F(HostMemoryPool, RegionOutlivesItsStream) {
  auto const pool = device_->create_memory_pool(0, 0);
  auto stream = device_->create_stream("short-lived");
  auto region = take(*pool, 64_KiB, stream);
  stream->enqueue([] {});
  stream.reset();
  region.reset();
  EXPECT_EQ(device_->used_bytes(), 0U);
}

TEST_F(HostMemoryPool, LastReferenceMayGoInsideWorkThatAlsoOwnsTheStream) {
  auto const pool = device_->create_memory_pool(0, 0);
  auto const end = std::make_shared<Latch>();
  {
    auto stream = device_->create_stream("owner");
    auto region = std::make_shared<memory::Region>(pool->allocate(64_KiB, stream));
    auto const raw = stream;
    auto held = std::make_shared<StreamPtr>(std::move(stream));
    raw->enqueue([held = std::move(held), region = std::move(region)]() mutable {
      held->reset();
      region.reset();
    });
    raw->enqueue([end] { end->open(); });
  }
  EXPECT_TRUE(end->wait());
  device_->synchronize();
  EXPECT_EQ(device_->used_bytes(), 0U);
}

TEST_F(HostMemoryPool, OutOfMemoryNamesWhatIsHeldAndLeavesThePoolUsable) {
  auto const pool = device_->create_memory_pool(0, 16_MiB);
  auto const half = pool->allocate(8_MiB, a_);
  try {
    static_cast<void>(pool->allocate(9_MiB, a_));
    FAIL() << "more than there is was handed out";
  } catch (Error const& error) {
    EXPECT_EQ(error.code(), ErrorCode::OutOfMemory);
    for (std::uint64_t const bytes : {9_MiB, 8_MiB, 16_MiB}) {
      EXPECT_THAT(error.what(), ::testing::HasSubstr(std::to_string(bytes)));
    }
  }
  EXPECT_EQ(pool->stats().used_bytes, 8_MiB);
  EXPECT_EQ(pool->stats().num_allocations, 1U);
  auto const other_half = pool->allocate(8_MiB, a_);
  EXPECT_EQ(device_->used_bytes(), 16_MiB);
}

TEST_F(HostMemoryPool, GivesUpFreePiecesForARequestThatNeedsThem) {
  auto const pool = device_->create_memory_pool(0, 16_MiB);
  auto first = take(*pool, 6_MiB, a_);
  auto second = take(*pool, 6_MiB, a_);
  first.reset();
  second.reset();
  EXPECT_EQ(pool->stats().reserved_bytes, 12_MiB);
  auto const large = pool->allocate(12_MiB, a_);
  EXPECT_EQ(pool->stats().reserved_bytes, 12_MiB);
}

TEST_F(HostMemoryPool, TakesAnExactPieceWhereAGenerousOneDoesNotFit) {
  auto const small = make_host_device(1, {64_KiB});
  auto const pool = small->create_memory_pool(0, 0);
  auto const stream = small->create_stream("small");
  auto const region = pool->allocate(60_KiB, stream);
  EXPECT_EQ(pool->stats().reserved_bytes, 60_KiB);
}

TEST_F(HostMemoryPool, RefusesAStreamOfAnotherDevice) {
  auto const other = make_host_device(1);
  auto const pool = device_->create_memory_pool(0, 0);
  auto const stream = other->create_stream("elsewhere");
  EXPECT_EQ(code_of([&] { static_cast<void>(pool->allocate(512, stream)); }),
            ErrorCode::InvalidArgument);
}

// Every region is written by its stream, dropped at once, and checked by its stream before that.
TEST_F(HostMemoryPool, SixteenThreadsOnFourStreamsNeverShareMemory) {
  auto const pool = device_->create_memory_pool(1_MiB, 1_MiB);
  StreamPool streams(*device_, "load", 4);
  std::atomic<int> wrong{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < 16; ++t) {
    threads.emplace_back([&, t] {
      for (int i = 0; i < 60; ++i) {
        auto const stream = streams.acquire();
        auto const bytes = static_cast<std::uint64_t>(512 * (1 + (t * 7 + i * 13) % 40));
        auto const region = pool->allocate(bytes, stream);
        auto* const data = region.host_data();
        auto const mark = static_cast<std::byte>(t * 60 + i);
        stream->enqueue([data, bytes, mark, &wrong] {
          std::fill(data, data + bytes, mark);
          std::this_thread::yield();
          wrong +=
              std::all_of(data, data + bytes, [mark](std::byte b) { return b == mark; }) ? 0 : 1;
        });
      }
    });
  }
  for (auto& thread : threads) {
    thread.join();
  }
  device_->synchronize();
  EXPECT_EQ(wrong, 0);
  auto const stats = pool->stats();
  EXPECT_EQ(stats.used_bytes, 0U);
  EXPECT_EQ(stats.num_allocations, 960U);
  EXPECT_LE(stats.reserved_bytes, 2_MiB);
  EXPECT_EQ(device_->used_bytes(), stats.reserved_bytes);
}

}  // namespace
}  // namespace kvbm::device
