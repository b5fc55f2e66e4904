// SPDX-License-Identifier: Apache-2.0
#include "kvbm/layout/physical_layout.hpp"
#include "layout_test_support.hpp"

#include <gtest/gtest.h>

#include <sstream>
#include <type_traits>

namespace kvbm::layout {
namespace {

using memory::PointerInfo;
using memory::StorageKind;
using testing::Buffer;
using testing::expect_error;
using testing::FakeSource;
using testing::small_config;

constexpr std::uint64_t kLayerBytes = 5 * 2 * 4 * 42 * 2;

class ExternalMemory : public ::testing::Test {
 protected:
  std::shared_ptr<FakeSource> source_ = std::make_shared<FakeSource>();
  Buffer buffer_{4 * 4096};

  [[nodiscard]] std::byte* layer(std::size_t index) const { return buffer_.data() + index * 4096; }

  [[nodiscard]] std::vector<ExternalRegion> host_layers(StorageKind kind) const {
    std::vector<ExternalRegion> regions;
    for (std::size_t i = 0; i < 3; ++i) {
      regions.push_back({layer(i), kLayerBytes, kind, {}});
    }
    return regions;
  }

  [[nodiscard]] std::vector<ExternalDeviceRegion> device_layers(DeviceId id) const {
    std::vector<ExternalDeviceRegion> regions;
    for (std::size_t i = 0; i < 3; ++i) {
      regions.push_back({layer(i), kLayerBytes, id, {}});
    }
    return regions;
  }

  void know_layers_as(StorageKind kind, DeviceId id, std::uint64_t bytes_left = 0) {
    for (std::size_t i = 0; i < 3; ++i) {
      source_->known[layer(i)] = PointerInfo{kind, id, bytes_left};
    }
  }

  template <typename Regions>
  PhysicalLayout build(Regions regions, LayoutConfig const& config = small_config().build()) const {
    auto const step =
        PhysicalLayout::builder(source_).config(config).layer_separate(BlockDimension::Second);
    if constexpr (std::is_same_v<Regions, std::vector<ExternalRegion>>) {
      return step.with_external_regions(std::move(regions)).build();
    } else {
      return step.with_external_device_regions(std::move(regions)).build();
    }
  }

  static std::string address_of(void const* pointer) {
    std::ostringstream text;
    text << pointer;
    return text.str();
  }
};

TEST_F(ExternalMemory, L5_OneDeviceTensorALayer) {
  know_layers_as(StorageKind::Device, 1);
  auto const layout = build(device_layers(1));
  EXPECT_EQ(layout.storage_kind(), StorageKind::Device);
  EXPECT_EQ(layout.device_id(), 1);
  EXPECT_EQ(layout.regions()[2].address(), reinterpret_cast<std::uintptr_t>(layer(2)));
  EXPECT_EQ(layout.regions()[0].host_data(), nullptr);  // device 1 is out of the CPU's reach
}

TEST_F(ExternalMemory, L5_WrongNumberOfTensorsIsAnError) {
  know_layers_as(StorageKind::Device, 0);
  auto two = device_layers(0);
  two.pop_back();
  expect_error(ErrorCode::InvalidArgument, {"3 regions", "got 2"}, [&] { return build(two); });
}

TEST_F(ExternalMemory, L5_TensorThatIsNotOfTheDeviceIsAnError) {
  expect_error(ErrorCode::InvalidArgument,
               {"region 0", address_of(layer(0)), "given as Device 0", "unknown"},
               [&] { return build(device_layers(0)); });
  know_layers_as(StorageKind::Device, 1);
  expect_error(ErrorCode::InvalidArgument,
               {address_of(layer(0)), "given as Device 0", "it is Device 1"},
               [&] { return build(device_layers(0)); });
  know_layers_as(StorageKind::Pinned, -1);
  expect_error(ErrorCode::InvalidArgument,
               {address_of(layer(0)), "given as Device 0", "it is Pinned"},
               [&] { return build(device_layers(0)); });
}

TEST_F(ExternalMemory, L5_UnknownDeviceIsNotFound) {
  expect_error(ErrorCode::NotFound, {"2"}, [&] { return build(device_layers(2)); });
}

TEST_F(ExternalMemory, TensorsOfTwoDevicesAreRefused) {
  know_layers_as(StorageKind::Device, 0);
  source_->known[layer(1)].device_id = 1;
  auto regions = device_layers(0);
  regions[1].device_id = 1;
  expect_error(ErrorCode::InvalidArgument, {"region 1 is on device 1", "device 0"},
               [&] { return build(regions); });
}

TEST_F(ExternalMemory, PointerOfADeviceGivenAsHostMemoryIsRefused) {
  know_layers_as(StorageKind::Device, 1);
  for (auto const kind : {StorageKind::System, StorageKind::Pinned}) {
    expect_error(
        ErrorCode::InvalidArgument,
        {address_of(layer(0)), "given as " + std::string(memory::to_string(kind)), "Device 1"},
        [&] { return build(host_layers(kind)); });
  }
}

TEST_F(ExternalMemory, PageableMemoryGivenAsPinnedIsRefusedAndTheOtherWayAccepted) {
  know_layers_as(StorageKind::System, -1);
  expect_error(ErrorCode::InvalidArgument, {"given as Pinned", "it is System"},
               [&] { return build(host_layers(StorageKind::Pinned)); });
  know_layers_as(StorageKind::Pinned, 1);
  EXPECT_EQ(build(host_layers(StorageKind::System)).storage_kind(), StorageKind::System);
  EXPECT_EQ(build(host_layers(StorageKind::Pinned)).device_id(), 1);
}

TEST_F(ExternalMemory, OtherKindsAreNotHostMemory) {
  expect_error(ErrorCode::InvalidArgument, {"region 0", "Device"},
               [&] { return build(host_layers(StorageKind::Device)); });
  expect_error(ErrorCode::InvalidArgument, {"Disk"},
               [&] { return build(host_layers(StorageKind::Disk)); });
  auto mixed = host_layers(StorageKind::System);
  mixed[2].kind = StorageKind::Pinned;
  expect_error(ErrorCode::InvalidArgument, {"region 2 is Pinned", "region 0 is System"},
               [&] { return build(mixed); });
}

TEST_F(ExternalMemory, NullSmallAndWrappingRegionsAreRefused) {
  auto regions = host_layers(StorageKind::System);
  regions[1].address = nullptr;
  expect_error(ErrorCode::InvalidArgument, {"region 1", "null"}, [&] { return build(regions); });

  regions = host_layers(StorageKind::System);
  regions[2].bytes = kLayerBytes - 1;
  expect_error(ErrorCode::InvalidArgument,
               {"region 2", address_of(layer(2)), std::to_string(kLayerBytes - 1),
                std::to_string(kLayerBytes)},
               [&] { return build(regions); });

  regions = host_layers(StorageKind::System);
  regions[0].bytes = ~std::uint64_t{0} - 4096;
  expect_error(ErrorCode::Overflow, {"region 0", "wraps"}, [&] { return build(regions); });
}

TEST_F(ExternalMemory, RegionBeyondItsAllocationIsRefused) {
  know_layers_as(StorageKind::Device, 0, kLayerBytes - 2);
  expect_error(ErrorCode::InvalidArgument,
               {"region 0", std::to_string(kLayerBytes), std::to_string(kLayerBytes - 2)},
               [&] { return build(device_layers(0)); });
  know_layers_as(StorageKind::Device, 0, kLayerBytes);
  EXPECT_NO_THROW(build(device_layers(0)));
}

TEST_F(ExternalMemory, MisalignedRegionsAreRefused) {
  auto regions = host_layers(StorageKind::System);
  regions[1].address = layer(1) + 1;
  expect_error(ErrorCode::InvalidArgument,
               {"region 1", address_of(layer(1) + 1), "aligned to 2 bytes"},
               [&] { return build(regions); });
  regions[1].address = layer(1) + 2;
  EXPECT_NO_THROW(build(regions));
  auto wide = host_layers(StorageKind::System);
  wide[0].address = layer(0) + 32;
  wide[0].bytes = 4000;
  auto const config = small_config().num_blocks(1).alignment(64).build();
  expect_error(ErrorCode::InvalidArgument, {"region 0", "aligned to 64 bytes"},
               [&] { return build(wide, config); });
}

TEST_F(ExternalMemory, OverlappingRegionsAreRefused) {
  auto regions = host_layers(StorageKind::System);
  regions[2].address = layer(0) + kLayerBytes - 2;
  expect_error(ErrorCode::InvalidArgument, {"regions 0", "and 2", "overlap"},
               [&] { return build(regions); });
  regions[1].address = layer(2);
  regions[2].address = layer(0) + kLayerBytes;
  EXPECT_NO_THROW(build(std::vector(regions)));
  regions[2].address = layer(2);
  expect_error(ErrorCode::InvalidArgument, {"overlap"}, [&] { return build(regions); });
}

TEST_F(ExternalMemory, KeepsItsOwnerAlive) {
  auto owner = std::make_shared<int>(1);
  std::weak_ptr<int> const watch = owner;
  auto regions = host_layers(StorageKind::System);
  regions[0].keep_alive = std::move(owner);
  {
    auto const layout = build(std::move(regions));
    EXPECT_FALSE(watch.expired());
  }
  EXPECT_TRUE(watch.expired());
}

}  // namespace
}  // namespace kvbm::layout
