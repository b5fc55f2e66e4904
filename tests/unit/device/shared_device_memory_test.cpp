// SPDX-License-Identifier: Apache-2.0
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "contract/device_support.hpp"
#include "kvbm/device/device.hpp"
#include "unit/device/shared_memory_peer.hpp"

namespace kvbm::device {
namespace {

using contract::code_of;
using memory::ProcessName;
using memory::Region;
using memory::SharedMemoryName;
using memory::StorageKind;
using namespace kvbm::literals;
using namespace kvbm::device::testing;

MemoryAccess direct_access() {
  return {[](Region const& region) {
            return std::vector<std::byte>(region.host_data(), region.host_data() + region.bytes());
          },
          [](Region const& region, std::vector<std::byte> const& bytes) {
            std::copy(bytes.begin(), bytes.end(), region.host_data());
          }};
}

std::shared_ptr<memory::MemorySource> make_shareable_source() {
  return make_memory_source(
      {make_host_device(0, {64_MiB, true}), make_host_device(1, {64_MiB, true})}, {}, true);
}

// Run in a second process only.
TEST(DISABLED_SharedDeviceMemoryPeer, Serves) { serve(*make_shareable_source(), direct_access()); }

class SharedDeviceMemory : public ::testing::TestWithParam<StorageKind> {
 protected:
  std::shared_ptr<memory::MemorySource> source_ = make_shareable_source();
  MemoryAccess access_ = direct_access();
};

INSTANTIATE_TEST_SUITE_P(Kinds, SharedDeviceMemory,
                         ::testing::Values(StorageKind::System, StorageKind::Pinned,
                                           StorageKind::Device),
                         [](auto const& chosen) { return std::string(to_string(chosen.param)); });

TEST_P(SharedDeviceMemory, IsReadAndWrittenByBothProcesses) {
  DevicePeer const peer("DISABLED_SharedDeviceMemoryPeer.Serves");
  auto const theirs = peer.allocate(GetParam(), 3_MiB);
  peer.expect(PeerCommand::Fill, 1);
  auto const region = source_->open_shared(theirs.owner, theirs.name, 3_MiB, GetParam());
  EXPECT_EQ(region.kind(), GetParam());
  EXPECT_EQ(region.device_id(), GetParam() == StorageKind::Device ? 0 : -1);
  EXPECT_EQ(access_.read(region), make_pattern(3_MiB, 1));
  access_.write(region, make_pattern(3_MiB, 2));
  peer.expect(PeerCommand::Check, 2);

  auto const own = source_->allocate({GetParam(), 5000, 512, 1});
  auto const name = source_->share(own);
  ASSERT_TRUE(name);
  peer.map(GetParam(), {ProcessName::current(), *name, 5000});
  peer.expect(PeerCommand::Fill, 3);
  EXPECT_EQ(access_.read(own), make_pattern(5000, 3));
}

TEST_P(SharedDeviceMemory, IsKnownToTheSourceWhileItIsMappedAndChargedToNobody) {
  auto const own = source_->allocate({GetParam(), 8192, 512, 1});
  auto const pinned = source_->pinned_stats().bytes;
  std::byte const* address = nullptr;
  {
    auto const region =
        source_->open_shared(ProcessName::current(), source_->share(own).value(), 8192, GetParam());
    address = region.host_data();
    auto const info = source_->classify(address + 1);
    ASSERT_TRUE(info);
    EXPECT_EQ(info->kind, GetParam());
    EXPECT_EQ(info->bytes_left, 8191U);
    EXPECT_EQ(source_->pinned_stats().bytes, pinned);
  }
  EXPECT_FALSE(source_->classify(address));
}

TEST(SharedHostDevice, MemoryMappedFromOthersDoesNotCountAsUsed) {
  auto const a = make_host_device(0, {1_MiB, true});
  auto const b = make_host_device(1, {4096});
  auto const own = a->allocate(1_MiB, 512);
  auto const mapped = b->open_shared(ProcessName::current(), a->share(own).value(), 1_MiB);
  EXPECT_EQ(mapped.device_id(), 1);
  EXPECT_EQ(mapped.kind(), StorageKind::Device);
  EXPECT_EQ(b->used_bytes(), 0U);
  EXPECT_FALSE(b->share(mapped));
}

TEST(SharedHostDevice, ExternalMemoryOfTheDeviceIsFoundByItsAddress) {
  auto const device = make_host_device(0, {1_MiB, true});
  auto const own = device->allocate(100'000, 512);
  auto const tensor = Region::of_memory(StorageKind::Device, own.host_data() + 4096, 1000, 0, true);
  auto const name = make_memory_source({device})->share(tensor);
  ASSERT_TRUE(name);
  EXPECT_EQ(name->offset, 4096U);
}

TEST(SharedHostDevice, MemoryIsPrivateUnlessAskedForAndPoolsKeepTheirs) {
  auto const device = make_host_device(0, {64_MiB});
  EXPECT_FALSE(device->share(device->allocate(8192, 512)));
  auto const source = make_memory_source({device});
  EXPECT_FALSE(source->share(source->allocate({StorageKind::Pinned, 8192, 512, 0})));
  EXPECT_FALSE(source->share(source->allocate({StorageKind::Device, 8192, 512, 0})));
  auto const shareable = make_host_device(0, {64_MiB, true});
  auto const one_byte = shareable->allocate(1, 512);
  EXPECT_TRUE(one_byte.shared_name());
  auto const pool = shareable->create_memory_pool(4_MiB, 4_MiB);
  auto const stream = shareable->create_stream("pool");
  EXPECT_FALSE(shareable->share(pool->allocate(1_MiB, stream)));
}

TEST(SharedHostDevice, MemoryOfAGpuThatIsNotHereNamesItsUuid) {
  SharedMemoryName name;
  name.kind = SharedMemoryName::Kind::CudaIpc;
  name.device_uuid.fill(std::byte{0xab});
  auto const source = make_shareable_source();
  try {
    static_cast<void>(source->open_shared(ProcessName::current(), name, 512, StorageKind::Device));
    FAIL() << "memory of a GPU that does not exist";
  } catch (Error const& error) {
    EXPECT_EQ(error.code(), ErrorCode::NotFound);
    EXPECT_THAT(error.what(), ::testing::HasSubstr("GPU-abababab-abab-abab-abab-abababababab"));
  }
  EXPECT_EQ(code_of([&] {
              static_cast<void>(
                  source->open_shared(ProcessName::current(), name, 512, StorageKind::System));
            }),
            ErrorCode::Unsupported);
  name.kind = SharedMemoryName::Kind::File;
  EXPECT_EQ(code_of([&] {
              static_cast<void>(make_memory_source({})->open_shared(ProcessName::current(), name,
                                                                    512, StorageKind::Device));
            }),
            ErrorCode::NotFound);
}

}  // namespace
}  // namespace kvbm::device
