// SPDX-License-Identifier: Apache-2.0
#include <gmock/gmock.h>
#include <sys/mman.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstring>
#include <memory>
#include <vector>

#include "device/cuda/cuda_memory.hpp"
#include "device/cuda/pinned_memory.hpp"
#include "unit/device/cuda_fixture.hpp"

namespace kvbm::device::testing {
namespace {

using contract::code_of;
using memory::StorageKind;
using ::testing::HasSubstr;
using namespace kvbm::literals;

struct CudaMemory : CudaTest {
  [[nodiscard]] static bool is_pinned(void const* address) {
    return cuda_attributes(reinterpret_cast<std::uintptr_t>(address)).type == cudaMemoryTypeHost;
  }
  // A mapping somewhere, or where asked.
  [[nodiscard]] static memory::Region map(std::uint64_t bytes, std::uintptr_t at = 0) {
    void* const wanted = reinterpret_cast<void*>(at);
    void* const data =
        mmap(wanted, bytes, PROT_READ | PROT_WRITE,
             MAP_PRIVATE | MAP_ANONYMOUS | (at != 0 ? MAP_FIXED_NOREPLACE : 0), -1, 0);
    if (data == MAP_FAILED) { throw_error(ErrorCode::OutOfMemory, describe_errno(errno), errno); }
    std::shared_ptr<void const> const owner(
        data, [bytes](void const* mapped) { munmap(const_cast<void*>(mapped), bytes); });
    return memory::Region::of_memory(StorageKind::System, data, bytes, -1, true, owner);
  }
};

TEST_F(CudaMemory, IsZeroedAndAligned) {
  for (std::uint64_t const bytes : {std::uint64_t{1}, std::uint64_t{10001}, 3_MiB + 5}) {
    for (std::uint64_t const alignment : {std::uint64_t{1}, 4_KiB, 8_MiB}) {
      auto const region = device_->allocate(bytes, alignment);
      EXPECT_EQ(region.address() % std::max(alignment, 4_KiB), 0U);
      EXPECT_EQ(region.host_data(), nullptr);
      std::vector<std::byte> found(bytes, std::byte{1});
      ASSERT_EQ(cudaMemcpy(found.data(), reinterpret_cast<void*>(region.address()), bytes,
                           cudaMemcpyDeviceToHost),
                cudaSuccess);
      EXPECT_EQ(std::count(found.begin(), found.end(), std::byte{0}),
                static_cast<std::ptrdiff_t>(bytes));
      // What comes next should not find zeros by luck.
      ASSERT_EQ(cudaMemset(reinterpret_cast<void*>(region.address()), 0xff, bytes), cudaSuccess);
    }
  }
  EXPECT_EQ(device_->used_bytes(), 0U);
}

TEST_F(CudaMemory, OutOfMemoryIsNamedAndSurvived) {
  std::uint64_t const asked = device_->total_bytes() + 1_MiB;
  auto const pool = device_->create_memory_pool(0, 0);
  auto const stream = device_->create_stream("pool");
  auto const expect_message = [&](auto const& action) {
    try {
      action();
      FAIL() << "more than there is was handed out";
    } catch (Error const& error) {
      EXPECT_EQ(error.code(), ErrorCode::OutOfMemory);
      EXPECT_THAT(error.what(), HasSubstr(std::to_string(asked)));
      EXPECT_THAT(error.what(), HasSubstr(std::to_string(device_->total_bytes())));
      EXPECT_EQ(error.native_code(), static_cast<int>(cudaErrorMemoryAllocation));
    }
    EXPECT_EQ(cudaPeekAtLastError(), cudaSuccess);
  };
  expect_message([&] { static_cast<void>(device_->allocate(asked, 512)); });
  expect_message([&] { static_cast<void>(pool->allocate(asked, stream)); });
  expect_message([&] { static_cast<void>(device_->create_memory_pool(asked, 0)); });
  EXPECT_EQ(device_->used_bytes(), pool->stats().reserved_bytes);
  static_cast<void>(device_->allocate(1_MiB, 512));
  static_cast<void>(pool->allocate(1_MiB, stream));
}

TEST_F(CudaMemory, PoolFreesInTheOrderOfTheStream) {
  auto const pool = device_->create_memory_pool(64_MiB, 64_MiB);
  auto const stream = device_->create_stream("pool");
  auto const asked_before = pool->stats().num_device_allocations;
  std::vector<memory::Region> results;
  constexpr int kRounds = 50;
  auto const out = device_->allocate(kRounds * 1_MiB, 512);
  for (int i = 0; i < kRounds; ++i) {
    auto const temporary = pool->allocate(1_MiB, stream);
    auto* const data = reinterpret_cast<void*>(temporary.address());
    ASSERT_EQ(cudaMemsetAsync(data, i + 1, 1_MiB, native(stream)), cudaSuccess);
    ASSERT_EQ(cudaMemcpyAsync(
                  reinterpret_cast<void*>(out.address() + static_cast<std::uint64_t>(i) * 1_MiB),
                  data, 1_MiB, cudaMemcpyDeviceToDevice, native(stream)),
              cudaSuccess);
  }
  stream->synchronize();
  std::vector<unsigned char> found(kRounds * 1_MiB);
  ASSERT_EQ(cudaMemcpy(found.data(), reinterpret_cast<void*>(out.address()), found.size(),
                       cudaMemcpyDeviceToHost),
            cudaSuccess);
  for (std::size_t i = 0; i < found.size(); i += 4099) {
    ASSERT_EQ(found[i], i / 1_MiB + 1) << i;
  }
  auto const stats = pool->stats();
  EXPECT_EQ(stats.num_device_allocations, asked_before) << "the reserve should have sufficed";
  EXPECT_EQ(stats.num_allocations, static_cast<std::uint64_t>(kRounds));
  EXPECT_EQ(stats.used_bytes, 0U);
  EXPECT_GE(stats.reserved_bytes, 64_MiB);
}

TEST_F(CudaMemory, PoolRegionOutlivesItsStreamAndItsDevice) {
  auto device = make_cuda_device(0);
  auto stream = device->create_stream("gone");
  auto pool = device->create_memory_pool(0, 0);
  auto region = pool->allocate(1_MiB, stream);
  stream.reset();
  pool.reset();
  device.reset();
  EXPECT_EQ(cudaMemset(reinterpret_cast<void*>(region.address()), 1, region.bytes()), cudaSuccess);
  // The region's end waits for its own stream only.
  EXPECT_EQ(cudaDeviceSynchronize(), cudaSuccess);
}

TEST_F(CudaMemory, ClassifiesAllKinds) {
  auto const classify = [&](void const* address) { return device_->classify(address); };
  void* managed = nullptr;
  void* pinned = nullptr;
  ASSERT_EQ(cudaMallocManaged(&managed, 1_MiB), cudaSuccess);
  ASSERT_EQ(cudaHostAlloc(&pinned, 1_MiB, cudaHostAllocDefault), cudaSuccess);
  std::vector<std::byte> pageable(1_MiB);
  auto info = classify(managed);
  ASSERT_TRUE(info.has_value());
  EXPECT_EQ(info->kind, StorageKind::Device);
  info = classify(static_cast<std::byte*>(pinned) + 4096);
  ASSERT_TRUE(info.has_value());
  EXPECT_EQ(info->kind, StorageKind::Pinned);
  EXPECT_TRUE(info->bytes_left == 0 || info->bytes_left >= 1_MiB - 4096) << info->bytes_left;
  EXPECT_FALSE(classify(pageable.data()).has_value());
  auto const region = device_->allocate(1_MiB, 512);
  auto const pool = device_->create_memory_pool(0, 0);
  auto const stream = device_->create_stream("pool");
  auto const temporary = pool->allocate(1_MiB, stream);
  for (auto const& mine : {region, temporary}) {
    info = classify(reinterpret_cast<void*>(mine.address() + 100));
    ASSERT_TRUE(info.has_value());
    EXPECT_EQ(info->kind, StorageKind::Device);
    EXPECT_EQ(info->device_id, 0);
    EXPECT_GE(info->bytes_left, 1_MiB - 100);
  }
  EXPECT_EQ(cudaFree(managed), cudaSuccess);
  EXPECT_EQ(cudaFreeHost(pinned), cudaSuccess);
  EXPECT_FALSE(classify(pinned).has_value());
}

TEST_F(CudaMemory, SourcePinsItsMemoryAndKnowsPageableMemory) {
  auto const source = make_memory_source({device_});
  auto const pinned = source->allocate({StorageKind::Pinned, 3_MiB, 512, 0});
  EXPECT_EQ(pinned.kind(), StorageKind::Pinned);
  EXPECT_EQ(pinned.device_id(), 0);
  EXPECT_TRUE(is_pinned(pinned.host_data()));
  EXPECT_TRUE(is_pinned(pinned.host_data() + pinned.bytes() - 1));
  auto info = source->classify(pinned.host_data() + 1);
  ASSERT_TRUE(info.has_value());
  EXPECT_EQ(info->kind, StorageKind::Pinned);
  EXPECT_EQ(info->bytes_left, 3_MiB - 1);
  EXPECT_EQ(source->pinned_stats().regions, 1U);
  EXPECT_EQ(source->pinned_stats().locked_bytes, source->pinned_stats().bytes);
  auto const system = source->allocate({StorageKind::System, 3_MiB, 512, -1});
  EXPECT_FALSE(is_pinned(system.host_data()));
  std::array<std::byte, 64> pageable{};
  info = source->classify(pageable.data());
  ASSERT_TRUE(info.has_value()) << "pageable memory given as Pinned would go unnoticed";
  EXPECT_EQ(info->kind, StorageKind::System);
}

TEST_F(CudaMemory, PinsOddRanges) {
  auto const heap = std::make_shared<std::vector<std::byte>>(100001);
  auto const host =
      memory::Region::of_memory(StorageKind::System, heap->data() + 7, 90001, -1, true, heap);
  {
    auto const pinned = device_->pin(host);
    EXPECT_EQ(pinned.kind(), StorageKind::Pinned);
    EXPECT_EQ(pinned.address(), host.address());
    EXPECT_EQ(pinned.bytes(), host.bytes());
    EXPECT_TRUE(is_pinned(pinned.host_data()));
    EXPECT_TRUE(is_pinned(pinned.host_data() + pinned.bytes() - 1));
  }
  EXPECT_FALSE(is_pinned(host.host_data()));
}

TEST_F(CudaMemory, CutsRegistrationsAtMultiplesOf64GiB) {
  std::uintptr_t const cut = std::uintptr_t{0x500} * kPinChunkBytes;
  auto const host = map(8_MiB, cut - 4_MiB);
  auto const pinned = device_->pin(host);
  EXPECT_TRUE(is_pinned(pinned.host_data()));
  EXPECT_TRUE(is_pinned(pinned.host_data() + 8_MiB - 1));
  CudaDriver const& driver = cuda_driver();
  CUdeviceptr start = 0;
  ASSERT_EQ(driver.pointer_get_attribute(&start, CU_POINTER_ATTRIBUTE_RANGE_START_ADDR, cut),
            CUDA_SUCCESS);
  EXPECT_EQ(start, cut);
  EXPECT_EQ(end_of_cuda_range(cut - 1), cut);
  auto const info = device_->classify(pinned.host_data());
  ASSERT_TRUE(info.has_value());
  EXPECT_GE(info->bytes_left, 8_MiB) << "one range for its users";
}

TEST_F(CudaMemory, LeavesAloneWhatTheCallerRegistered) {
  auto const host = map(1_MiB);
  std::byte* const theirs = host.host_data() + 256_KiB;
  ASSERT_EQ(cudaHostRegister(theirs, 128_KiB, cudaHostRegisterPortable), cudaSuccess);
  {
    auto const pinned = device_->pin(host);
    for (std::uint64_t offset = 0; offset < 1_MiB; offset += 4096) {
      ASSERT_TRUE(is_pinned(host.host_data() + offset)) << offset;
    }
  }
  EXPECT_TRUE(is_pinned(theirs));
  EXPECT_FALSE(is_pinned(host.host_data()));
  EXPECT_FALSE(is_pinned(host.host_data() + 1_MiB - 1));
  EXPECT_EQ(cudaHostUnregister(theirs), cudaSuccess);
}

TEST_F(CudaMemory, TwoPinsOfTheSameMemoryKeepItPinned) {
  auto const host = map(1_MiB);
  auto first = std::make_unique<memory::Region>(device_->pin(host));
  auto second = std::make_unique<memory::Region>(device_->pin(host.subregion(4_KiB, 64_KiB)));
  first.reset();
  EXPECT_TRUE(is_pinned(host.host_data() + 4_KiB));
  second.reset();
  EXPECT_FALSE(is_pinned(host.host_data() + 4_KiB));
}

TEST_F(CudaMemory, PinsOnlyMemoryOfTheHost) {
  auto const region = device_->allocate(4_KiB, 512);
  EXPECT_EQ(code_of([&] { static_cast<void>(device_->pin(region)); }), ErrorCode::InvalidArgument);
}

}  // namespace
}  // namespace kvbm::device::testing
