// SPDX-License-Identifier: Apache-2.0
#include <gmock/gmock.h>

#include "block_file_fixture.hpp"
#include "memory/manifest.hpp"

namespace kvbm::memory::test {
namespace {

using ::testing::HasSubstr;

class BlockFileDamage : public BlockFileTest {
 protected:
  void SetUp() override {
    BlockFileTest::SetUp();
    if (io_ != nullptr) { expect_written(create(), 1); }
  }

  void replace_manifest(std::string const& text) const {
    std::ofstream(sibling(".manifest"), std::ios::binary | std::ios::trunc) << text;
  }
};

INSTANTIATE_TEST_SUITE_P(Engines, BlockFileDamage, all_io_cases(), name_of_case);

TEST_P(BlockFileDamage, FlippedBitOfDataIsRefusedByNameAndNothingElseIsLost) {
  flip_bit(path(), 3 * kStride + 12345);
  auto const file = reopen();
  Failure failure;
  EXPECT_EQ(read(file, 0, 3, &failure), std::nullopt);
  EXPECT_EQ(failure.code, ErrorCode::Corrupt);
  EXPECT_THAT(failure.message, HasSubstr(path().string() + ": extent 3 of group 0"));
  for (std::uint64_t e : {0U, 1U, 2U, 4U, 5U}) {
    expect_content(file, 0, e, 1);
  }
  expect_written(file, 2);
  expect_all_content(file, 2);
}

// All in one batch and side by side in memory, as one request: the bad one is still told apart.
TEST_P(BlockFileDamage, FlippedBitIsFoundInsideABatch) {
  std::filesystem::remove_all(path());
  std::filesystem::remove(sibling(".blocks"));
  std::filesystem::remove(sibling(".manifest"));
  expect_written(create({{0, 4096, 4096, 50}}), 1);
  flip_bit(path(), 17 * 4096);
  auto const file = reopen();
  AlignedBuffer const buffer(50 * 4096);
  std::vector<memory::ExtentIo> reads;
  for (std::uint64_t e = 0; e < 50; ++e) {
    reads.push_back({0, e, buffer.data() + e * 4096, 4096});
  }
  BlockFile::Queue queue(io_);
  queue.start_read(file, reads);
  auto const errors = queue.finish();
  for (std::uint64_t e = 0; e < 50; ++e) {
    EXPECT_EQ(failure_of(errors[e]).code,
              e == 17 ? std::optional(ErrorCode::Corrupt) : std::nullopt);
    auto const bytes = std::span(reads[e].memory, 4096);
    EXPECT_TRUE(
        std::ranges::equal(bytes, e == 17 ? std::vector<std::byte>(4096) : pattern(4096, e, 1)));
  }
}

TEST_P(BlockFileDamage, BytesBetweenExtentsDoNotMatter) {
  flip_bit(path(), 3 * kStride + 20001);
  expect_all_content(reopen(), 1);
}

TEST_P(BlockFileDamage, TruncatedDataIsRefusedByName) {
  auto const full = std::filesystem::file_size(path());
  for (auto const bytes : {full - 1, full / 2, std::uintmax_t{0}}) {
    std::filesystem::resize_file(path(), bytes);
    auto const failure = open_failure();
    EXPECT_EQ(failure.code, ErrorCode::Corrupt);
    EXPECT_THAT(failure.message, HasSubstr(path().string() + ": truncated"));
  }
}

TEST_P(BlockFileDamage, DataTruncatedWhileOpenIsAnErrorOfTheExtent) {
  auto const file = reopen();
  std::filesystem::resize_file(path(), 2 * kStride + 100);
  Failure failure;
  EXPECT_EQ(read(file, 0, 2, &failure), std::nullopt);
  EXPECT_EQ(failure.code, ErrorCode::Io) << failure.message;
  EXPECT_EQ(failure.native_code, ENODATA);
  expect_content(file, 0, 1, 1);
}

TEST_P(BlockFileDamage, FlippedBitOfTheTableCostsOneExtent) {
  for (std::uint64_t const at : {0U, 15U, 16U, 21U, 24U, 31U}) {
    flip_bit(sibling(".blocks"), 32 * 2 + at);
    {
      auto const file = reopen();
      Failure failure;
      EXPECT_EQ(read(file, 0, 2, &failure), std::nullopt);
      EXPECT_EQ(failure.code, ErrorCode::Corrupt) << "byte " << at;
      EXPECT_THAT(failure.message, HasSubstr(sibling(".blocks").string()));
      EXPECT_EQ(file->checksum(0, 2), std::nullopt);
      expect_content(file, 0, 1, 1);
      expect_content(file, 0, 3, 1);
    }
    flip_bit(sibling(".blocks"), 32 * 2 + at);
    expect_all_content(reopen(), 1);
  }
  flip_bit(sibling(".blocks"), 32 * 2);
  auto file = reopen();
  expect_written(file, 2);
  file.reset();
  expect_all_content(reopen(), 2);
}

// Each record is sound, but not here.
TEST_P(BlockFileDamage, RecordsMovedOrFromAnotherFileAreRefused) {
  std::string table;
  {
    std::ifstream file(sibling(".blocks"), std::ios::binary);
    table.assign(std::istreambuf_iterator<char>(file), {});
  }
  std::string moved = table;
  std::swap_ranges(moved.begin(), moved.begin() + 32, moved.begin() + 32);
  std::ofstream(sibling(".blocks"), std::ios::binary) << moved;
  {
    auto const file = reopen();
    Failure failure;
    EXPECT_EQ(read(file, 0, 0, &failure), std::nullopt);
    EXPECT_EQ(failure.code, ErrorCode::Corrupt);
    expect_content(file, 0, 2, 1);
  }
  auto const other = folder_ / "other";
  expect_written(BlockFile::create({other, two_groups(), "", false}, io_), 1);
  std::filesystem::copy_file(folder_ / "other.blocks", sibling(".blocks"),
                             std::filesystem::copy_options::overwrite_existing);
  Failure failure;
  EXPECT_EQ(read(reopen(), 0, 4, &failure), std::nullopt);
  EXPECT_EQ(failure.code, ErrorCode::Corrupt);
}

TEST_P(BlockFileDamage, TableOfAnotherSizeOrMissingIsRefused) {
  std::filesystem::resize_file(sibling(".blocks"), 9 * 32 - 1);
  EXPECT_EQ(open_failure().code, ErrorCode::Corrupt);
  std::filesystem::resize_file(sibling(".blocks"), 10 * 32);
  EXPECT_EQ(open_failure().code, ErrorCode::Corrupt);
  std::filesystem::remove(sibling(".blocks"));
  auto const failure = open_failure();
  EXPECT_EQ(failure.code, ErrorCode::Corrupt);
  EXPECT_THAT(failure.message, HasSubstr(sibling(".blocks").string() + ": missing"));
}

TEST_P(BlockFileDamage, ManifestFlippedTruncatedOrMissingIsRefused) {
  auto const bytes = std::filesystem::file_size(sibling(".manifest"));
  for (std::uint64_t const at : {std::uint64_t{0}, bytes / 2, bytes - 1}) {
    flip_bit(sibling(".manifest"), at);
    auto const failure = open_failure();
    EXPECT_EQ(failure.code, ErrorCode::Corrupt);
    EXPECT_THAT(failure.message, HasSubstr(sibling(".manifest").string()));
    flip_bit(sibling(".manifest"), at);
  }
  std::filesystem::resize_file(sibling(".manifest"), bytes / 2);
  EXPECT_EQ(open_failure().code, ErrorCode::Corrupt);
  std::filesystem::resize_file(sibling(".manifest"), kMaxManifestBytes + 1);
  EXPECT_EQ(open_failure().code, ErrorCode::Corrupt);
  std::filesystem::remove(sibling(".manifest"));
  auto const failure = open_failure();
  EXPECT_EQ(failure.code, ErrorCode::NotFound);
  EXPECT_THAT(failure.message, HasSubstr(sibling(".manifest").string()));
  EXPECT_THAT(failure_of_call([&] { return create(); }).message, HasSubstr("without a manifest"));
}

TEST_P(BlockFileDamage, NewerManifestIsRefusedByVersion) {
  replace_manifest(seal_manifest(R"({"format":"kvbm-block-file","version":2,"new":true})"));
  auto const failure = open_failure();
  EXPECT_EQ(failure.code, ErrorCode::VersionMismatch);
  EXPECT_THAT(failure.message, HasSubstr("version 2"));
}

TEST_P(BlockFileDamage, ManifestThatPromisesMoreThanThereIsIsRefused) {
  auto groups = two_groups();
  groups.back().count = 1000;
  replace_manifest(encode_manifest({1, groups, ""}));
  EXPECT_EQ(open_failure().code, ErrorCode::Corrupt);
  groups.back().count = kMaxExtents - 6;
  replace_manifest(encode_manifest({1, groups, ""}));
  EXPECT_EQ(open_failure().code, ErrorCode::Corrupt);
}

TEST_P(BlockFileDamage, WhatIsNoFileIsRefused) {
  auto const code = [&](std::filesystem::path const& path) {
    return failure_of_call([&] { return BlockFile::open(path, OpenMode::ReadOnly, io_); }).code;
  };
  EXPECT_EQ(code(folder_ / "none"), ErrorCode::NotFound);
  EXPECT_EQ(code(folder_.path()), ErrorCode::InvalidArgument);
  EXPECT_EQ(code(path() / "below"), ErrorCode::Io);
}

}  // namespace
}  // namespace kvbm::memory::test
