// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "contract/device_fixture.hpp"

/// What every Device promises about memory; part of device_contract.hpp.
namespace kvbm::device::contract {

// --- memory -------------------------------------------------------------------------------------

TEST_P(DeviceContract, AllocationIsAccountedAndGivenBack) {
  using namespace kvbm::literals;
  std::uint64_t const before = device_->used_bytes();
  {
    auto const region = device_->allocate(2_MiB, 512);
    EXPECT_EQ(region.kind(), memory::StorageKind::Device);
    EXPECT_EQ(region.device_id(), device_->id());
    EXPECT_EQ(region.bytes(), 2_MiB);
    EXPECT_EQ(region.address() % 512, 0U);
    EXPECT_EQ(region.host_data() != nullptr, device_->is_host_accessible());
    EXPECT_GE(device_->used_bytes(), before + 2_MiB);
    EXPECT_LE(device_->used_bytes(), device_->total_bytes());
  }
  EXPECT_EQ(device_->used_bytes(), before);
}

TEST_P(DeviceContract, ClassifyKnowsOwnMemoryWhileItLives) {
  std::uintptr_t address = 0;
  {
    auto const region = device_->allocate(10000, 4096);
    address = region.address();
    auto const at = [&](std::uint64_t offset) {
      return device_->classify(reinterpret_cast<void const*>(address + offset));
    };
    for (std::uint64_t const offset : {std::uint64_t{0}, std::uint64_t{1}, std::uint64_t{9999}}) {
      auto const info = at(offset);
      ASSERT_TRUE(info.has_value()) << "offset " << offset;
      EXPECT_EQ(info->kind, memory::StorageKind::Device);
      EXPECT_EQ(info->device_id, device_->id());
      EXPECT_GE(info->bytes_left, 10000 - offset);
    }
  }
  EXPECT_FALSE(device_->classify(reinterpret_cast<void const*>(address)).has_value());
  int local = 0;
  EXPECT_FALSE(device_->classify(&local).has_value());
  EXPECT_FALSE(device_->classify(nullptr).has_value());
}

TEST_P(DeviceContract, RefusesBadRequestsForMemory) {
  EXPECT_EQ(code_of([&] { static_cast<void>(device_->allocate(0, 512)); }),
            ErrorCode::InvalidArgument);
  EXPECT_EQ(code_of([&] { static_cast<void>(device_->allocate(512, 3)); }),
            ErrorCode::InvalidArgument);
  EXPECT_EQ(code_of([&] { static_cast<void>(device_->allocate(512, 0)); }),
            ErrorCode::InvalidArgument);
}

TEST_P(DeviceContract, OutOfMemoryNamesAskedUsedAndTotal) {
  std::uint64_t const asked = device_->total_bytes() + 1;
  try {
    static_cast<void>(device_->allocate(asked, 512));
    FAIL() << "more than there is was handed out";
  } catch (Error const& error) {
    EXPECT_EQ(error.code(), ErrorCode::OutOfMemory);
    EXPECT_THAT(error.what(), ::testing::HasSubstr(std::to_string(asked)));
    EXPECT_THAT(error.what(), ::testing::HasSubstr(std::to_string(device_->total_bytes())));
  }
}

// --- memory pool --------------------------------------------------------------------------------

TEST_P(DeviceContract, PoolHoldsItsReserveAndReusesIt) {
  using namespace kvbm::literals;
  auto const pool = device_->create_memory_pool(4_MiB, 4_MiB);
  auto const stream = device_->create_stream("pool");
  // A driver may take memory in larger pieces than were asked for.
  auto const reserved = pool->stats().reserved_bytes;
  EXPECT_GE(reserved, 4_MiB);
  EXPECT_EQ(pool->stats().used_bytes, 0U);
  auto const asked_before = pool->stats().num_device_allocations;
  for (int i = 0; i < 10; ++i) {
    auto const region = pool->allocate(1_MiB, stream);
    EXPECT_EQ(region.bytes(), 1_MiB);
    EXPECT_EQ(region.kind(), memory::StorageKind::Device);
    EXPECT_EQ(region.device_id(), device_->id());
    EXPECT_EQ(region.address() % memory::kRegionAlignment, 0U);
    EXPECT_EQ(pool->stats().used_bytes, 1_MiB);
  }
  auto const stats = pool->stats();
  EXPECT_EQ(stats.used_bytes, 0U);
  EXPECT_EQ(stats.peak_used_bytes, 1_MiB);
  EXPECT_EQ(stats.num_allocations, 10U);
  EXPECT_EQ(stats.num_device_allocations, asked_before);
  EXPECT_EQ(stats.reserved_bytes, reserved);
}

TEST_P(DeviceContract, PoolRefusesBadRequests) {
  using namespace kvbm::literals;
  auto const pool = device_->create_memory_pool(0, 0);
  auto const stream = device_->create_stream("pool");
  EXPECT_EQ(code_of([&] { static_cast<void>(pool->allocate(0, stream)); }),
            ErrorCode::InvalidArgument);
  EXPECT_EQ(code_of([&] { static_cast<void>(pool->allocate(1, nullptr)); }),
            ErrorCode::InvalidArgument);
  EXPECT_EQ(code_of([&] { static_cast<void>(pool->allocate(device_->total_bytes() * 2, stream)); }),
            ErrorCode::OutOfMemory);
  EXPECT_EQ(code_of([&] {
              static_cast<void>(device_->create_memory_pool(device_->total_bytes() + 1, 0));
            }),
            ErrorCode::OutOfMemory);
  EXPECT_EQ(pool->stats().num_allocations, 0U);
}

TEST_P(DeviceContract, PoolRegionOutlivesThePool) {
  using namespace kvbm::literals;
  std::uint64_t const before = device_->used_bytes();
  auto pool = device_->create_memory_pool(0, 0);
  auto const stream = device_->create_stream("pool");
  {
    auto const region = pool->allocate(1_MiB, stream);
    pool.reset();
    EXPECT_GT(device_->used_bytes(), before);
  }
  stream->synchronize();
  EXPECT_EQ(device_->used_bytes(), before);
}

}  // namespace kvbm::device::contract
