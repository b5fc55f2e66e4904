// SPDX-License-Identifier: Apache-2.0
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>

#include "contract/device_support.hpp"
#include "kvbm/device/device.hpp"
#include "kvbm/memory/disk_io.hpp"

namespace kvbm::device {
namespace {

using contract::code_of;
using memory::StorageKind;
using namespace kvbm::literals;

class DeviceMemorySource : public ::testing::Test {
 protected:
  DevicePtr first_ = make_host_device(0, {1_MiB});
  DevicePtr second_ = make_host_device(5, {1_MiB});
  std::shared_ptr<memory::MemorySource> source_ = make_memory_source({second_, first_});
};

TEST_F(DeviceMemorySource, AllocatesOnTheDeviceAskedFor) {
  auto const region = source_->allocate({StorageKind::Device, 64_KiB, 512, 5});
  EXPECT_EQ(region.kind(), StorageKind::Device);
  EXPECT_EQ(region.device_id(), 5);
  EXPECT_EQ(second_->used_bytes(), 64_KiB);
  EXPECT_EQ(first_->used_bytes(), 0U);
}

TEST_F(DeviceMemorySource, ClassifiesEveryKindOfItsMemory) {
  auto const on_device = source_->allocate({StorageKind::Device, 10000, 512, 0});
  auto const system = source_->allocate({StorageKind::System, 10000, 512, -1});
  auto const pinned = source_->allocate({StorageKind::Pinned, 10000, 512, 5});
  auto info = source_->classify(on_device.host_data() + 1);
  ASSERT_TRUE(info.has_value());
  EXPECT_EQ(info->kind, StorageKind::Device);
  EXPECT_EQ(info->device_id, 0);
  EXPECT_EQ(info->bytes_left, 9999U);
  info = source_->classify(system.host_data());
  ASSERT_TRUE(info.has_value());
  EXPECT_EQ(info->kind, StorageKind::System);
  info = source_->classify(pinned.host_data());
  ASSERT_TRUE(info.has_value());
  EXPECT_EQ(info->kind, StorageKind::Pinned);
  EXPECT_EQ(info->device_id, 5);
  int local = 0;
  EXPECT_FALSE(source_->classify(&local).has_value());
}

TEST_F(DeviceMemorySource, CountsPinnedMemory) {
  EXPECT_EQ(source_->pinned_stats().regions, 0U);
  auto const pinned = source_->allocate({StorageKind::Pinned, 4096, 512, -1});
  EXPECT_EQ(source_->pinned_stats().regions, 1U);
}

TEST_F(DeviceMemorySource, UnknownDeviceIsNamedWithTheKnownOnes) {
  for (StorageKind const kind : {StorageKind::Device, StorageKind::Pinned}) {
    try {
      static_cast<void>(source_->allocate({kind, 512, 512, 7}));
      FAIL() << "memory of a device that does not exist";
    } catch (Error const& error) {
      EXPECT_EQ(error.code(), ErrorCode::NotFound);
      EXPECT_THAT(error.what(), ::testing::HasSubstr("device 7 is unknown; there are [0, 5]"));
    }
  }
  EXPECT_EQ(code_of([&] { static_cast<void>(source_->is_host_accessible(1)); }),
            ErrorCode::NotFound);
  EXPECT_EQ(code_of([&] { static_cast<void>(source_->is_host_accessible(-1)); }),
            ErrorCode::NotFound);
  EXPECT_TRUE(source_->is_host_accessible(5));
}

TEST_F(DeviceMemorySource, RefusesBadRequests) {
  auto const refused = [&](memory::AllocationRequest const& request) {
    return code_of([&] { static_cast<void>(source_->allocate(request)); });
  };
  EXPECT_EQ(refused({StorageKind::Device, 0, 512, 0}), ErrorCode::InvalidArgument);
  EXPECT_EQ(refused({StorageKind::Device, 512, 3, 0}), ErrorCode::InvalidArgument);
  EXPECT_EQ(refused({StorageKind::Device, 2_MiB, 512, 0}), ErrorCode::OutOfMemory);
  EXPECT_EQ(refused({StorageKind::Disk, 512, 512, 0}), ErrorCode::InvalidArgument);
}

TEST_F(DeviceMemorySource, HasOneDiskEngine) {
  ASSERT_NE(source_->disk_io(), nullptr);
  EXPECT_EQ(source_->disk_io(), source_->disk_io());
}

TEST_F(DeviceMemorySource, RefusesTwoDevicesWithOneIdAndNullDevices) {
  EXPECT_EQ(code_of([&] { make_memory_source({first_, make_host_device(0)}); }),
            ErrorCode::InvalidArgument);
  EXPECT_EQ(code_of([&] { make_memory_source({first_, nullptr}); }), ErrorCode::InvalidArgument);
}

TEST_F(DeviceMemorySource, WorksWithoutDevices) {
  auto const source = make_memory_source({});
  EXPECT_EQ(source->allocate({StorageKind::System, 512, 512, -1}).kind(), StorageKind::System);
  EXPECT_EQ(
      code_of([&] { static_cast<void>(source->allocate({StorageKind::Device, 512, 512, 0})); }),
      ErrorCode::NotFound);
}

}  // namespace
}  // namespace kvbm::device
