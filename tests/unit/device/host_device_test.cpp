// SPDX-License-Identifier: Apache-2.0
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <thread>
#include <vector>

#include "contract/device_support.hpp"
#include "kvbm/core/checked.hpp"
#include "kvbm/device/device.hpp"

namespace kvbm::device {
namespace {

using contract::code_of;
using namespace kvbm::literals;

TEST(HostDevice, TellsWhatItIs) {
  auto const device = make_host_device(2, {4_GiB});
  EXPECT_EQ(device->backend(), Backend::Host);
  EXPECT_EQ(device->id(), 2);
  EXPECT_EQ(device->name(), "host device 2 (4 GiB)");
  EXPECT_EQ(device->total_bytes(), 4_GiB);
  EXPECT_EQ(device->used_bytes(), 0U);
  EXPECT_EQ(device->numa_node(), -1);
  EXPECT_TRUE(device->is_host_accessible());
  EXPECT_EQ(make_host_device(0, {1_MiB + 512_KiB})->name(), "host device 0 (1.5 MiB)");
  EXPECT_EQ(to_string(Backend::Host), "host");
  EXPECT_EQ(to_string(Backend::Cuda), "cuda");
}

TEST(HostDevice, RefusesBadOptions) {
  EXPECT_EQ(code_of([] { make_host_device(-1); }), ErrorCode::InvalidArgument);
  EXPECT_EQ(code_of([] { make_host_device(0, {0}); }), ErrorCode::InvalidArgument);
  EXPECT_EQ(code_of([] { make_host_device(0, {~std::uint64_t{0}}); }), ErrorCode::InvalidArgument);
}

TEST(HostDevice, TwoDevicesAccountApart) {
  auto const a = make_host_device(0, {1_MiB});
  auto const b = make_host_device(1, {2_MiB});
  auto const all_of_a = a->allocate(1_MiB, 512);
  EXPECT_EQ(a->used_bytes(), 1_MiB);
  EXPECT_EQ(b->used_bytes(), 0U);
  EXPECT_EQ(code_of([&] { static_cast<void>(a->allocate(1, 512)); }), ErrorCode::OutOfMemory);
  auto const half_of_b = b->allocate(1_MiB, 512);
  EXPECT_EQ(b->used_bytes(), 1_MiB);
  EXPECT_FALSE(a->classify(half_of_b.host_data()).has_value());
  EXPECT_FALSE(b->classify(all_of_a.host_data()).has_value());
}

TEST(HostDevice, OutOfMemoryNamesAskedUsedAndTotalBytes) {
  auto const device = make_host_device(0, {1_MiB});
  auto const region = device->allocate(256_KiB, 512);
  try {
    static_cast<void>(device->allocate(900000, 512));
    FAIL() << "more than there is was handed out";
  } catch (Error const& error) {
    EXPECT_EQ(error.code(), ErrorCode::OutOfMemory);
    for (char const* const part : {"host device 0", "900000", "262144", "1048576"}) {
      EXPECT_THAT(error.what(), ::testing::HasSubstr(part));
    }
  }
  EXPECT_EQ(device->used_bytes(), 256_KiB) << "a refused request costs nothing";
}

TEST(HostDevice, HugeRequestsAreRefusedWithoutWrapping) {
  auto const device = make_host_device(0, {1_MiB});
  EXPECT_EQ(code_of([&] { static_cast<void>(device->allocate(~std::uint64_t{0}, 512)); }),
            ErrorCode::Overflow);
  EXPECT_EQ(code_of([&] { static_cast<void>(device->allocate(kMaxBytes / 2, 512)); }),
            ErrorCode::OutOfMemory);
}

TEST(HostDevice, MemoryIsZeroedAndPageAligned) {
  auto const device = make_host_device(0, {16_MiB});
  for (std::uint64_t const bytes : {std::uint64_t{1}, std::uint64_t{5000}, 3_MiB}) {
    for (int round = 0; round < 2; ++round) {  // the second time, memory may be a used one
      auto const region = device->allocate(bytes, 512);
      std::byte* const data = region.host_data();
      ASSERT_NE(data, nullptr);
      EXPECT_EQ(region.address() % 4096, 0U);
      EXPECT_TRUE(std::all_of(data, data + bytes, [](std::byte b) { return b == std::byte{0}; }));
      std::fill(data, data + bytes, std::byte{0xa5});
    }
  }
  EXPECT_EQ(device->allocate(4096, 65536).address() % 65536, 0U);
}

TEST(HostDevice, ChargesWholePages) {
  auto const device = make_host_device(0, {1_MiB});
  auto const region = device->allocate(1, 1);
  EXPECT_EQ(device->used_bytes() % 4096, 0U);
  EXPECT_GT(device->used_bytes(), 0U);
}

TEST(HostDevice, ClassifyTellsTheBytesLeft) {
  auto const device = make_host_device(1, {1_MiB});
  auto const region = device->allocate(10000, 512);
  auto const neighbour = device->allocate(10000, 512);
  std::byte* const data = region.host_data();
  EXPECT_EQ(device->classify(data)->bytes_left, 10000U);
  EXPECT_EQ(device->classify(data + 9999)->bytes_left, 1U);
  EXPECT_FALSE(device->classify(data + 10000).has_value());
  EXPECT_FALSE(device->classify(data - 1).has_value());
}

TEST(HostDevice, SubregionKeepsTheWholeAllocation) {
  auto const device = make_host_device(0, {1_MiB});
  auto part = std::make_unique<memory::Region>(device->allocate(64_KiB, 512).subregion(512, 512));
  EXPECT_EQ(device->used_bytes(), 64_KiB);
  EXPECT_EQ(device->classify(part->host_data())->bytes_left, 64_KiB - 512);
  part.reset();
  EXPECT_EQ(device->used_bytes(), 0U);
}

TEST(HostDevice, RegionOutlivesTheDevice) {
  auto device = make_host_device(0, {1_MiB});
  auto const region = device->allocate(64_KiB, 512);
  device.reset();
  region.host_data()[0] = std::byte{1};
  EXPECT_EQ(region.host_data()[0], std::byte{1});
}

TEST(HostDevice, SixteenThreadsMayAllocateAndClassify) {
  auto const device = make_host_device(0, {64_MiB});
  std::vector<std::thread> threads;
  for (int t = 0; t < 16; ++t) {
    threads.emplace_back([&device] {
      for (int i = 1; i <= 50; ++i) {
        auto const region = device->allocate(static_cast<std::uint64_t>(i) * 1000, 512);
        auto const info = device->classify(region.host_data() + i);
        ASSERT_TRUE(info.has_value());
        EXPECT_EQ(info->bytes_left, region.bytes() - static_cast<std::uint64_t>(i));
      }
    });
  }
  for (auto& thread : threads) {
    thread.join();
  }
  EXPECT_EQ(device->used_bytes(), 0U);
}

TEST(CudaDevice, AbsenceIsUnsupportedWithTheReason) {
  if (cuda_unavailable_reason().empty()) { GTEST_SKIP() << "there are CUDA devices"; }
  try {
    make_cuda_device(0);
    FAIL() << "a device appeared";
  } catch (UnsupportedError const& error) {
    EXPECT_EQ(error.what(), "no CUDA device: " + cuda_unavailable_reason());
  }
}

}  // namespace
}  // namespace kvbm::device
