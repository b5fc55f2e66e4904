// SPDX-License-Identifier: Apache-2.0
#include <gmock/gmock.h>
#include <sys/stat.h>

#include <cerrno>

#include "block_file_fixture.hpp"
#include "kvbm/testing/faulty_disk_io.hpp"

namespace kvbm::memory::test {
namespace {

using kvbm::testing::DiskFault;
using kvbm::testing::FaultyDiskIo;
using kvbm::testing::SmallFileSystem;
using ::testing::HasSubstr;

class BlockFileFaults : public BlockFileTest {
 protected:
  [[nodiscard]] std::shared_ptr<DiskIo> faulty(FaultyDiskIo::Decide decide) const {
    return std::make_shared<FaultyDiskIo>(io_, std::move(decide));
  }
};

INSTANTIATE_TEST_SUITE_P(Engines, BlockFileFaults, all_io_cases(), name_of_case);

bool covers(DiskRequest const& request, std::uint64_t offset) {
  return request.offset <= offset && offset < request.offset + request.bytes;
}

TEST_P(BlockFileFaults, A5_FailedWriteCostsOneExtentAndSaysWhy) {
  for (int const error : {ENOSPC, EIO}) {
    auto const file = error == ENOSPC ? create() : reopen();
    expect_written(file, 1);
    auto const io = faulty([&](DiskRequest const& request, std::uint64_t) {
      return covers(request, 2 * kStride) ? std::optional(DiskFault{error, 4096}) : std::nullopt;
    });
    auto const failures = write_all(file, 2, io);
    for (std::size_t i = 0; i < failures.size(); ++i) {
      if (i != 2) {
        EXPECT_EQ(failures[i].code, std::nullopt) << failures[i].message;
        continue;
      }
      EXPECT_EQ(failures[i].code, ErrorCode::Io);
      EXPECT_EQ(failures[i].native_code, error);
      EXPECT_THAT(failures[i].message, HasSubstr(path().string() + ": extent 2 of group 0"));
      EXPECT_THAT(failures[i].message, HasSubstr(describe_errno(error)));
    }
    Failure failure;
    EXPECT_EQ(read(file, 0, 2, &failure), std::nullopt);
    EXPECT_EQ(failure.code, ErrorCode::NotFound);
    expect_content(file, 0, 1, 2);
    expect_content(file, 0, 3, 2);
  }
}

TEST_P(BlockFileFaults, FailedReadCostsOneExtentAndLeavesZeros) {
  auto const file = create({{0, 4096, 4096, 40}});
  expect_written(file, 1);
  auto const io = faulty([&](DiskRequest const& request, std::uint64_t) {
    return covers(request, 7 * 4096) ? std::optional(DiskFault{EIO, 0}) : std::nullopt;
  });
  AlignedBuffer const buffer(40 * 4096);
  std::vector<memory::ExtentIo> reads;
  for (std::uint64_t e = 0; e < 40; ++e) {
    reads.push_back({0, e, buffer.data() + e * 4096, 4096});
  }
  BlockFile::Queue queue(io);
  queue.start_read(file, reads);
  auto const errors = queue.finish();
  for (std::uint64_t e = 0; e < 40; ++e) {
    auto const failure = failure_of(errors[e]);
    if (e == 7) {
      EXPECT_EQ(failure.code, ErrorCode::Io);
      EXPECT_EQ(failure.native_code, EIO);
      EXPECT_TRUE(std::ranges::all_of(std::span(reads[e].memory, 4096),
                                      [](std::byte b) { return b == std::byte{0}; }));
    } else {
      EXPECT_EQ(failure.code, std::nullopt) << failure.message;
    }
  }
  // The file itself is well.
  expect_all_content(file, 1);
}

// A disk that lost half of what it acknowledged: the checksum is all that stands between it and us.
TEST_P(BlockFileFaults, A5_ShortWriteThatClaimsSuccessIsFoundWhenRead) {
  auto const file = create();
  expect_written(file, 1);
  auto const io = faulty([&](DiskRequest const& request, std::uint64_t) {
    return covers(request, 4 * kStride)
               ? std::optional(DiskFault{0, 4 * kStride - request.offset + 4096})
               : std::nullopt;
  });
  for (auto const& failure : write_all(file, 2, io)) {
    EXPECT_EQ(failure.code, std::nullopt);
  }
  Failure failure;
  EXPECT_EQ(read(file, 0, 4, &failure), std::nullopt);
  EXPECT_EQ(failure.code, ErrorCode::Corrupt);
  expect_content(file, 0, 3, 2);
}

// Every request of a round fails once, for each k: whatever is reported done is there.
TEST_P(BlockFileFaults, FailingTheKthRequestNeverLosesWhatWasReportedDone) {
  auto const file = create();
  for (std::uint64_t k = 0;; ++k) {
    auto const io =
        std::make_shared<FaultyDiskIo>(io_, [k](DiskRequest const&, std::uint64_t number) {
          return number == k ? std::optional(DiskFault{EIO, 0}) : std::nullopt;
        });
    auto const failures = write_all(file, k + 1, io);
    for (std::uint64_t e = 0; e < 6; ++e) {
      if (!failures[e].code) {
        expect_content(file, 0, e, k + 1);
      } else {
        EXPECT_EQ(read(file, 0, e), std::nullopt);
      }
    }
    if (io->num_requests() <= k) { break; }
  }
}

TEST_P(BlockFileFaults, A5_FullDiskAtCreateIsEnospcAndLeavesNothing) {
  SmallFileSystem const disk(64 * 1024);
  if (!disk.refusal().empty()) { GTEST_SKIP() << disk.refusal(); }
  auto const failure = failure_of_call(
      [&] { return BlockFile::create({disk.path() / "tier", two_groups(), "", false}, io_); });
  EXPECT_EQ(failure.code, ErrorCode::Io);
  EXPECT_EQ(failure.native_code, ENOSPC);
  EXPECT_THAT(failure.message, HasSubstr((disk.path() / "tier").string()));
  EXPECT_TRUE(std::filesystem::is_empty(disk.path()));
}

// Room for the data, none for the table: the data file goes again.
TEST_P(BlockFileFaults, A5_FullDiskForTheTableLeavesNothing) {
  SmallFileSystem const disk(192 * 1024);
  if (!disk.refusal().empty()) { GTEST_SKIP() << disk.refusal(); }
  auto const failure = failure_of_call([&] {
    return BlockFile::create({disk.path() / "tier", {{0, 1, 4096, 48}}, "", false}, io_);
  });
  EXPECT_EQ(failure.native_code, ENOSPC);
  EXPECT_THAT(failure.message, HasSubstr("tier.blocks"));
  EXPECT_TRUE(std::filesystem::is_empty(disk.path()));
}

TEST_P(BlockFileFaults, PreallocationHoldsOnADiskThatIsFullNow) {
  SmallFileSystem const disk(512 * 1024);
  if (!disk.refusal().empty()) { GTEST_SKIP() << disk.refusal(); }
  auto const file =
      BlockFile::create({disk.path() / "tier", {{0, 20000, kStride, 6}}, "", false}, io_);
  std::ofstream filler(disk.path() / "filler");
  while (filler.write(std::string(4096, 'x').data(), 4096).flush()) {}
  expect_written(file, 1);
  expect_all_content(file, 1);
}

TEST_P(BlockFileFaults, A5_FileSystemWithoutFallocateGetsZeros) {
  SmallFileSystem const disk(0, false, "ramfs");
  if (!disk.refusal().empty()) { GTEST_SKIP() << disk.refusal(); }
  auto const path = disk.path() / "tier";
  auto file = BlockFile::create({path, two_groups(), "", false}, io_);
  struct stat status{};
  ASSERT_EQ(::stat(path.c_str(), &status), 0);
  EXPECT_GE(status.st_blocks * 512, status.st_size);  // no holes
  EXPECT_EQ(read(file, 0, 1), std::nullopt);
  expect_written(file, 1);
  file.reset();
  expect_all_content(BlockFile::open(path, OpenMode::ReadWrite, io_), 1);
}

TEST_P(BlockFileFaults, PathThatCannotBeWrittenIsRefusedWithItsErrno) {
  auto const failure_at = [&](std::filesystem::path const& path) {
    return failure_of_call([&] { return BlockFile::create({path, two_groups(), "", false}, io_); });
  };
  std::ofstream(folder_ / "file") << "x";
  auto failure = failure_at(folder_ / "file" / "tier");
  EXPECT_EQ(failure.code, ErrorCode::Io);
  EXPECT_EQ(failure.native_code, ENOTDIR);
  failure = failure_at(folder_ / "no" / "tier");
  EXPECT_EQ(failure.code, ErrorCode::Io);
  EXPECT_EQ(failure.native_code, ENOENT);
  EXPECT_THAT(failure.message, HasSubstr((folder_ / "no" / "tier").string()));

  SmallFileSystem const disk(64 * 1024, /*read_only=*/true);
  if (!disk.refusal().empty()) { GTEST_SKIP() << disk.refusal(); }
  failure = failure_at(disk.path() / "tier");
  EXPECT_EQ(failure.code, ErrorCode::Io);
  EXPECT_EQ(failure.native_code, EROFS);
}

}  // namespace
}  // namespace kvbm::memory::test
