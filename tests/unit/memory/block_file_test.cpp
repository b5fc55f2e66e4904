// SPDX-License-Identifier: Apache-2.0
#include "kvbm/memory/block_file.hpp"

#include <gmock/gmock.h>
#include <unistd.h>

#include <cerrno>

#include "block_file_fixture.hpp"
#include "kvbm/memory/region.hpp"

namespace kvbm::memory::test {
namespace {

INSTANTIATE_TEST_SUITE_P(Engines, BlockFileTest, all_io_cases(), name_of_case);

TEST_P(BlockFileTest, A1_PreallocatesAtItsPathAndHasNoAddress) {
  auto const file = create();
  EXPECT_EQ(std::filesystem::file_size(path()), 6 * kStride + 8192 + 2 * 8192 + 4096);
  EXPECT_EQ(std::filesystem::file_size(sibling(".blocks")), 9U * 32);
  EXPECT_EQ(folder_.list(), (std::vector<std::string>{"tier", "tier.blocks", "tier.manifest"}));
  auto const region = Region::of_store(file, 1, 6 * kStride + 8192, 3 * 8192);
  EXPECT_EQ(region.kind(), StorageKind::Disk);
  EXPECT_EQ(region.address(), 0U);
  EXPECT_EQ(region.host_data(), nullptr);
  EXPECT_EQ(region.store_index(), 1U);
  EXPECT_EQ(region.subregion(4096, 4096).store_offset(), 6 * kStride + 8192 + 4096);
  EXPECT_EQ(failure_of_call([&] { return Region::of_store(file, 2, 0, 1); }).code,
            ErrorCode::OutOfRange);
}

TEST_P(BlockFileTest, ComesBackInALaterOpening) {
  auto file = create();
  expect_written(file, 1);
  expect_all_content(file, 1);
  auto const before = file->checksum(0, 3);
  ASSERT_TRUE(before.has_value());
  auto const content = pattern(20000, 3, 1);
  EXPECT_EQ(*before, checksum_bytes(content.data(), content.size()));
  file->sync();
  file.reset();

  file = reopen();
  EXPECT_EQ(file->metadata(), "layout");
  EXPECT_EQ(file->groups().size(), 2U);
  EXPECT_EQ(file->checksum(0, 3), before);
  expect_all_content(file, 1);
  expect_written(file, 2);
  expect_all_content(file, 2);
  file.reset();
  expect_all_content(reopen(OpenMode::ReadOnly), 2);
}

TEST_P(BlockFileTest, SaysWhetherItIsDirectAndWhy) {
  auto const file = create();
  if (!GetParam().direct) {
    EXPECT_FALSE(file->is_direct());
    EXPECT_EQ(file->direct_reason(), "not asked for");
  } else if (file->is_direct()) {
    EXPECT_EQ(file->direct_reason(), "O_DIRECT");
  } else {
    EXPECT_THAT(file->direct_reason(), ::testing::HasSubstr("O_DIRECT: "));
  }
}

// Memory at odd addresses, or without room behind the extent, takes the page cache's way; both see
// the same bytes in either order.
TEST_P(BlockFileTest, A5_UnalignedMemoryMovesTheSameBytes) {
  auto const file = create();
  AlignedBuffer const buffer(3 * kStride);
  std::byte* const odd = buffer.data() + 7;
  fill_pattern({odd, 20000}, 2, 1);
  fill_pattern({buffer.data() + kStride + 4096, 20000}, 4, 1);
  std::vector<memory::ExtentIo> const writes{{0, 2, odd, 20000},
                                             {0, 4, buffer.data() + kStride + 4096, 20000}};
  BlockFile::Queue queue(io_);
  queue.start_write(file, writes);
  for (auto const& error : queue.finish()) {
    EXPECT_EQ(failure_of(error).message, "");
  }
  expect_content(file, 0, 2, 1);
  expect_content(file, 0, 4, 1);

  expect_written(file, 2);
  std::fill_n(buffer.data(), buffer.size(), std::byte{0x77});
  memory::ExtentIo const read{0, 2, odd, 20000};
  queue.start_read(file, {&read, 1});
  EXPECT_EQ(failure_of(queue.finish().front()).message, "");
  EXPECT_TRUE(std::ranges::equal(std::span(odd, 20000), pattern(20000, 2, 2)));
  EXPECT_EQ(odd[-1], std::byte{0x77});
  EXPECT_EQ(odd[20000], std::byte{0x77});
}

TEST_P(BlockFileTest, ManySmallExtentsShareRequestsAndKeepTheirChecksums) {
  auto const file = create({{0, 4096, 4096, 700}});
  expect_written(file, 1);
  AlignedBuffer const buffer(700 * 4096);
  std::vector<memory::ExtentIo> reads;
  for (std::uint64_t e = 0; e < 700; ++e) {
    std::uint64_t const extent = e * 37 % 700;  // shuffled, each once
    reads.push_back({0, e < 300 ? e : extent, buffer.data() + e * 4096, 4096});
  }
  BlockFile::Queue queue(io_);
  queue.register_buffer(buffer.span());
  queue.start_read(file, std::span(reads).first(400));
  queue.start_read(file, std::span(reads).subspan(400));
  EXPECT_EQ(queue.num_started(), 700U);
  auto const errors = queue.finish();
  ASSERT_EQ(errors.size(), 700U);
  EXPECT_EQ(queue.num_started(), 0U);
  for (std::size_t i = 0; i < reads.size(); ++i) {
    EXPECT_EQ(errors[i], nullptr);
    ASSERT_TRUE(
        std::ranges::equal(std::span(reads[i].memory, 4096), pattern(4096, reads[i].extent, 1)))
        << i;
  }
}

TEST_P(BlockFileTest, NeverWrittenAndForgottenExtentsAreNotFound) {
  auto const file = create();
  Failure failure;
  EXPECT_EQ(read(file, 0, 2, &failure), std::nullopt);
  EXPECT_EQ(failure.code, ErrorCode::NotFound);
  EXPECT_THAT(failure.message, ::testing::HasSubstr(path().string() + ": extent 2 of group 0"));
  EXPECT_EQ(file->checksum(0, 2), std::nullopt);
  expect_written(file, 1);
  file->invalidate(0, 2);
  EXPECT_EQ(file->checksum(0, 2), std::nullopt);
  EXPECT_EQ(read(file, 0, 2, &failure), std::nullopt);
  EXPECT_EQ(failure.code, ErrorCode::NotFound);
  expect_content(file, 0, 1, 1);
  expect_content(file, 0, 3, 1);
}

TEST_P(BlockFileTest, OutOfRangeAndBadMemoryAreRefusedBeforeAnythingStarts) {
  auto const file = create();
  expect_written(file, 1);
  AlignedBuffer const buffer(kStride);
  BlockFile::Queue queue(io_);
  auto const code = [&](memory::ExtentIo const& bad, bool writing) {
    std::vector<memory::ExtentIo> const both{{0, 0, buffer.data(), kStride}, bad};
    return failure_of_call([&] {
             writing ? queue.start_write(file, both) : queue.start_read(file, both);
             return 0;
           })
        .code;
  };
  for (bool const writing : {false, true}) {
    EXPECT_EQ(code({2, 0, buffer.data(), kStride}, writing), ErrorCode::OutOfRange);
    EXPECT_EQ(code({0, 6, buffer.data(), kStride}, writing), ErrorCode::OutOfRange);
    EXPECT_EQ(code({0, 1, nullptr, kStride}, writing), ErrorCode::InvalidArgument);
    EXPECT_EQ(code({0, 1, buffer.data(), 19999}, writing), ErrorCode::InvalidArgument);
  }
  EXPECT_TRUE(queue.finish().empty());
  expect_all_content(file, 1);
  EXPECT_EQ(failure_of_call([&] { return file->checksum(0, 6); }).code, ErrorCode::OutOfRange);
  EXPECT_EQ(failure_of_call([&] { return file->checksum(2, 0); }).code, ErrorCode::OutOfRange);
}

TEST_P(BlockFileTest, TwoOpenersAreRefusedWithTheHoldersPid) {
  auto file = create();
  for (auto const mode : {OpenMode::ReadWrite, OpenMode::ReadOnly}) {
    auto const busy = open_failure(mode);
    EXPECT_EQ(busy.code, ErrorCode::Busy);
    EXPECT_THAT(busy.message, ::testing::HasSubstr(path().string()));
    EXPECT_THAT(busy.message, ::testing::AnyOf(::testing::HasSubstr(std::to_string(getpid())),
                                               ::testing::HasSubstr("another process")));
  }
  file.reset();
  file = reopen();
  EXPECT_EQ(open_failure().code, ErrorCode::Busy);
}

TEST_P(BlockFileTest, ReadersShareAndCannotWrite) {
  expect_written(create(), 1);
  auto const first = reopen(OpenMode::ReadOnly);
  auto const second = reopen(OpenMode::ReadOnly);
  EXPECT_EQ(open_failure().code, ErrorCode::Busy);
  expect_all_content(first, 1);
  expect_all_content(second, 1);
  AlignedBuffer const buffer(kStride);
  memory::ExtentIo const io{0, 0, buffer.data(), kStride};
  BlockFile::Queue queue(io_);
  EXPECT_EQ(failure_of_call([&] {
              queue.start_write(first, {&io, 1});
              return 0;
            }).code,
            ErrorCode::InvalidArgument);
  EXPECT_EQ(failure_of_call([&] {
              first->invalidate(0, 0);
              return 0;
            }).code,
            ErrorCode::InvalidArgument);
  EXPECT_EQ(first->mode(), OpenMode::ReadOnly);
}

TEST_P(BlockFileTest, A5_TemporaryFilesVanishAndUserFilesStay) {
  auto file = BlockFile::create({folder_ / "temporary", two_groups(), "", true}, io_);
  EXPECT_EQ(folder_.list().size(), 3U);
  file.reset();
  EXPECT_TRUE(folder_.list().empty());

  create().reset();
  reopen().reset();
  EXPECT_EQ(folder_.list().size(), 3U);

  file = BlockFile::create({folder_ / "replaced", two_groups(), "", true}, io_);
  std::filesystem::remove(folder_ / "replaced");
  std::ofstream(folder_ / "replaced") << "somebody else's";
  file.reset();
  EXPECT_TRUE(std::filesystem::exists(folder_ / "replaced"));
}

TEST_P(BlockFileTest, A5_CreateNeverReplacesWhatExists) {
  for (auto const* suffix : {"", ".blocks", ".manifest"}) {
    std::ofstream(sibling(suffix)) << "precious";
    auto const failure = failure_of_call([&] { return create(); });
    EXPECT_EQ(failure.code, ErrorCode::AlreadyExists) << suffix;
    EXPECT_THAT(failure.message, ::testing::HasSubstr(sibling(suffix).string() + ": exists"));
    EXPECT_EQ(folder_.list(), std::vector<std::string>{std::string("tier") + suffix});
    EXPECT_EQ(std::filesystem::file_size(sibling(suffix)), 8U);
    std::filesystem::remove(sibling(suffix));
  }
}

TEST_P(BlockFileTest, CreateRefusesBadGroups) {
  EXPECT_EQ(failure_of_call([&] { return create({}); }).code, ErrorCode::InvalidArgument);
  EXPECT_EQ(failure_of_call([&] { return create({{0, 5000, 4096, 1}}); }).code,
            ErrorCode::InvalidArgument);
  EXPECT_EQ(failure_of_call([&] { return create({{0, 1, std::uint64_t{1} << 62U, 3}}); }).code,
            ErrorCode::Overflow);
  EXPECT_TRUE(folder_.list().empty());
}

TEST_P(BlockFileTest, QueueMayBeDroppedWithWorkUnderWay) {
  auto const file = create();
  AlignedBuffer const buffer(kStride);
  {
    BlockFile::Queue queue(io_);
    memory::ExtentIo const io{0, 0, buffer.data(), kStride};
    queue.start_write(file, {&io, 1});
  }
  Failure failure;
  EXPECT_EQ(read(file, 0, 0, &failure), std::nullopt);  // never reported done
  EXPECT_EQ(failure.code, ErrorCode::NotFound);
}

TEST_P(BlockFileTest, OneQueueServesSeveralFiles) {
  auto const first = create();
  auto const second = BlockFile::create({folder_ / "second", two_groups(), "", true}, io_);
  AlignedBuffer const buffer(4 * kStride);
  BlockFile::Queue queue(io_);
  for (std::uint64_t i = 0; i < 4; ++i) {
    auto* const memory = buffer.data() + i * kStride;
    fill_pattern({memory, 20000}, i / 2, 5 + i % 2);
    memory::ExtentIo const io{0, i / 2, memory, kStride};
    queue.start_write(i % 2 == 0 ? first : second, {&io, 1});
  }
  for (auto const& error : queue.finish()) {
    EXPECT_EQ(error, nullptr);
  }
  expect_content(first, 0, 0, 5);
  expect_content(second, 0, 0, 6);
  expect_content(first, 0, 1, 5);
  expect_content(second, 0, 1, 6);
}

}  // namespace
}  // namespace kvbm::memory::test
