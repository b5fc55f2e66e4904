// SPDX-License-Identifier: Apache-2.0
#include "memory/file_handle.hpp"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/sysmacros.h>

#include <cerrno>
#include <fstream>

#include "kvbm/testing/failure.hpp"
#include "kvbm/testing/temp_folder.hpp"

namespace kvbm::memory {
namespace {

TEST(FileHandle, ErrorsNameThePathAndTheErrno) {
  kvbm::testing::TempFolder const folder;
  auto const missing =
      testing::failure_of_call([&] { return FileHandle::open(folder / "none", O_RDONLY); });
  EXPECT_EQ(missing.code, ErrorCode::NotFound);
  EXPECT_NE(missing.message.find((folder / "none").string()), std::string::npos);
  auto const exclusive = [&] {
    return FileHandle::open(folder / "one", O_CREAT | O_EXCL | O_RDWR);
  };
  EXPECT_NO_THROW(exclusive());
  EXPECT_EQ(testing::failure_of_call(exclusive).code, ErrorCode::AlreadyExists);
  auto const below =
      testing::failure_of_call([&] { return FileHandle::open(folder / "one" / "x", O_RDONLY); });
  EXPECT_EQ(below.code, ErrorCode::Io);
  EXPECT_EQ(below.native_code, ENOTDIR);
}

TEST(FileHandle, ReadsAndWritesAllOrSaysWhyNot) {
  kvbm::testing::TempFolder const folder;
  auto const file = FileHandle::open(folder / "file", O_CREAT | O_RDWR);
  EXPECT_EQ(file.preallocate(8), 0);
  std::uint64_t value = 0x0123456789abcdef;
  EXPECT_EQ(file.write_at(std::as_bytes(std::span(&value, 1)), 0), 0);
  value = 0;
  EXPECT_EQ(file.read_at(std::as_writable_bytes(std::span(&value, 1)), 0), 0);
  EXPECT_EQ(value, 0x0123456789abcdefU);
  EXPECT_EQ(file.read_at(std::as_writable_bytes(std::span(&value, 1)), 1), ENODATA);
  auto const read_only = FileHandle::open(folder / "file", O_RDONLY);
  EXPECT_EQ(read_only.write_at(std::as_bytes(std::span(&value, 1)), 0), EBADF);
}

TEST(FileHandle, RemoverRemovesUnlessToldToKeep) {
  kvbm::testing::TempFolder const folder;
  for (auto const* name : {"gone", "kept"}) {
    std::ofstream(folder / name) << "x";
  }
  {
    FileRemover const gone(folder / "gone");
    FileRemover kept(folder / "kept");
    kept.keep();
  }
  EXPECT_EQ(folder.list(), std::vector<std::string>{"kept"});
}

TEST(LockHolder, IsFoundByDeviceAndInode) {
  struct stat status{};
  status.st_dev = makedev(0xfe, 1);
  status.st_ino = 131090;
  EXPECT_EQ(find_lock_holder("1: POSIX  ADVISORY  WRITE 11 fe:01:131090 0 EOF\n"
                             "2: FLOCK  ADVISORY  WRITE 12 fe:01:131091 0 EOF\n"
                             "3: FLOCK  ADVISORY  WRITE 4242 fe:01:131090 0 EOF\n"
                             "3: -> FLOCK  ADVISORY  WRITE 13 fe:01:131090 0 EOF\n",
                             status),
            4242);
  EXPECT_EQ(find_lock_holder("3: FLOCK  ADVISORY  WRITE 0 fe:01:131090 0 EOF\n", status),
            std::nullopt);
  EXPECT_EQ(find_lock_holder("3: FLOCK", status), std::nullopt);
  EXPECT_EQ(find_lock_holder("", status), std::nullopt);
}

}  // namespace
}  // namespace kvbm::memory
