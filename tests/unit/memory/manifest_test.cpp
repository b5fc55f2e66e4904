// SPDX-License-Identifier: Apache-2.0
#include "memory/manifest.hpp"

#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>

#include "kvbm/testing/failure.hpp"

extern "C" int LLVMFuzzerTestOneInput(std::uint8_t const* data, std::size_t size);

namespace kvbm::memory {
namespace {

using testing::Failure;
using testing::failure_of_call;

Manifest make_manifest() {
  return {~std::uint64_t{0} - 6, {{0, 20000, 20480, 4}, {81920, 1, 8192, 3}}, R"({"layout":1})"};
}

Failure decode_body(std::string const& body) {
  return failure_of_call([&] { return decode_manifest(seal_manifest(body), "m"); });
}

std::string body_with(std::string const& from, std::string const& to) {
  std::string body =
      R"({"data_bytes":8192,"format":"kvbm-block-file","groups":[{"count":2,"extent_bytes":4096,)"
      R"("extent_stride":4096,"file_offset":0}],"id":42,"metadata":"m","version":1})";
  auto const at = body.find(from);
  EXPECT_NE(at, std::string::npos) << from;
  return at == std::string::npos ? body : body.replace(at, from.size(), to);
}

TEST(Manifest, ComesBackAsItWas) {
  for (std::string const& metadata :
       {std::string("plain"), std::string(), std::string("\0\xff\x80 bytes", 9),
        std::string("\"quoted\"\n\xc3\xa4")}) {
    Manifest manifest = make_manifest();
    manifest.metadata = metadata;
    Manifest const again = decode_manifest(encode_manifest(manifest), "m");
    EXPECT_EQ(again.id, manifest.id);
    EXPECT_EQ(again.metadata, metadata);
    ASSERT_EQ(again.groups.size(), 2U);
    EXPECT_EQ(again.groups[1].file_offset, 81920U);
    EXPECT_EQ(again.groups[1].extent_bytes, 1U);
    EXPECT_EQ(again.groups[1].extent_stride, 8192U);
    EXPECT_EQ(again.groups[1].count, 3U);
  }
}

TEST(Manifest, EverySingleBitFlipAndEveryTruncationIsRefused) {
  std::string const text = encode_manifest(make_manifest());
  for (std::size_t at = 0; at < text.size(); ++at) {
    for (unsigned bit = 0; bit < 8; ++bit) {
      std::string flipped = text;
      flipped[at] = static_cast<char>(static_cast<unsigned char>(flipped[at]) ^ (1U << bit));
      ASSERT_EQ(failure_of_call([&] { return decode_manifest(flipped, "m"); }).code,
                ErrorCode::Corrupt)
          << "byte " << at << " bit " << bit;
    }
    ASSERT_EQ(failure_of_call([&] { return decode_manifest(text.substr(0, at), "m"); }).code,
              ErrorCode::Corrupt);
  }
  EXPECT_EQ(failure_of_call([&] { return decode_manifest(text + " ", "m"); }).code,
            ErrorCode::Corrupt);
}

TEST(Manifest, NewerVersionIsNamedWhateverElseItHolds) {
  auto const failure = decode_body(R"({"format":"kvbm-block-file","version":7})");
  EXPECT_EQ(failure.code, ErrorCode::VersionMismatch);
  EXPECT_NE(failure.message.find("version 7"), std::string::npos) << failure.message;
  EXPECT_NE(failure.message.find("m:"), std::string::npos) << failure.message;
}

TEST(Manifest, ValidSealDoesNotMakeContentTrusted) {
  EXPECT_EQ(decode_body(body_with("4096", "4096")).code, std::nullopt);
  std::pair<char const*, char const*> const cases[] = {
      {"\"version\":1", "\"version\":0"},
      {"\"version\":1", "\"version\":-1"},
      {"\"version\":1", "\"version\":1.0"},
      {"kvbm-block-file", "kvbm-other"},
      {"\"count\":2", "\"count\":0"},
      {"\"count\":2", "\"count\":3"},                     // data_bytes no longer fits
      {"\"count\":2", "\"count\":4611686018427387904"},   // overflow
      {"\"count\":2", "\"count\":18446744073709551616"},  // beyond 64 bits
      {"\"count\":2,", ""},
      {"\"extent_bytes\":4096", "\"extent_bytes\":0"},
      {"\"extent_bytes\":4096", "\"extent_bytes\":4097"},
      {"\"extent_stride\":4096", "\"extent_stride\":4100"},
      {"\"extent_stride\":4096", "\"extent_stride\":9223372036854771712"},
      {"\"file_offset\":0", "\"file_offset\":512"},
      {"\"file_offset\":0", "\"file_offset\":18446744073709547520"},
      {"\"data_bytes\":8192", "\"data_bytes\":4096"},
      {"\"metadata\":\"m\"", "\"metadata\":5"},
      {"\"metadata\":\"m\"", "\"metadata_hex\":\"0\""},
      {"\"metadata\":\"m\"", "\"metadata_hex\":\"zz\""},
      {"\"id\":42", "\"id\":\"42\""},
      {"\"groups\":[", "\"groups\":[5,"},
      {"}]", "}}"},
  };
  for (auto const& [from, to] : cases) {
    auto const failure = decode_body(body_with(from, to));
    EXPECT_EQ(failure.code, ErrorCode::Corrupt) << from << " -> " << to;
    EXPECT_NE(failure.message.find("damaged manifest"), std::string::npos) << failure.message;
  }
  EXPECT_EQ(decode_body("[]").code, ErrorCode::Corrupt);
  EXPECT_EQ(decode_body("").code, ErrorCode::Corrupt);
  EXPECT_EQ(decode_body(std::string(1'000'000, '[')).code, ErrorCode::Corrupt);
}

TEST(Manifest, TooLargeTextIsRefusedUnread) {
  auto const failure =
      failure_of_call([] { return decode_manifest(std::string(kMaxManifestBytes + 1, ' '), "m"); });
  EXPECT_EQ(failure.code, ErrorCode::Corrupt);
  Manifest manifest = make_manifest();
  manifest.metadata.assign(kMaxMetadataBytes + 1, 'x');
  EXPECT_EQ(failure_of_call([&] { return encode_manifest(manifest); }).code,
            ErrorCode::InvalidArgument);
}

TEST(ExtentGroups, GeometryFollows) {
  auto const geometry = check_groups({{4096, 20000, 20480, 4}, {86016, 1, 8192, 3}});
  EXPECT_EQ(geometry.num_extents, 7U);
  EXPECT_EQ(geometry.first_record, (std::vector<std::uint64_t>{0, 4}));
  EXPECT_EQ(geometry.data_bytes, 86016U + 2 * 8192 + 4096);
}

TEST(ExtentGroups, BadOnesAreRefusedByName) {
  auto const failure = [](std::vector<ExtentGroup> const& groups) {
    return failure_of_call([&] { return check_groups(groups); });
  };
  EXPECT_EQ(failure({}).code, ErrorCode::InvalidArgument);
  EXPECT_EQ(failure({{0, 0, 4096, 1}}).code, ErrorCode::InvalidArgument);
  EXPECT_EQ(failure({{0, 1, 4096, 0}}).code, ErrorCode::InvalidArgument);
  EXPECT_EQ(failure({{100, 1, 4096, 1}}).code, ErrorCode::InvalidArgument);
  EXPECT_EQ(failure({{0, 5000, 4096, 1}}).code, ErrorCode::InvalidArgument);
  EXPECT_EQ(failure({{0, 1, 0, 1}}).code, ErrorCode::InvalidArgument);
  EXPECT_EQ(failure({{0, 4096, 4096, kMaxExtents + 1}}).code, ErrorCode::InvalidArgument);
  EXPECT_EQ(failure({{0, 1, std::uint64_t{1} << 62U, 3}}).code, ErrorCode::Overflow);
  auto const overlap = failure({{0, 4096, 4096, 2}, {4096, 4096, 4096, 1}});
  EXPECT_EQ(overlap.code, ErrorCode::InvalidArgument);
  EXPECT_NE(overlap.message.find("group 1: file_offset 4096"), std::string::npos);
}

TEST(ManifestFuzz, CorpusIsDigested) {
  char const* const source = std::getenv("KVBM_TEST_SOURCE_DIR");
  if (source == nullptr) { GTEST_SKIP() << "KVBM_TEST_SOURCE_DIR is not set: run by ctest"; }
  int files = 0;
  auto const folder = std::filesystem::path(source) / "tests" / "fuzz" / "corpus" / "manifest";
  for (auto const& entry : std::filesystem::directory_iterator(folder)) {
    std::ifstream file(entry.path(), std::ios::binary);
    std::string const text{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
    LLVMFuzzerTestOneInput(reinterpret_cast<std::uint8_t const*>(text.data()), text.size());
    ++files;
  }
  EXPECT_GE(files, 8);
}

}  // namespace
}  // namespace kvbm::memory
