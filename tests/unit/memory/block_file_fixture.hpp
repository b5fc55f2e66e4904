// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <fstream>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "extent_pattern.hpp"
#include "kvbm/memory/block_file.hpp"
#include "kvbm/memory/disk_io.hpp"
#include "kvbm/testing/failure.hpp"
#include "kvbm/testing/temp_folder.hpp"

namespace kvbm::memory::test {

using kvbm::testing::Failure;
using kvbm::testing::failure_of;
using kvbm::testing::failure_of_call;

struct IoCase {
  DiskEngine engine = DiskEngine::Threads;
  bool direct = false;
};

inline std::string name_of_case(::testing::TestParamInfo<IoCase> const& info) {
  return std::string(to_string(info.param.engine)) + (info.param.direct ? "Direct" : "Buffered");
}

inline auto all_io_cases() {
  return ::testing::Values(IoCase{DiskEngine::IoUring, true}, IoCase{DiskEngine::IoUring, false},
                           IoCase{DiskEngine::Threads, true}, IoCase{DiskEngine::Threads, false});
}

/// Two groups with odd sizes: extents of 20,000 bytes, and of one byte.
inline std::vector<ExtentGroup> two_groups() {
  return {{0, 20000, 20480, 6}, {6 * 20480 + 8192, 1, 8192, 3}};
}

/// Where the bytes of extent `extent` of group 0 of two_groups() start.
inline constexpr std::uint64_t kStride = 20480;

class BlockFileTest : public ::testing::TestWithParam<IoCase> {
 protected:
  void SetUp() override {
    try {
      io_ = make_disk_io({GetParam().engine, GetParam().direct, 8, 3});
    } catch (UnsupportedError const& error) { GTEST_SKIP() << error.what(); }
  }

  [[nodiscard]] std::filesystem::path path() const { return folder_ / "tier"; }

  std::shared_ptr<BlockFile> create(std::vector<ExtentGroup> groups = two_groups()) {
    return BlockFile::create({path(), std::move(groups), "layout", false}, io_);
  }
  std::shared_ptr<BlockFile> reopen(OpenMode mode = OpenMode::ReadWrite) {
    return BlockFile::open(path(), mode, io_);
  }
  Failure open_failure(OpenMode mode = OpenMode::ReadWrite) {
    return failure_of_call([&] { return reopen(mode); });
  }

  static std::vector<std::byte> pattern(std::uint64_t bytes, std::uint64_t extent,
                                        std::uint64_t generation) {
    std::vector<std::byte> content(bytes);
    fill_pattern(content, extent, generation);
    return content;
  }

  /// Writes all extents, all in one batch, extent e of group g as pattern(100 * g + e).
  std::vector<Failure> write_all(std::shared_ptr<BlockFile> const& file, std::uint64_t generation,
                                 std::shared_ptr<DiskIo> const& io) {
    std::vector<memory::ExtentIo> extents;
    std::vector<AlignedBuffer> buffers;
    for (std::uint32_t g = 0; g < file->groups().size(); ++g) {
      auto const& group = file->groups()[g];
      // Stride apart in memory too, so that neighbours can be moved together.
      buffers.emplace_back(group.extent_stride * group.count);
      for (std::uint64_t e = 0; e < group.count; ++e) {
        auto* const memory = buffers.back().data() + e * group.extent_stride;
        fill_pattern({memory, group.extent_bytes}, std::uint64_t{100} * g + e, generation);
        extents.push_back({g, e, memory, group.extent_stride});
      }
    }
    BlockFile::Queue queue(io);
    queue.start_write(file, extents);
    std::vector<Failure> failures;
    for (auto const& error : queue.finish()) {
      failures.push_back(failure_of(error));
    }
    EXPECT_EQ(failures.size(), extents.size());
    return failures;
  }
  void expect_written(std::shared_ptr<BlockFile> const& file, std::uint64_t generation) {
    for (auto const& failure : write_all(file, generation, io_)) {
      EXPECT_EQ(failure.code, std::nullopt) << failure.message;
    }
  }

  /// Reads one extent; its content, or how it failed. A failure must leave zeros.
  std::optional<std::vector<std::byte>> read(std::shared_ptr<BlockFile> const& file,
                                             std::uint32_t group, std::uint64_t extent,
                                             Failure* failure = nullptr) {
    std::uint64_t const bytes = file->groups()[group].extent_bytes;
    AlignedBuffer const buffer((bytes + kFileAlignment - 1) / kFileAlignment * kFileAlignment);
    memory::ExtentIo const io{group, extent, buffer.data(), buffer.size()};
    BlockFile::Queue queue(file->io());
    queue.start_read(file, {&io, 1});
    auto const errors = queue.finish();
    EXPECT_EQ(errors.size(), 1U);
    auto const found = failure_of(errors.front());
    if (failure != nullptr) { *failure = found; }
    std::vector<std::byte> content(buffer.data(), buffer.data() + bytes);
    if (!found.code) { return content; }
    EXPECT_TRUE(std::ranges::all_of(content, [](std::byte b) { return b == std::byte{0}; }));
    return std::nullopt;
  }

  void expect_content(std::shared_ptr<BlockFile> const& file, std::uint32_t group,
                      std::uint64_t extent, std::uint64_t generation) {
    Failure failure;
    auto const content = read(file, group, extent, &failure);
    EXPECT_TRUE(content == pattern(file->groups()[group].extent_bytes,
                                   std::uint64_t{100} * group + extent, generation))
        << "group " << group << " extent " << extent << " " << failure.message;
  }

  void expect_all_content(std::shared_ptr<BlockFile> const& file, std::uint64_t generation) {
    for (std::uint32_t g = 0; g < file->groups().size(); ++g) {
      for (std::uint64_t e = 0; e < file->groups()[g].count; ++e) {
        expect_content(file, g, e, generation);
      }
    }
  }

  static void flip_bit(std::filesystem::path const& path, std::uint64_t offset) {
    std::fstream file(path, std::ios::binary | std::ios::in | std::ios::out);
    file.seekg(static_cast<std::streamoff>(offset));
    int const byte = file.get();
    file.seekp(static_cast<std::streamoff>(offset));
    file.put(static_cast<char>(byte ^ 4));
    ASSERT_TRUE(file.good());
  }

  [[nodiscard]] std::filesystem::path sibling(std::string const& suffix) const {
    return folder_ / ("tier" + suffix);
  }

  kvbm::testing::TempFolder folder_;
  std::shared_ptr<DiskIo> io_;
};

}  // namespace kvbm::memory::test
