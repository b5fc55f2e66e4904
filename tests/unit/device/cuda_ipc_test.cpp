// SPDX-License-Identifier: Apache-2.0
#include <gmock/gmock.h>

#include "kvbm/memory/shared_memory.hpp"
#include "unit/device/cuda_fixture.hpp"
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

MemoryAccess copying_access() {
  return {[](Region const& region) {
            std::vector<std::byte> bytes(region.bytes());
            EXPECT_EQ(cudaMemcpy(bytes.data(), reinterpret_cast<void const*>(region.address()),
                                 bytes.size(), cudaMemcpyDefault),
                      cudaSuccess);
            return bytes;
          },
          [](Region const& region, std::vector<std::byte> const& bytes) {
            EXPECT_EQ(cudaMemcpy(reinterpret_cast<void*>(region.address()), bytes.data(),
                                 bytes.size(), cudaMemcpyDefault),
                      cudaSuccess);
            EXPECT_EQ(cudaDeviceSynchronize(), cudaSuccess);
          }};
}

// Run in a second process only.
TEST(DISABLED_CudaIpcPeer, Serves) {
  serve(*make_memory_source({make_cuda_device(0)}, {}, true), copying_access());
}

class CudaIpc : public CudaTest {
 protected:
  void SetUp() override {
    CudaTest::SetUp();
    if (IsSkipped() || HasFatalFailure()) { return; }
    source_ = make_memory_source({device_}, {}, true);
  }
  [[nodiscard]] Region open(SharedMemory const& memory) const {
    return source_->open_shared(memory.owner, memory.name, memory.bytes, StorageKind::Device);
  }
  static std::string peer_test() { return "DISABLED_CudaIpcPeer.Serves"; }

  std::shared_ptr<memory::MemorySource> source_;
  MemoryAccess access_ = copying_access();
};

TEST_F(CudaIpc, MemoryOfEverySizeIsReadAndWrittenByBothProcesses) {
  DevicePeer const peer(peer_test());
  for (std::uint64_t const bytes : {std::uint64_t{512}, std::uint64_t{5000}, 64_KiB, 1_MiB + 512,
                                    2_MiB, 3_MiB + 4096, 64_MiB}) {
    SCOPED_TRACE(bytes);
    auto const theirs = peer.allocate(StorageKind::Device, bytes);
    EXPECT_EQ(theirs.name.kind, SharedMemoryName::Kind::CudaIpc);
    peer.expect(PeerCommand::Fill, 1);
    {
      auto const region = open(theirs);
      EXPECT_EQ(region.kind(), StorageKind::Device);
      EXPECT_EQ(region.device_id(), 0);
      EXPECT_EQ(region.host_data(), nullptr);
      EXPECT_EQ(access_.read(region), make_pattern(bytes, 1));
      access_.write(region, make_pattern(bytes, 2));
    }
    peer.expect(PeerCommand::Check, 2);

    auto const own = source_->allocate({StorageKind::Device, bytes, 512, 0});
    auto const name = source_->share(own);
    ASSERT_TRUE(name);
    peer.map(StorageKind::Device, {ProcessName::current(), *name, bytes});
    peer.expect(PeerCommand::Fill, 3);
    EXPECT_EQ(access_.read(own), make_pattern(bytes, 3));
    peer.expect(PeerCommand::Unmap);
    peer.expect(PeerCommand::Free);
  }
}

TEST_F(CudaIpc, APartOfATensorOfSomebodyElseIsFoundByItsAddress) {
  DevicePeer const peer(peer_test());
  void* tensor = nullptr;
  ASSERT_EQ(cudaMalloc(&tensor, 8_MiB), cudaSuccess);
  auto const part = Region::of_memory(StorageKind::Device, static_cast<std::byte*>(tensor) + 12345,
                                      1_MiB, 0, false);
  auto const name = source_->share(part);
  ASSERT_TRUE(name);
  EXPECT_EQ(name->offset, 12345U);
  EXPECT_GE(name->file_bytes, 8_MiB);
  peer.map(StorageKind::Device, {ProcessName::current(), *name, 1_MiB});
  peer.expect(PeerCommand::Fill, 4);
  EXPECT_EQ(access_.read(part), make_pattern(1_MiB, 4));
  peer.expect(PeerCommand::Unmap);
  EXPECT_EQ(cudaFree(tensor), cudaSuccess);
}

TEST_F(CudaIpc, OneAllocationCanBeOpenedOftenAndIsClosedWithTheLastRegion) {
  DevicePeer const peer(peer_test());
  auto const theirs = peer.allocate(StorageKind::Device, 4_MiB);
  peer.expect(PeerCommand::Fill, 1);
  auto first = std::make_optional(open(theirs));
  auto upper = theirs;
  upper.name.offset = 2_MiB;
  upper.bytes = 2_MiB;
  auto const second = open(upper);
  EXPECT_EQ(second.address(), first->address() + 2_MiB);
  first.reset();
  auto const whole = make_pattern(4_MiB, 1);
  EXPECT_EQ(access_.read(second), std::vector<std::byte>(whole.begin() + 2_MiB, whole.end()));
}

TEST_F(CudaIpc, OpeningAndClosingLeavesNothingBehind) {
  DevicePeer const peer(peer_test());
  auto const theirs = peer.allocate(StorageKind::Device, 4_MiB);
  static_cast<void>(open(theirs));
  std::size_t before = 0;
  std::size_t after = 0;
  std::size_t total = 0;
  ASSERT_EQ(cudaMemGetInfo(&before, &total), cudaSuccess);
  for (int i = 0; i < 100; ++i) {
    auto const region = open(theirs);
    EXPECT_NE(region.address(), 0U);
  }
  ASSERT_EQ(cudaMemGetInfo(&after, &total), cudaSuccess);
  EXPECT_GE(after + 8_MiB, before);
  EXPECT_EQ(device_->used_bytes(), 0U);
}

TEST_F(CudaIpc, NamesThatLieAreTypedErrors) {
  DevicePeer const peer(peer_test());
  auto const theirs = peer.allocate(StorageKind::Device, 4_MiB);
  auto const code = [&](auto change) {
    auto memory = theirs;
    change(memory);
    return code_of([&] { static_cast<void>(open(memory)); });
  };
  EXPECT_EQ(code([](auto& memory) { memory.name.offset = 1; }), ErrorCode::OutOfRange);
  EXPECT_EQ(code([](auto& memory) { memory.bytes = 1_GiB; }), ErrorCode::OutOfRange);
  EXPECT_EQ(code([](auto& memory) {
              memory.bytes = 1_GiB;
              memory.name.file_bytes = 1_GiB;
            }),
            ErrorCode::OutOfRange);
  EXPECT_EQ(code([](auto& memory) { memory.bytes = 0; }), ErrorCode::InvalidArgument);
  EXPECT_EQ(code([](auto& memory) { memory.name.device_uuid.fill(std::byte{1}); }),
            ErrorCode::NotFound);
  EXPECT_EQ(code([](auto& memory) { ++memory.owner.start_time; }), ErrorCode::NotFound);
  EXPECT_EQ(code([](auto& memory) { ++memory.owner.boot_id[0]; }), ErrorCode::Unsupported);
  EXPECT_EQ(code([](auto& memory) { memory.owner = ProcessName::current(); }),
            ErrorCode::InvalidArgument);
  // Whatever the driver calls it.
  static_cast<void>(code([](auto& memory) { memory.name.ipc_handle.fill(std::byte{0x5a}); }));
  EXPECT_EQ(access_.read(open(theirs)), std::vector<std::byte>(4_MiB));
}

TEST_F(CudaIpc, MemoryOfADeadProcessIsNotFound) {
  DevicePeer peer(peer_test());
  auto const theirs = peer.allocate(StorageKind::Device, 4_MiB);
  auto const region = std::make_optional(open(theirs));
  peer.process.stop();
  EXPECT_EQ(code_of([&] { static_cast<void>(open(theirs)); }), ErrorCode::NotFound);
}

TEST_F(CudaIpc, MemoryOfPoolsAndManagedMemoryIsNotShared) {
  auto const pool = device_->create_memory_pool(4_MiB, 4_MiB);
  auto const stream = device_->create_stream("ipc");
  EXPECT_FALSE(source_->share(pool->allocate(1_MiB, stream)));
  void* managed = nullptr;
  ASSERT_EQ(cudaMallocManaged(&managed, 4096), cudaSuccess);
  EXPECT_FALSE(source_->share(Region::of_memory(StorageKind::Device, managed, 4096, 0, false)));
  EXPECT_EQ(cudaFree(managed), cudaSuccess);
  int local = 0;
  EXPECT_FALSE(source_->share(Region::of_memory(StorageKind::Device, &local, 4, 0, false)));
}

TEST_F(CudaIpc, PinnedMemoryIsPinnedInBothProcesses) {
  DevicePeer const peer(peer_test());
  auto const theirs = peer.allocate(StorageKind::Pinned, 4_MiB);
  EXPECT_EQ(theirs.name.kind, SharedMemoryName::Kind::File);
  peer.expect(PeerCommand::Fill, 1);
  auto const region =
      source_->open_shared(theirs.owner, theirs.name, theirs.bytes, StorageKind::Pinned);
  cudaPointerAttributes attributes{};
  ASSERT_EQ(cudaPointerGetAttributes(&attributes, region.host_data()), cudaSuccess);
  EXPECT_EQ(attributes.type, cudaMemoryTypeHost);
  auto const on_gpu = source_->allocate({StorageKind::Device, 4_MiB, 512, 0});
  ASSERT_EQ(cudaMemcpy(reinterpret_cast<void*>(on_gpu.address()), region.host_data(), 4_MiB,
                       cudaMemcpyDefault),
            cudaSuccess);
  EXPECT_EQ(access_.read(on_gpu), make_pattern(4_MiB, 1));
}

}  // namespace
}  // namespace kvbm::device
