// SPDX-License-Identifier: Apache-2.0
#include "kvbm/memory/striped_file.hpp"

#include <gmock/gmock.h>

#include "block_file_fixture.hpp"
#include "kvbm/memory/scrub.hpp"
#include "kvbm/testing/faulty_disk_io.hpp"

namespace kvbm::memory::test {
namespace {

using ::testing::HasSubstr;

class StripedFileTest : public BlockFileTest {
 protected:
  [[nodiscard]] std::vector<std::filesystem::path> paths(std::size_t count = 3) const {
    std::vector<std::filesystem::path> result;
    for (std::size_t i = 0; i < count; ++i) {
      auto const folder = folder_ / ("device" + std::to_string(i));
      std::filesystem::create_directory(folder);
      result.push_back(folder / "tier");
    }
    return result;
  }
  std::shared_ptr<StripedFile> create_set(std::size_t count = 3,
                                          std::vector<ExtentGroup> groups = two_groups()) {
    return StripedFile::create({paths(count), std::move(groups), "layout"}, io_);
  }
  std::shared_ptr<StripedFile> open_set(OpenMode mode = OpenMode::ReadWrite) {
    return StripedFile::open(paths().front(), mode, io_);
  }

  std::vector<Failure> write_set(std::shared_ptr<BlockStore> const& store,
                                 std::uint64_t generation) {
    std::vector<ExtentIo> extents;
    std::vector<AlignedBuffer> buffers;
    for (std::uint32_t g = 0; g < store->groups().size(); ++g) {
      auto const& group = store->groups()[g];
      buffers.emplace_back(group.extent_stride * group.count);
      for (std::uint64_t e = 0; e < group.count; ++e) {
        auto* const memory = buffers.back().data() + e * group.extent_stride;
        fill_pattern({memory, group.extent_bytes}, std::uint64_t{100} * g + e, generation);
        extents.push_back({g, e, memory, group.extent_stride});
      }
    }
    auto const queue = store->make_queue();
    queue->start_write(store, extents);
    std::vector<Failure> failures;
    for (auto const& error : queue->finish()) {
      failures.push_back(failure_of(error));
    }
    return failures;
  }
  void expect_set_written(std::shared_ptr<BlockStore> const& store, std::uint64_t generation) {
    for (auto const& failure : write_set(store, generation)) {
      EXPECT_EQ(failure.code, std::nullopt) << failure.message;
    }
  }

  // Reads all extents at once; how each failed.
  std::vector<Failure> check_set(std::shared_ptr<BlockStore> const& store,
                                 std::uint64_t generation) {
    std::vector<ExtentIo> extents;
    std::vector<AlignedBuffer> buffers;
    for (std::uint32_t g = 0; g < store->groups().size(); ++g) {
      auto const& group = store->groups()[g];
      buffers.emplace_back(group.extent_stride * group.count);
      for (std::uint64_t e = 0; e < group.count; ++e) {
        extents.push_back(
            {g, e, buffers.back().data() + e * group.extent_stride, group.extent_stride});
      }
    }
    auto const queue = store->make_queue();
    queue->start_read(store, extents);
    auto const errors = queue->finish();
    std::vector<Failure> failures;
    for (std::size_t i = 0; i < extents.size(); ++i) {
      auto const& io = extents[i];
      failures.push_back(failure_of(errors[i]));
      auto const bytes = store->groups()[io.group].extent_bytes;
      if (errors[i] == nullptr) {
        EXPECT_TRUE(std::ranges::equal(
            std::span(io.memory, bytes),
            pattern(bytes, std::uint64_t{100} * io.group + io.extent, generation)))
            << "group " << io.group << " extent " << io.extent;
      }
    }
    return failures;
  }
  void expect_set_content(std::shared_ptr<BlockStore> const& store, std::uint64_t generation) {
    for (auto const& failure : check_set(store, generation)) {
      EXPECT_EQ(failure.code, std::nullopt) << failure.message;
    }
  }
  [[nodiscard]] Failure set_failure() {
    return failure_of_call([&] { return open_set(); });
  }
};

INSTANTIATE_TEST_SUITE_P(Engines, StripedFileTest, all_io_cases(), name_of_case);

TEST_P(StripedFileTest, ReturnsWhatWasWrittenAfterReopening) {
  auto set = create_set();
  EXPECT_EQ(set->name(), paths().front().string() + ".stripes");
  EXPECT_EQ(set->metadata(), "layout");
  EXPECT_EQ(set->groups(), two_groups());
  EXPECT_EQ(set->parts().size(), 3U);
  expect_set_written(set, 1);
  expect_set_content(set, 1);
  set->sync();
  set.reset();
  set = open_set(OpenMode::ReadOnly);
  EXPECT_FALSE(set->is_writable());
  EXPECT_EQ(set->groups(), two_groups());
  EXPECT_EQ(set->metadata(), "layout");
  expect_set_content(set, 1);
  EXPECT_EQ(failure_of_call([&] { return write_set(set, 2); }).code, ErrorCode::InvalidArgument);
}

TEST_P(StripedFileTest, ExtentsLieInTurnInTheParts) {
  auto const set = create_set(3, {{0, 20000, 20480, 7}, {8 * 20480, 100, 4096, 1}});
  ASSERT_EQ(set->parts().size(), 3U);
  EXPECT_EQ(set->parts()[0]->groups()[0].count, 3U);
  EXPECT_EQ(set->parts()[1]->groups()[0].count, 2U);
  EXPECT_EQ(set->parts()[2]->groups()[0].count, 2U);
  expect_set_written(set, 1);
  for (std::uint64_t e = 0; e < 7; ++e) {
    EXPECT_EQ(set->status(0, e), ExtentStatus::Written);
    EXPECT_EQ(set->checksum(0, e), set->parts()[e % 3]->checksum(0, e / 3));
  }
  set->invalidate(0, 4);
  EXPECT_EQ(set->status(0, 4), ExtentStatus::Empty);
  EXPECT_EQ(set->parts()[1]->status(0, 1), ExtentStatus::Empty);
  auto const failures = check_set(set, 1);
  for (std::size_t e = 0; e < failures.size(); ++e) {
    EXPECT_EQ(failures[e].code, e == 4 ? std::optional(ErrorCode::NotFound) : std::nullopt);
  }
  EXPECT_THAT(failures[4].message, HasSubstr(set->name() + ": extent 4 of group 0"));
  EXPECT_THAT(failures[4].message, HasSubstr("device1"));

  // Parts have room for one extent of each group; the set has not.
  AlignedBuffer const memory(20480);
  ExtentIo const beyond{1, 1, memory.data(), memory.size()};
  auto const queue = set->make_queue();
  EXPECT_EQ(failure_of_call([&] {
              queue->start_read(set, {&beyond, 1});
              return 0;
            }).code,
            ErrorCode::OutOfRange);
  EXPECT_EQ(queue->num_started(), 0U);
  EXPECT_EQ(failure_of_call([&] { return set->status(1, 1); }).code, ErrorCode::OutOfRange);
  EXPECT_EQ(failure_of_call([&] { return set->checksum(2, 0); }).code, ErrorCode::OutOfRange);
}

TEST_P(StripedFileTest, OneQueueServesFilesAndSets) {
  auto const set = create_set();
  auto const file = create();
  ASSERT_EQ(set->family(), file->family());
  AlignedBuffer const memory(4 * kStride);
  std::vector<ExtentIo> extents;
  for (std::uint64_t e = 0; e < 4; ++e) {
    fill_pattern({memory.data() + e * kStride, 20000}, e, 5);
    extents.push_back({0, e, memory.data() + e * kStride, kStride});
  }
  auto const queue = file->make_queue();
  queue->start_write(set, extents);
  queue->start_write(file, extents);
  auto const errors = queue->finish();
  ASSERT_EQ(errors.size(), 8U);
  for (auto const& error : errors) {
    EXPECT_EQ(error, nullptr) << failure_of(error).message;
  }
  for (std::uint64_t e = 0; e < 4; ++e) {
    EXPECT_EQ(set->checksum(0, e), file->checksum(0, e));
  }
}

TEST_P(StripedFileTest, DamageInOnePartCostsOneExtent) {
  auto const set = create_set();
  expect_set_written(set, 1);
  flip_bit(paths()[2], 20480 + 77);  // the second extent there: 5
  auto const failures = check_set(set, 1);
  for (std::size_t e = 0; e < failures.size(); ++e) {
    EXPECT_EQ(failures[e].code, e == 5 ? std::optional(ErrorCode::Corrupt) : std::nullopt);
  }
  ScrubOptions options;
  options.bytes_per_second = 0;
  options.max_passes = 1;
  std::vector<std::uint64_t> damaged;
  Scrubber const scrubber(set, options,
                          [&](DamagedExtent const& found) { damaged.push_back(found.extent); });
  EXPECT_TRUE(scrubber.wait_for_passes(1));
  EXPECT_EQ(damaged, std::vector<std::uint64_t>{5});
}

TEST_P(StripedFileTest, MissingForeignAndShuffledPartsAreRefusedByName) {
  create_set().reset();
  auto const all = paths();
  auto const other = folder_ / "other";
  StripedFile::create({{other, folder_ / "other2", folder_ / "other3"}, two_groups(), ""}, io_)
      .reset();
  EXPECT_NE(open_set(), nullptr);

  auto const move_part = [](std::filesystem::path const& from, std::filesystem::path const& to) {
    for (char const* const suffix : {"", ".blocks", ".manifest"}) {
      std::filesystem::rename(from.string() + suffix, to.string() + suffix);
    }
  };
  move_part(all[1], folder_ / "moved");
  Failure failure = set_failure();
  EXPECT_EQ(failure.code, ErrorCode::NotFound) << failure.message;
  EXPECT_THAT(failure.message, HasSubstr("part 1 of 3"));
  EXPECT_THAT(failure.message, HasSubstr(all[1].string()));
  EXPECT_NE(StripedFile::open({all[0], folder_ / "moved", all[2]}, OpenMode::ReadWrite, io_),
            nullptr);

  move_part(folder_ / "other2", all[1]);
  failure = set_failure();
  EXPECT_EQ(failure.code, ErrorCode::Corrupt) << failure.message;
  EXPECT_THAT(failure.message, HasSubstr("another set"));

  move_part(all[1], folder_ / "other2");
  create().reset();  // a file of its own
  move_part(path(), all[1]);
  failure = set_failure();
  EXPECT_EQ(failure.code, ErrorCode::Corrupt) << failure.message;
  EXPECT_THAT(failure.message, HasSubstr("no part of a set"));

  failure = failure_of_call([&] {
    return StripedFile::open({all[0], all[2], folder_ / "moved"}, OpenMode::ReadWrite, io_);
  });
  EXPECT_EQ(failure.code, ErrorCode::Corrupt);
  EXPECT_THAT(failure.message, HasSubstr("is part 2 of 3"));
  failure = failure_of_call(
      [&] { return StripedFile::open({all[0], folder_ / "moved"}, OpenMode::ReadWrite, io_); });
  EXPECT_EQ(failure.code, ErrorCode::InvalidArgument);

  flip_bit(all[0].string() + ".stripes", 60);
  EXPECT_EQ(set_failure().code, ErrorCode::Corrupt);
}

TEST_P(StripedFileTest, OpensByItsFirstPathAlone) {
  auto const file = create();
  expect_written(file, 1);
  create_set().reset();
  EXPECT_EQ(open_block_store(paths()[0], OpenMode::ReadWrite, io_)->groups(), two_groups());
  EXPECT_EQ(open_block_store(paths()[0], OpenMode::ReadOnly, io_)->name(),
            paths()[0].string() + ".stripes");
  auto const failure =
      failure_of_call([&] { return open_block_store(paths()[1], OpenMode::ReadOnly, io_); });
  EXPECT_EQ(failure.code, ErrorCode::InvalidArgument);
  EXPECT_THAT(failure.message, HasSubstr("part 1 of 3"));
  EXPECT_EQ(failure_of_call([&] { return open_block_store(path(), OpenMode::ReadOnly, io_); }).code,
            ErrorCode::Busy);
  EXPECT_EQ(failure_of_call([&] {
              return open_block_store(folder_ / "none", OpenMode::ReadOnly, io_);
            }).code,
            ErrorCode::NotFound);
}

TEST_P(StripedFileTest, RefusesWhatItCannotBeMadeFromAndLeavesNothing) {
  auto const refusal = [&](std::vector<std::filesystem::path> const& where,
                           std::vector<ExtentGroup> const& groups) {
    return failure_of_call([&] { return StripedFile::create({where, groups, ""}, io_); });
  };
  auto const all = paths();
  EXPECT_EQ(refusal({all[0]}, two_groups()).code, ErrorCode::InvalidArgument);
  EXPECT_EQ(refusal({all[0], ""}, two_groups()).code, ErrorCode::InvalidArgument);
  EXPECT_EQ(refusal({all[0], all[0]}, two_groups()).code, ErrorCode::InvalidArgument);
  EXPECT_EQ(refusal(std::vector(257, all[0]), two_groups()).code, ErrorCode::InvalidArgument);
  EXPECT_EQ(refusal(all, {}).code, ErrorCode::InvalidArgument);
  std::ofstream(all[2]) << "taken";
  EXPECT_EQ(refusal(all, two_groups()).code, ErrorCode::AlreadyExists);
  EXPECT_EQ(std::filesystem::file_size(all[2]), 5U);
  std::filesystem::remove(all[2]);
  for (auto const& path : all) {
    EXPECT_TRUE(std::filesystem::is_empty(path.parent_path())) << path;
  }
  create_set().reset();
  EXPECT_EQ(refusal(all, two_groups()).code, ErrorCode::AlreadyExists);
  EXPECT_NE(open_set(), nullptr);
}

TEST_P(StripedFileTest, SpaceIsThatOfAllParts) {
  auto const set = create_set();
  StoreSpace space = set->space();
  EXPECT_EQ(space.extents_total, 9U);
  EXPECT_EQ(space.extents_written, 0U);
  EXPECT_GE(space.bytes_allocated, 6 * 20480U);
  EXPECT_GT(space.file_system_total, space.file_system_free);
  EXPECT_LT(space.file_system_total, 2 * set->parts()[0]->space().file_system_total);
  expect_set_written(set, 1);
  EXPECT_EQ(set->space().extents_written, 9U);
}

TEST_P(StripedFileTest, FullDeviceSaysWhatIsNeededAndWhatIsFree) {
  kvbm::testing::SmallFileSystem const small(std::uint64_t{1} << 20U);
  if (!small.refusal().empty()) { GTEST_SKIP() << small.refusal(); }
  auto const failure = failure_of_call([&] {
    return StripedFile::create(
        {{folder_ / "a", small.path() / "b"}, {{0, 1 << 20U, 1 << 20U, 8}}, ""}, io_);
  });
  EXPECT_EQ(failure.code, ErrorCode::Io);
  EXPECT_EQ(failure.native_code, ENOSPC);
  EXPECT_THAT(failure.message, HasSubstr((small.path() / "b").string()));
  EXPECT_THAT(failure.message, HasSubstr("4194304 bytes"));
  EXPECT_THAT(failure.message, HasSubstr("of 1048576 bytes free"));
  EXPECT_TRUE(folder_.list().empty());
}

}  // namespace
}  // namespace kvbm::memory::test
