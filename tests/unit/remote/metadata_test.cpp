// SPDX-License-Identifier: Apache-2.0
#include "kvbm/remote/metadata.hpp"

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iterator>

#include "kvbm/memory/memory_source.hpp"
#include "kvbm/testing/failure.hpp"
#include "metadata_cases.hpp"

namespace kvbm::remote {
namespace {

using kvbm::testing::failure_of_call;
using layout::PhysicalLayout;
using nlohmann::json;
using testing::Generator;
using testing::no_layouts;
using testing::one_layout;
using testing::three_layouts;

struct Golden {
  char const* name;
  char const* file;
  SerializedLayout (*make)();
};

class GoldenMetadata : public ::testing::TestWithParam<Golden> {};

std::vector<std::byte> read_golden(char const* name) {
  auto const* root = std::getenv("KVBM_TEST_SOURCE_DIR");
  EXPECT_NE(root, nullptr);
  if (root == nullptr) { return {}; }
  auto const path = std::filesystem::path(root) / "tests/unit/remote/golden" / name;
  std::ifstream file(path, std::ios::binary);
  EXPECT_TRUE(file) << path;
  std::string const text(std::istreambuf_iterator<char>(file), {});
  auto const bytes = std::as_bytes(std::span(text));
  return {bytes.begin(), bytes.end()};
}

TEST_P(GoldenMetadata, M5_IsReadAndWritten) {
  auto const blob = read_golden(GetParam().file);
  auto const expected = GetParam().make();
  EXPECT_EQ(SerializedLayout::from_bytes(blob), expected);
  EXPECT_EQ(expected.to_bytes(), blob);
}

TEST_P(GoldenMetadata, M5_RoundTrips) {
  auto const metadata = GetParam().make();
  auto const blob = metadata.to_bytes();
  auto const again = SerializedLayout::from_bytes(blob);
  EXPECT_EQ(again, metadata);
  EXPECT_EQ(again.to_bytes(), blob);
}

INSTANTIATE_TEST_SUITE_P(
    Version1, GoldenMetadata,
    ::testing::Values(Golden{"None", "metadata_v1_no_layouts.bin", &no_layouts},
                      Golden{"One", "metadata_v1_one_layout.bin", &one_layout},
                      Golden{"Three", "metadata_v1_three_layouts.bin", &three_layouts}),
    [](auto const& instance) { return std::string(instance.param.name); });

TEST(Metadata, M5_ThreeLayoutsKeepTheirTiersAndHandles) {
  auto const metadata = SerializedLayout::from_bytes(three_layouts().to_bytes());
  ASSERT_EQ(metadata.layouts.size(), 3U);
  EXPECT_EQ(metadata.layouts[0].tier, LogicalLayoutHandle::G1);
  EXPECT_EQ(metadata.layouts[1].tier, LogicalLayoutHandle::G2);
  EXPECT_EQ(metadata.layouts[2].tier, LogicalLayoutHandle::G3);
  EXPECT_EQ(metadata.layouts[2].handle, layout::LayoutHandle(testing::kWorker, 7));
  EXPECT_EQ(metadata.address.agent_name, "kvbm-fedcba9876543210");
  EXPECT_EQ(metadata.landing->bytes, 64U << 20U);
  EXPECT_EQ(metadata.process->pid, 4711);
}

TEST(Metadata, M5_RandomOnesRoundTrip) {
  for (std::uint64_t seed = 0; seed < 300; ++seed) {
    SCOPED_TRACE(seed);
    auto const metadata = Generator(seed).metadata();
    auto const blob = metadata.to_bytes();
    auto const again = SerializedLayout::from_bytes(blob);
    ASSERT_EQ(again, metadata);
    ASSERT_EQ(again.to_bytes(), blob);
  }
}

TEST(Metadata, M5_AddressRoundTripsAlone) {
  auto const address = three_layouts().address;
  auto const blob = address.to_bytes();
  EXPECT_EQ(WorkerAddress::from_bytes(blob), address);
  auto const failure = failure_of_call([&] { return SerializedLayout::from_bytes(blob); });
  EXPECT_EQ(failure.code, ErrorCode::Corrupt);
  EXPECT_TRUE(failure.names("magic")) << failure.message;
}

TEST(Metadata, JsonForPeopleHasNoBlob) {
  auto const value = json::parse(three_layouts().to_json());
  EXPECT_EQ(value["address"]["nixl_metadata"]["bytes"], 40);
  EXPECT_EQ(value["address"]["nixl_metadata"]["xxh3_128"].get<std::string>().size(), 32U);
  EXPECT_EQ(value["layouts"].size(), 3U);
  EXPECT_EQ(value["layouts"][2]["tier"], "G3");
  EXPECT_EQ(value["layouts"][2]["layout"]["config"]["num_blocks"], 5);
  EXPECT_TRUE(value["layouts"][0]["shared"][1].is_null());
}

TEST(Metadata, WritingRefusesWhatReadingWouldRefuse) {
  struct Case {
    char const* part;
    std::function<void(SerializedLayout&)> change;
  };
  Case const cases[] = {
      {"agent_name", [](SerializedLayout& m) { m.address.agent_name.clear(); }},
      {"agent_name", [](SerializedLayout& m) { m.address.agent_name = std::string(257, 'a'); }},
      {"handle", [](SerializedLayout& m) { m.worker_id = 1; }},
      {"handle", [](SerializedLayout& m) { m.layouts[1].handle = m.layouts[0].handle; }},
      {"tier", [](SerializedLayout& m) { m.layouts[0].tier = LogicalLayoutHandle::G2; }},
      {"shared", [](SerializedLayout& m) { m.layouts[0].shared.pop_back(); }},
      {"process", [](SerializedLayout& m) { m.process.reset(); }},
      {"pid", [](SerializedLayout& m) { m.process->pid = -1; }},
      {"overlap",
       [](SerializedLayout& m) {
         m.layouts[0].layout.regions[1].address = m.layouts[0].layout.regions[0].address;
       }},
      {"landing", [](SerializedLayout& m) { m.landing->bytes = ~std::uint64_t{0}; }},
      {"kind does not have",
       [](SerializedLayout& m) { m.layouts[1].shared[0]->ipc_handle[3] = std::byte{1}; }},
      {"bytes, at most",
       [](SerializedLayout& m) { m.address.nixl_metadata.resize(SerializedLayout::kMaxBytes); }},
  };
  for (auto const& [part, change] : cases) {
    auto metadata = three_layouts();
    change(metadata);
    auto const failure = failure_of_call([&] { return metadata.to_bytes(); });
    EXPECT_EQ(failure.code, ErrorCode::InvalidArgument) << part;
    EXPECT_TRUE(failure.names(part)) << part << " is not in: " << failure.message;
  }
}

TEST(RemoteLayout, HasThePeersAddressesAndNothingTheHostMayTouch) {
  auto const source = memory::make_host_memory_source();
  for (auto const& metadata : {one_layout(), three_layouts()}) {
    for (auto const& descriptor : metadata.layouts) {
      if (descriptor.tier == LogicalLayoutHandle::G3) { continue; }
      auto const layout = remote_layout(descriptor, source);
      EXPECT_EQ(layout.descriptor(), descriptor.layout);
      EXPECT_EQ(layout.fingerprint(), descriptor.layout.fingerprint());
      EXPECT_EQ(layout.geometry(), descriptor.layout.geometry());
      EXPECT_EQ(layout.source(), source);
      for (auto const& region : layout.regions()) {
        EXPECT_EQ(region.host_data(), nullptr);
      }
    }
  }
}

TEST(RemoteLayout, RandomOnesDescribeTheSameBytes) {
  auto const source = memory::make_host_memory_source();
  for (std::uint64_t seed = 0; seed < 200; ++seed) {
    for (auto const& descriptor : Generator(seed).metadata().layouts) {
      if (descriptor.tier == LogicalLayoutHandle::G3) { continue; }
      EXPECT_EQ(remote_layout(descriptor, source).descriptor(), descriptor.layout) << seed;
    }
  }
}

TEST(RemoteLayout, RefusesAPeersFiles) {
  auto const descriptor = three_layouts().layouts[2];
  auto const failure =
      failure_of_call([&] { return remote_layout(descriptor, memory::make_host_memory_source()); });
  EXPECT_EQ(failure.code, ErrorCode::Unsupported);
  EXPECT_TRUE(failure.names("Disk")) << failure.message;
}

}  // namespace
}  // namespace kvbm::remote
