// SPDX-License-Identifier: Apache-2.0
#include "kvbm/layout/descriptor.hpp"

#include "layout_test_support.hpp"

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include <fstream>
#include <functional>
#include <iterator>

namespace kvbm::layout {
namespace {

using memory::StorageKind;
using nlohmann::json;
using testing::expect_error;
using testing::FakeSource;
using testing::small_config;

class DescriptorTest : public ::testing::Test {
 protected:
  std::shared_ptr<FakeSource> source_ = std::make_shared<FakeSource>();

  [[nodiscard]] std::vector<PhysicalLayout> layouts() const {
    auto const step = PhysicalLayout::builder(source_).config(small_config().build());
    return {step.fully_contiguous(KvBlockLayout::UniversalTP).allocate_pinned(1).build(),
            step.layer_separate(BlockDimension::First).allocate_system().build(),
            step.layer_separate(BlockDimension::Second, KvBlockLayout::OperationalHND)
                .allocate_device(1)
                .build()};
  }
};

/// Three layers of a device at fixed addresses.
LayoutDescriptor fixed_descriptor() {
  LayoutDescriptor descriptor{.config = small_config().build(),
                              .kind = LayoutKind::LayerSeparate,
                              .dimension = BlockDimension::Second,
                              .format = KvBlockLayout::OperationalNHD,
                              .tensor = std::nullopt,
                              .regions = {}};
  for (std::uint64_t i = 0; i < 3; ++i) {
    descriptor.regions.push_back({StorageKind::Device, 1, 0x7f0000000000 + i * 4096, 5 * 2 * 336});
  }
  return descriptor;
}

std::string read_file(std::filesystem::path const& path) {
  std::ifstream file(path, std::ios::binary);
  EXPECT_TRUE(file) << path;
  return {std::istreambuf_iterator<char>(file), {}};
}

TEST_F(DescriptorTest, L6_RoundTripKeepsEveryAddress) {
  for (auto const& layout : layouts()) {
    auto const before = layout.descriptor();
    auto const after = LayoutDescriptor::from_json(before.to_json());
    EXPECT_EQ(after, before);
    EXPECT_EQ(after.to_json(), before.to_json());
    EXPECT_EQ(after.fingerprint(), layout.fingerprint());
    EXPECT_EQ(after.shape_fingerprint(), layout.shape_fingerprint());
    EXPECT_EQ(after.geometry(), layout.geometry());
    for (std::uint64_t b = 0; b < 5; ++b) {
      for (std::uint64_t l = 0; l < 3; ++l) {
        for (std::uint64_t o = 0; o < 2; ++o) {
          auto const chunk = layout.chunk(b, l, o);
          EXPECT_EQ(after.address(b, l, o),
                    layout.regions()[chunk.region].address() + chunk.offset);
        }
      }
    }
  }
}

TEST_F(DescriptorTest, L6_Version999IsRefusedAsUnsupported) {
  auto value = json::parse(fixed_descriptor().to_json());
  value["version"] = 999;
  value["a field of the future"] = 1;
  expect_error(ErrorCode::VersionMismatch, {"Unsupported version 999"},
               [&] { static_cast<void>(LayoutDescriptor::from_json(value.dump())); });
}

TEST_F(DescriptorTest, L6_GoldenTextIsReadAndWritten) {
  auto const* root = std::getenv("KVBM_TEST_SOURCE_DIR");
  ASSERT_NE(root, nullptr);
  auto const text =
      read_file(std::filesystem::path(root) / "tests/golden/layout_descriptor_v1.json");
  auto const stored = json::parse(text);
  EXPECT_EQ(LayoutDescriptor::from_json(text), fixed_descriptor());
  EXPECT_EQ(json::parse(fixed_descriptor().to_json()), stored);
}

TEST_F(DescriptorTest, AddressChecksItsIndices) {
  auto const descriptor = fixed_descriptor();
  EXPECT_EQ(descriptor.address(4, 2, 1), 0x7f0000000000 + 2 * 4096 + (5 + 4) * 336);
  expect_error(ErrorCode::OutOfRange, {"block 5 of 5"},
               [&] { return descriptor.address(5, 0, 0); });
  expect_error(ErrorCode::OutOfRange, {"layer 3 of 3"},
               [&] { return descriptor.address(0, 3, 0); });
}

struct Hostile {
  char const* name;
  std::function<void(json&)> change;
  std::vector<std::string> parts;
};

class HostileDescriptor : public ::testing::TestWithParam<Hostile> {};

TEST_P(HostileDescriptor, L6_IsRefused) {
  auto value = json::parse(fixed_descriptor().to_json());
  GetParam().change(value);
  expect_error(ErrorCode::Corrupt, GetParam().parts,
               [&] { static_cast<void>(LayoutDescriptor::from_json(value.dump())); });
}

INSTANTIATE_TEST_SUITE_P(
    All, HostileDescriptor,
    ::testing::Values(
        Hostile{"NoConfig", [](json& v) { v.erase("config"); }, {"config", "missing"}},
        Hostile{"ConfigIsText", [](json& v) { v["config"] = "x"; }, {"config", "not an object"}},
        Hostile{"UnknownField", [](json& v) { v["extra"] = 1; }, {"extra", "unknown"}},
        Hostile{
            "UnknownConfigField", [](json& v) { v["config"]["extra"] = 1; }, {"extra", "unknown"}},
        Hostile{"VersionIsText", [](json& v) { v["version"] = "1"; }, {"version"}},
        Hostile{"NegativeBlocks",
                [](json& v) { v["config"]["num_blocks"] = -5; },
                {"num_blocks", "-5"}},
        Hostile{"FractionalBlocks",
                [](json& v) { v["config"]["num_blocks"] = 5.5; },
                {"num_blocks", "5.5"}},
        Hostile{"PageThree", [](json& v) { v["config"]["page_size"] = 3; }, {"page_size", "3"}},
        Hostile{"HugeBlocks",
                [](json& v) { v["config"]["num_blocks"] = std::uint64_t{1} << 60U; },
                {"num_blocks", "1152921504606846976"}},
        Hostile{"HugeLayers",
                [](json& v) { v["config"]["num_layers"] = std::uint64_t{1} << 40U; },
                {"1099511627776"}},
        Hostile{"OverflowingShape",
                [](json& v) { v["config"]["page_size"] = std::uint64_t{1} << 63U; },
                {"9223372036854775808"}},
        Hostile{"UnknownKind", [](json& v) { v["kind"] = "Round"; }, {"kind", "Round"}},
        Hostile{"KindIsNumber", [](json& v) { v["kind"] = 0; }, {"kind"}},
        Hostile{"UnknownDimension",
                [](json& v) { v["block_dimension"] = "Third"; },
                {"block_dimension", "Third"}},
        Hostile{"UnknownFormat", [](json& v) { v["format"] = "NHD"; }, {"NHD"}},
        Hostile{
            "FormatNotForTheKind", [](json& v) { v["format"] = "UniversalTP"; }, {"UniversalTP"}},
        Hostile{
            "FormatWithoutHeads", [](json& v) { v["config"].erase("num_heads"); }, {"num_heads"}},
        Hostile{"OverlappingStrides",
                [](json& v) { v["format"] = "Strided[nl=0,no=336,nt=8,nh=14,hd=2,footprint=672]"; },
                {"nt", "8"}},
        Hostile{"RegionsAreNoArray", [](json& v) { v["regions"] = 3; }, {"regions"}},
        Hostile{"NoRegions", [](json& v) { v["regions"] = json::array(); }, {"0 regions", "3"}},
        Hostile{"RegionMissing", [](json& v) { v["regions"].erase(1); }, {"2 regions", "3"}},
        Hostile{"RegionTooMany",
                [](json& v) { v["regions"].push_back(v["regions"][0]); },
                {"regions", "3"}},
        Hostile{"RegionTwice",
                [](json& v) { v["regions"][1] = v["regions"][0]; },
                {"overlap", "0x7f0000000000"}},
        Hostile{"RegionsOverlap",
                [](json& v) { v["regions"][1]["address"] = 0x7f0000000000 + 3358; },
                {"overlap"}},
        Hostile{"RegionTooSmall",
                [](json& v) { v["regions"][2]["bytes"] = 3359; },
                {"region 2", "3359", "3360"}},
        Hostile{"RegionWraps",
                [](json& v) { v["regions"][2]["address"] = ~std::uint64_t{0} - 1; },
                {"region 2", "wraps"}},
        Hostile{"RegionWrapsBySize",
                [](json& v) { v["regions"][2]["bytes"] = ~std::uint64_t{0}; },
                {"region 2", "wraps"}},
        Hostile{"NullAddress", [](json& v) { v["regions"][0]["address"] = 0; }, {"null"}},
        Hostile{"OddAddress",
                [](json& v) { v["regions"][0]["address"] = 0x7effffff0001; },
                {"aligned to 2"}},
        Hostile{"AddressIsText",
                [](json& v) { v["regions"][0]["address"] = "0x1000"; },
                {"address", "0x1000"}},
        Hostile{"MixedKinds",
                [](json& v) { v["regions"][1]["kind"] = "Pinned"; },
                {"region 1 is Pinned"}},
        Hostile{"MixedDevices",
                [](json& v) { v["regions"][1]["device_id"] = 2; },
                {"region 1 is Device 2"}},
        Hostile{
            "UnknownStorage", [](json& v) { v["regions"][0]["kind"] = "Tape"; }, {"kind", "Tape"}},
        Hostile{
            "DeviceWithoutId", [](json& v) { v["regions"][0].erase("device_id"); }, {"device_id"}},
        Hostile{"HugeDeviceId",
                [](json& v) { v["regions"][0]["device_id"] = std::uint64_t{1} << 31U; },
                {"device_id", "2147483648"}},
        Hostile{"UnknownRegionField", [](json& v) { v["regions"][0]["owner"] = 1; }, {"owner"}},
        Hostile{"EmptyTensor",
                [](json& v) { v["tensor"] = {{"dims", json::array()}, {"element_bytes", 2}}; },
                {"tensor"}},
        Hostile{"TensorThatAFormatNames",
                [](json& v) {
                  auto dims = json::array();
                  for (auto const& [dim, extent, stride] : {std::tuple{"no", 2, 1680},
                                                            {"nb", 5, 336},
                                                            {"nt", 4, 84},
                                                            {"nh", 6, 14},
                                                            {"hd", 7, 2}}) {
                    dims.push_back({{"dim", dim}, {"extent", extent}, {"stride_bytes", stride}});
                  }
                  v["tensor"] = {{"dims", dims}, {"element_bytes", 2}};
                },
                {"do not follow from the tensor"}}),
    [](auto const& tested) { return tested.param.name; });

TEST_F(DescriptorTest, L6_TextThatIsNoDescriptorIsRefused) {
  auto const refuse = [](std::string const& text, std::string const& part) {
    expect_error(ErrorCode::Corrupt, {part},
                 [&] { static_cast<void>(LayoutDescriptor::from_json(text)); });
  };
  refuse("", "not a JSON object");
  refuse("null", "not a JSON object");
  refuse("{\"version\":1", "not a JSON object");
  refuse("{}", "version");
  refuse(std::string(100000, '['), "nested deeper than 8");
  refuse(std::string(LayoutDescriptor::kMaxJsonBytes + 1, ' '), "4194305 bytes");
  auto text = fixed_descriptor().to_json();
  text.insert(1, "\"kind\":\"FullyContiguous\",");
  refuse(text, "\"kind\" is given twice");
  refuse(fixed_descriptor().to_json() + "x", "not a JSON object");
}

TEST_F(DescriptorTest, L6_EveryTruncationIsRefused) {
  auto const text = fixed_descriptor().to_json();
  for (std::size_t length = 0; length < text.size(); ++length) {
    expect_error(ErrorCode::Corrupt, {},
                 [&] { static_cast<void>(LayoutDescriptor::from_json(text.substr(0, length))); });
  }
}

TEST_F(DescriptorTest, OtherDevicesAndFilesKeepTheirPlace) {
  auto descriptor = fixed_descriptor();
  for (std::size_t i = 0; i < 3; ++i) {
    descriptor.regions[i] = {StorageKind::Disk, -1, i * 4096, 4096};
  }
  EXPECT_EQ(LayoutDescriptor::from_json(descriptor.to_json()), descriptor);
  EXPECT_EQ(descriptor.address(0, 1, 0), 4096U);
}

}  // namespace
}  // namespace kvbm::layout
