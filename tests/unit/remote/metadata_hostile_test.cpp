// SPDX-License-Identifier: Apache-2.0
//
// Metadata from a peer that lies, with right checksums: it is refused with an error that names the
// field, or it is exactly what an honest peer writes.
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include <functional>
#include <initializer_list>
#include <string>
#include <vector>

#include "kvbm/testing/failure.hpp"
#include "metadata_cases.hpp"

namespace kvbm::remote {
namespace {

using kvbm::testing::failure_of_call;
using nlohmann::json;
using testing::body_of;
using testing::no_layouts;
using testing::one_layout;
using testing::three_layouts;
using testing::value_in;
using testing::wrap;

using Bytes = std::vector<std::byte>;

std::vector<Bytes> honest_blobs() {
  return {no_layouts().to_bytes(), one_layout().to_bytes(), three_layouts().to_bytes()};
}

kvbm::testing::Failure failure_of_blob(std::span<std::byte const> blob) {
  return failure_of_call([&] { return SerializedLayout::from_bytes(blob); });
}

/// Refused as damaged, or what to_bytes makes.
void expect_refused_or_canonical(std::span<std::byte const> blob, std::string const& where) {
  try {
    auto const again = SerializedLayout::from_bytes(blob).to_bytes();
    ASSERT_TRUE(std::equal(again.begin(), again.end(), blob.begin(), blob.end())) << where;
  } catch (Error const& error) {
    ASSERT_TRUE(error.code() == ErrorCode::Corrupt || error.code() == ErrorCode::VersionMismatch)
        << where << ": " << error.what();
  }
}

TEST(HostileMetadata, M8_EveryTruncationIsRefused) {
  for (auto const& blob : honest_blobs()) {
    for (std::size_t bytes = 0; bytes < blob.size(); ++bytes) {
      ASSERT_EQ(failure_of_blob(std::span(blob).first(bytes)).code, ErrorCode::Corrupt) << bytes;
    }
  }
}

TEST(HostileMetadata, M8_EveryTruncationWithARightEnvelopeIsRefused) {
  for (auto const& blob : honest_blobs()) {
    auto const body = body_of(blob);
    for (std::size_t bytes = 0; bytes < body.size(); ++bytes) {
      ASSERT_EQ(failure_of_blob(wrap(body.first(bytes))).code, ErrorCode::Corrupt) << bytes;
    }
  }
}

TEST(HostileMetadata, M8_EveryFlippedBitIsRefused) {
  for (auto blob : honest_blobs()) {
    for (std::size_t bit = 0; bit < 8 * blob.size(); ++bit) {
      blob[bit / 8] ^= static_cast<std::byte>(1U << (bit % 8));
      auto const failure = failure_of_blob(blob);
      ASSERT_TRUE(failure.code == ErrorCode::Corrupt || failure.code == ErrorCode::VersionMismatch)
          << "bit " << bit;
      blob[bit / 8] ^= static_cast<std::byte>(1U << (bit % 8));
    }
  }
}

TEST(HostileMetadata, M8_EveryFlippedBitWithARightChecksumIsRefusedOrAnotherHonestBlob) {
  for (auto const& blob : honest_blobs()) {
    auto const body = body_of(blob);
    Bytes changed(body.begin(), body.end());
    for (std::size_t bit = 0; bit < 8 * changed.size(); ++bit) {
      changed[bit / 8] ^= static_cast<std::byte>(1U << (bit % 8));
      expect_refused_or_canonical(wrap(std::span<std::byte const>(changed)),
                                  "bit " + std::to_string(bit));
      changed[bit / 8] ^= static_cast<std::byte>(1U << (bit % 8));
    }
  }
}

TEST(HostileMetadata, M8_TrailingBytesAreRefused) {
  for (auto const& blob : honest_blobs()) {
    auto longer = blob;
    longer.push_back(std::byte{0});
    EXPECT_TRUE(failure_of_blob(longer).names("length"));

    auto const body = body_of(blob);
    Bytes more(body.begin(), body.end());
    more.push_back(std::byte{0});
    auto const failure = failure_of_blob(wrap(std::span<std::byte const>(more)));
    EXPECT_EQ(failure.code, ErrorCode::Corrupt);
    EXPECT_TRUE(failure.names("behind the value")) << failure.message;
  }
}

TEST(HostileMetadata, M8_OtherVersionsAreRefusedAsUnsupported) {
  auto const blob = three_layouts().to_bytes();
  for (auto const version : {0U, 2U, 999U, 0xffffffffU}) {
    auto const failure = failure_of_blob(wrap(body_of(blob), version));
    EXPECT_EQ(failure.code, ErrorCode::VersionMismatch);
    EXPECT_TRUE(failure.names("Unsupported version " + std::to_string(version))) << failure.message;
  }
}

TEST(HostileMetadata, M8_TooMuchIsRefusedUnread) {
  Bytes const blob(SerializedLayout::kMaxBytes + 1);
  EXPECT_TRUE(failure_of_blob(blob).names("at most"));
}

// ---- CBOR that the library's decoder must never see ----

Bytes bytes_of(std::initializer_list<unsigned> values) {
  Bytes bytes;
  for (auto const value : values) {
    bytes.push_back(static_cast<std::byte>(value));
  }
  return bytes;
}

/// A head that announces 2^60 of something.
Bytes announce(unsigned major) { return bytes_of({major << 5U | 27U, 0x10, 0, 0, 0, 0, 0, 0, 0}); }

struct RawCase {
  char const* name;
  Bytes body;
  char const* part;
};

class HostileCbor : public ::testing::TestWithParam<RawCase> {};

TEST_P(HostileCbor, M8_IsRefused) {
  auto const failure = failure_of_blob(wrap(std::span<std::byte const>(GetParam().body)));
  EXPECT_EQ(failure.code, ErrorCode::Corrupt);
  EXPECT_TRUE(failure.names(GetParam().part)) << failure.message;
}

INSTANTIATE_TEST_SUITE_P(
    All, HostileCbor,
    ::testing::Values(RawCase{"Nothing", {}, "announced"},
                      RawCase{"Number", bytes_of({0x01}), "not a map"},
                      RawCase{"HugeArray", announce(4), "1152921504606846976 entries"},
                      RawCase{"HugeMap", announce(5), "1152921504606846976 entries"},
                      RawCase{"HugeText", announce(3), "1152921504606846976 bytes"},
                      RawCase{"HugeBytes", announce(2), "1152921504606846976 bytes"},
                      RawCase{"ArrayOfAnyLength", bytes_of({0x9f, 0xff}), "definite"},
                      RawCase{"MapOfAnyLength", bytes_of({0xbf, 0xff}), "definite"},
                      RawCase{"TextInPieces", Bytes(1U << 20U, std::byte{0x7f}), "definite"},
                      RawCase{"BytesInPieces", Bytes(1U << 20U, std::byte{0x5f}), "definite"},
                      RawCase{"DeepArrays", Bytes(1U << 20U, std::byte{0x81}), "nested deeper"},
                      RawCase{"DeepTags", Bytes(1U << 20U, std::byte{0xc1}), "type 6"},
                      RawCase{"Negative", bytes_of({0xa1, 0x61, 'a', 0x20}), "type 1"},
                      RawCase{"Fraction", bytes_of({0xa1, 0x61, 'a', 0xf9, 0, 0}), "fraction"},
                      RawCase{"LongNumber", bytes_of({0xa1, 0x61, 'a', 0x18, 3}), "too many"},
                      RawCase{"LongLength", bytes_of({0xb8, 1, 0x61, 'a', 3}), "too many"},
                      RawCase{"NumberAsKey", bytes_of({0xa1, 0x01, 0x01}), "name is not text"},
                      RawCase{"FieldTwice", bytes_of({0xa2, 0x61, 'a', 1, 0x61, 'a', 2}), "twice"},
                      RawCase{"FieldsOutOfOrder", bytes_of({0xa2, 0x61, 'b', 1, 0x61, 'a', 2}),
                              "order"},
                      RawCase{"UnknownField", bytes_of({0xa1, 0x61, 'a', 1}), "missing"}),
    [](auto const& instance) { return instance.param.name; });

TEST(HostileMetadata, M8_MillionsOfValuesAreRefused) {
  // 3 Mi times an array of one number, in an array.
  constexpr std::size_t kCount = std::size_t{3} << 20U;
  auto body = bytes_of({0x9a, 0, 0x30, 0, 0});
  for (std::size_t i = 0; i < kCount; ++i) {
    body.push_back(std::byte{0x81});
    body.push_back(std::byte{0});
  }
  EXPECT_TRUE(failure_of_blob(wrap(std::span<std::byte const>(body))).names("more than 2097152"));
}

// ---- fields ----

struct FieldCase {
  char const* name;
  std::function<void(json&)> change;
  std::vector<std::string> parts;
};

class HostileField : public ::testing::TestWithParam<FieldCase> {};

TEST_P(HostileField, M8_IsRefused) {
  auto value = value_in(three_layouts().to_bytes());
  GetParam().change(value);
  auto const failure = failure_of_blob(wrap(value));
  EXPECT_EQ(failure.code, ErrorCode::Corrupt);
  for (auto const& part : GetParam().parts) {
    EXPECT_TRUE(failure.names(part)) << "'" << part << "' is not in: " << failure.message;
  }
}

/// Changes the JSON text of a layout.
std::function<void(json&)> in_layout(std::size_t index, std::function<void(json&)> change) {
  return [index, change = std::move(change)](json& v) {
    auto layout = json::parse(v["layouts"][index]["layout"].get<std::string>());
    change(layout);
    v["layouts"][index]["layout"] = layout.dump();
  };
}

constexpr auto kMax = ~std::uint64_t{0};

INSTANTIATE_TEST_SUITE_P(
    Worker, HostileField,
    ::testing::Values(
        FieldCase{"NoWorker", [](json& v) { v.erase("worker_id"); }, {"worker_id", "missing"}},
        FieldCase{"WorkerIsText", [](json& v) { v["worker_id"] = "x"; }, {"worker_id"}},
        FieldCase{"WorkerIsABlob",
                  [](json& v) { v["worker_id"] = json::binary(std::vector<std::uint8_t>(99)); },
                  {"worker_id", "99 bytes"}},
        FieldCase{"OtherWorker", [](json& v) { v["worker_id"] = 5; }, {"layouts[0]", "worker 5"}},
        FieldCase{"UnknownField", [](json& v) { v["extra"] = 1; }, {"unknown", "extra"}},
        FieldCase{"NoAddress", [](json& v) { v.erase("address"); }, {"address", "missing"}},
        FieldCase{"AddressIsNull", [](json& v) { v["address"] = nullptr; }, {"address"}},
        FieldCase{"UnknownAddressField",
                  [](json& v) { v["address"]["extra"] = 1; },
                  {"address", "extra"}},
        FieldCase{"NoName", [](json& v) { v["address"].erase("agent_name"); }, {"agent_name"}},
        FieldCase{"EmptyName", [](json& v) { v["address"]["agent_name"] = ""; }, {"agent_name"}},
        FieldCase{"LongName",
                  [](json& v) { v["address"]["agent_name"] = std::string(257, 'a'); },
                  {"agent_name", "257"}},
        FieldCase{"NewlineInName",
                  [](json& v) { v["address"]["agent_name"] = "a\nb"; },
                  {"agent_name", "0x0a"}},
        FieldCase{"ZeroInName",
                  [](json& v) { v["address"]["agent_name"] = std::string("a\0b", 3); },
                  {"agent_name", "0x00"}},
        FieldCase{"NoAsciiInName",
                  [](json& v) { v["address"]["agent_name"] = "\xff"; },
                  {"agent_name", "0xff"}},
        FieldCase{"BlobIsText",
                  [](json& v) { v["address"]["nixl_metadata"] = "x"; },
                  {"nixl_metadata", "string"}},
        FieldCase{
            "LandingWraps", [](json& v) { v["landing"]["bytes"] = kMax; }, {"landing", "wrap"}},
        FieldCase{"LandingAtNull", [](json& v) { v["landing"]["address"] = 0; }, {"landing"}},
        FieldCase{"LandingOfNothing", [](json& v) { v["landing"]["bytes"] = 0; }, {"landing"}},
        FieldCase{"LandingIsNull", [](json& v) { v["landing"] = nullptr; }, {"landing"}},
        FieldCase{"ProcessZero", [](json& v) { v["process"]["pid"] = 0; }, {"process", "pid"}},
        FieldCase{"ProcessHuge", [](json& v) { v["process"]["pid"] = kMax; }, {"pid"}},
        FieldCase{
            "BootIdOfThree", [](json& v) { v["process"]["boot_id"].push_back(1); }, {"boot_id"}},
        FieldCase{"BootIdOfText", [](json& v) { v["process"]["boot_id"][0] = "x"; }, {"boot_id"}},
        FieldCase{"NoProcess", [](json& v) { v.erase("process"); }, {"layouts[0]", "process"}}),
    [](auto const& instance) { return instance.param.name; });

INSTANTIATE_TEST_SUITE_P(
    Layouts, HostileField,
    ::testing::Values(
        FieldCase{"LayoutsAreAMap", [](json& v) { v["layouts"] = json::object(); }, {"layouts"}},
        FieldCase{"TooManyLayouts",
                  [](json& v) { v["layouts"] = json(65537, nullptr); },
                  {"layouts", "65536"}},
        FieldCase{"LayoutIsANumber", [](json& v) { v["layouts"][1] = 3; }, {"layouts[1]"}},
        FieldCase{"UnknownLayoutField",
                  [](json& v) { v["layouts"][1]["extra"] = 3; },
                  {"layouts[1]", "extra"}},
        FieldCase{"ForeignWorkerInHandle",
                  [](json& v) { v["layouts"][1]["handle"][0] = 4; },
                  {"layouts[1]", "handle", "worker=4"}},
        FieldCase{"ReservedHandleBits",
                  [](json& v) { v["layouts"][1]["handle"][1] = 0x10001; },
                  {"layouts[1]", "handle", "reserved", "0x1"}},
        FieldCase{"HandleTwice",
                  [](json& v) { v["layouts"][2]["handle"] = v["layouts"][1]["handle"]; },
                  {"layouts[2]", "handle", "twice"}},
        FieldCase{"HandleOfOne",
                  [](json& v) { v["layouts"][0]["handle"].erase(1); },
                  {"layouts[0]", "handle"}},
        FieldCase{"WrongTier", [](json& v) { v["layouts"][0]["tier"] = "G2"; }, {"tier", "G1"}},
        FieldCase{
            "UnknownTier", [](json& v) { v["layouts"][0]["tier"] = "G5\xfe"; }, {"tier", "G5"}},
        FieldCase{"TierIsANumber", [](json& v) { v["layouts"][0]["tier"] = 1; }, {"tier"}},
        FieldCase{"NoLayout", [](json& v) { v["layouts"][0].erase("layout"); }, {"layout"}},
        FieldCase{"LayoutIsNoJson",
                  [](json& v) { v["layouts"][0]["layout"] = "{]"; },
                  {"layouts[0]", "JSON"}},
        FieldCase{"LayoutInOtherSpelling",
                  [](json& v) {
                    auto& text = v["layouts"][0]["layout"].get_ref<std::string&>();
                    text.insert(1, " ");
                  },
                  {"layouts[0]", "written"}},
        FieldCase{"GpuIsFalse", [](json& v) { v["layouts"][0]["gpu"] = false; }, {"gpu"}},
        FieldCase{"GpuIsANumber", [](json& v) { v["layouts"][0]["gpu"] = 1; }, {"gpu"}},
        FieldCase{"GpuOfHostMemory", [](json& v) { v["layouts"][1]["gpu"] = true; }, {"gpu"}},
        FieldCase{"DimensionOfAContiguousLayout",
                  in_layout(1, [](json& l) { l["block_dimension"] = "Second"; }),
                  {"layouts[1]", "block_dimension"}},
        FieldCase{
            "HugeNumberOfBlocks",
            in_layout(1, [](json& l) { l["config"]["num_blocks"] = std::uint64_t{1} << 60U; }),
            {"layouts[1]", "num_blocks"}},
        FieldCase{
            "HugeNumberOfLayers",
            in_layout(0, [](json& l) { l["config"]["num_layers"] = std::uint64_t{1} << 60U; }),
            {"layouts[0]"}},
        FieldCase{"RegionWraps",
                  in_layout(0, [](json& l) { l["regions"][2]["address"] = kMax - 7; }),
                  {"layouts[0]", "region 2", "wraps"}},
        FieldCase{"RegionWrapsBySize",
                  in_layout(0, [](json& l) { l["regions"][1]["bytes"] = kMax; }),
                  {"layouts[0]", "region 1", "wraps"}},
        FieldCase{"RegionsOverlap",
                  in_layout(0, [](json& l) { l["regions"][1]["address"] = 0x7f0000000010; }),
                  {"layouts[0]", "overlap"}},
        FieldCase{"RegionMissing",
                  in_layout(0, [](json& l) { l["regions"].erase(1); }),
                  {"layouts[0]", "2 regions"}},
        FieldCase{"RegionInAnObjectStore",
                  in_layout(2, [](json& l) { l["regions"][0]["kind"] = "Object"; }),
                  {"layouts[2]", "Object"}}),
    [](auto const& instance) { return instance.param.name; });

INSTANTIATE_TEST_SUITE_P(
    Shared, HostileField,
    ::testing::Values(
        FieldCase{"OneTooFew",
                  [](json& v) { v["layouts"][0]["shared"].erase(0); },
                  {"layouts[0]", "shared", "2 entries for 3"}},
        FieldCase{"OneTooMany",
                  [](json& v) { v["layouts"][0]["shared"].push_back(nullptr); },
                  {"layouts[0]", "shared"}},
        FieldCase{"EntryIsText",
                  [](json& v) { v["layouts"][0]["shared"][0] = "x"; },
                  {"shared[0]", "not an object"}},
        FieldCase{"UnknownKind",
                  [](json& v) { v["layouts"][1]["shared"][0]["kind"] = "Rdma"; },
                  {"layouts[1]", "shared[0]", "Rdma"}},
        FieldCase{"HugeDescriptor",
                  [](json& v) { v["layouts"][1]["shared"][0]["fd"] = 0x80000000; },
                  {"shared[0]", "fd"}},
        FieldCase{"BehindTheEnd",
                  [](json& v) { v["layouts"][1]["shared"][0]["file_bytes"] = (2U << 20U) + 1; },
                  {"shared[0]", "file_bytes"}},
        FieldCase{"OffsetWraps",
                  [](json& v) { v["layouts"][1]["shared"][0]["offset"] = kMax; },
                  {"shared[0]", "offset"}},
        FieldCase{"IpcHandleOfAFile",
                  [](json& v) {
                    auto& layouts = v["layouts"];
                    layouts[1]["shared"][0]["ipc_handle"] = layouts[0]["shared"][0]["ipc_handle"];
                  },
                  {"shared[0]", "ipc_handle", "given"}},
        FieldCase{"NoIpcHandle",
                  [](json& v) { v["layouts"][0]["shared"][2].erase("ipc_handle"); },
                  {"shared[2]", "ipc_handle", "missing"}},
        FieldCase{"ShortIpcHandle",
                  [](json& v) {
                    v["layouts"][0]["shared"][2]["ipc_handle"] =
                        json::binary(std::vector<std::uint8_t>(63));
                  },
                  {"shared[2]", "ipc_handle", "63"}},
        FieldCase{"IpcOfHostMemory",
                  [](json& v) { v["layouts"][1]["shared"][0] = v["layouts"][0]["shared"][0]; },
                  {"layouts[1]", "shared[0]", "CudaIpc"}},
        FieldCase{"FileOfADisk",
                  [](json& v) { v["layouts"][2]["shared"] = v["layouts"][1]["shared"]; },
                  {"layouts[2]", "shared[0]", "Disk"}},
        FieldCase{"RegionsShareBytes",
                  [](json& v) { v["layouts"][0]["shared"][2]["offset"] = 1024; },
                  {"layouts[0]", "shared", "regions 0 and 2 overlap"}}),
    [](auto const& instance) { return instance.param.name; });

}  // namespace
}  // namespace kvbm::remote
