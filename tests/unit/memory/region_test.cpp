// SPDX-License-Identifier: Apache-2.0
#include "kvbm/memory/region.hpp"

#include <gtest/gtest.h>

#include <array>
#include <limits>
#include <optional>

#include "kvbm/memory/storage_kind.hpp"
#include "kvbm/testing/failure.hpp"

namespace kvbm::memory {
namespace {

using testing::failure_of_call;

TEST(StorageKind, A1_PredicatesAndNames) {
  EXPECT_TRUE(is_host(StorageKind::System));
  EXPECT_TRUE(is_host(StorageKind::Pinned));
  EXPECT_FALSE(is_host(StorageKind::Device));
  EXPECT_TRUE(is_memory(StorageKind::Device));
  EXPECT_FALSE(is_memory(StorageKind::Disk));
  EXPECT_FALSE(is_memory(StorageKind::Object));
  EXPECT_EQ(to_string(StorageKind::Pinned), "Pinned");
  EXPECT_EQ(to_string(StorageKind::Object), "Object");
}

TEST(Region, A1_WrapsMemoryAndKeepsItAlive) {
  auto owner = std::make_shared<std::array<std::byte, 64>>();
  std::weak_ptr<void> const watch = owner;
  auto region = std::make_optional(
      Region::of_memory(StorageKind::System, owner->data(), owner->size(), -1, true, owner));
  EXPECT_EQ(region->host_data(), owner->data());
  EXPECT_EQ(region->bytes(), 64U);
  EXPECT_EQ(region->store(), nullptr);
  owner.reset();
  auto const copy = *region;
  region.reset();
  EXPECT_FALSE(watch.expired());
  EXPECT_EQ(copy.kind(), StorageKind::System);
}

TEST(Region, A1_MemoryTheCpuCannotReachHasNoHostPointer) {
  std::byte byte{};
  auto const region = Region::of_memory(StorageKind::Device, &byte, 1, 3, false);
  EXPECT_EQ(region.host_data(), nullptr);
  EXPECT_EQ(region.address(), reinterpret_cast<std::uintptr_t>(&byte));
  EXPECT_EQ(region.device_id(), 3);
}

TEST(Region, A1_RefusesWhatCannotBe) {
  std::byte byte{};
  auto const code = [](StorageKind kind, void* address, std::uint64_t bytes) {
    return failure_of_call([&] { return Region::of_memory(kind, address, bytes, -1, true); }).code;
  };
  EXPECT_EQ(code(StorageKind::System, &byte, 0), ErrorCode::InvalidArgument);
  EXPECT_EQ(code(StorageKind::System, nullptr, 1), ErrorCode::InvalidArgument);
  EXPECT_EQ(code(StorageKind::Disk, &byte, 1), ErrorCode::InvalidArgument);
  EXPECT_EQ(code(StorageKind::System, &byte, std::numeric_limits<std::uint64_t>::max()),
            ErrorCode::Overflow);
  EXPECT_EQ(failure_of_call([] { return Region::of_store(nullptr, 0, 0, 1); }).code,
            ErrorCode::InvalidArgument);
}

TEST(Region, SubregionSharesOwnershipAndIsBounded) {
  auto owner = std::make_shared<std::array<std::byte, 64>>();
  auto const region =
      Region::of_memory(StorageKind::Pinned, owner->data(), owner->size(), 2, true, owner);
  auto const part = region.subregion(16, 48);
  EXPECT_EQ(part.host_data(), owner->data() + 16);
  EXPECT_EQ(part.bytes(), 48U);
  EXPECT_EQ(part.device_id(), 2);
  EXPECT_EQ(failure_of_call([&] { return region.subregion(16, 49); }).code, ErrorCode::OutOfRange);
  EXPECT_EQ(failure_of_call([&] { return region.subregion(65, 1); }).code, ErrorCode::OutOfRange);
  EXPECT_EQ(failure_of_call([&] { return region.subregion(1, ~std::uint64_t{0}); }).code,
            ErrorCode::OutOfRange);
  EXPECT_EQ(failure_of_call([&] { return region.subregion(0, 0); }).code,
            ErrorCode::InvalidArgument);
}

}  // namespace
}  // namespace kvbm::memory
