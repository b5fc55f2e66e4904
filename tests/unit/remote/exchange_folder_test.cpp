// SPDX-License-Identifier: Apache-2.0
//
// What only the exchange over a folder does: files, other processes, damage.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/stat.h>

#include <chrono>
#include <filesystem>
#include <fstream>
#include <future>
#include <iterator>

#include "kvbm/core/error.hpp"
#include "kvbm/testing/child_process.hpp"
#include "remote/exchange_file.hpp"
#include "support/test_program.hpp"
#include "unit/remote/exchange_places.hpp"

namespace kvbm::remote::test {
namespace {

namespace fs = std::filesystem;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::StartsWith;
using namespace std::chrono_literals;

constexpr std::chrono::milliseconds kPatience = 60s;

class FolderExchange : public ::testing::Test {
 protected:
  [[nodiscard]] std::string path() const { return folder_.path().string(); }
  [[nodiscard]] fs::path file_of(std::string const& name) const {
    return folder_ / ("worker-" + name + ".meta");
  }
  std::shared_ptr<MetadataExchange> exchange() { return make_folder_exchange(path()); }
  testing::LineProcess peer() {
    return testing::LineProcess(testing::test_program(KVBM_EXCHANGE_PEER), {"folder", path()});
  }
  [[nodiscard]] std::vector<char> content_of(std::string const& name) const {
    std::ifstream file(file_of(name), std::ios::binary);
    return {std::istreambuf_iterator<char>(file), {}};
  }
  void set_content(std::string const& name, std::vector<char> const& content) const {
    std::ofstream file(file_of(name), std::ios::binary | std::ios::trunc);
    file.write(content.data(), static_cast<std::streamsize>(content.size()));
  }
  void write_as(std::string const& name, ProcessIdentity const& process) const {
    ExchangeFile::write(file_of(name), {process, 77}, make_blob(20, 7));
  }

  testing::TempFolder folder_;
};

std::string error_of(std::function<void()> const& call, ErrorCode code) {
  try {
    call();
  } catch (Error const& error) {
    EXPECT_EQ(error.code(), code) << error.what();
    return error.what();
  }
  ADD_FAILURE() << "nothing was thrown";
  return {};
}

TEST_F(FolderExchange, WritesOneFileThatOnlyItsUserReads) {
  auto const a = exchange();
  a->publish("w", make_blob(100, 1));
  a->publish("w", make_blob(100, 2));
  EXPECT_THAT(folder_.list(), ElementsAre("publish.lock", "worker-w.meta"));
  struct stat status{};
  ASSERT_EQ(stat(file_of("w").c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 07777U, 0600U);
}

TEST_F(FolderExchange, CreatesItsFolderForThisUserOnly) {
  auto const a = make_folder_exchange(folder_ / "a/b");
  a->publish("w", {});
  struct stat status{};
  ASSERT_EQ(stat((folder_ / "a/b").c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 07777U, 0700U);
}

TEST_F(FolderExchange, RefusesWhatIsNoFolder) {
  std::ofstream(folder_ / "file") << "x";
  error_of([&] { make_folder_exchange(folder_ / "file"); }, ErrorCode::InvalidArgument);
  error_of([&] { make_folder_exchange({}); }, ErrorCode::InvalidArgument);
  error_of([&] { make_folder_exchange(folder_ / "file/below"); }, ErrorCode::Io);
}

TEST_F(FolderExchange, CrossesProcesses) {
  auto const here = exchange();
  auto there = peer();
  ASSERT_EQ(there.ask("publish there 3000000 5"), "ok");
  EXPECT_TRUE(here->fetch("there", kPatience) == make_blob(3000000, 5));
  here->publish("here", make_blob(100, 6));
  EXPECT_EQ(there.ask("fetch here 60000"), "ok " + checksum_of(make_blob(100, 6)));
  EXPECT_EQ(there.ask("list"), "ok here there");
  EXPECT_THAT(there.ask("publish here 1 1"), StartsWith("error AlreadyExists"));
  EXPECT_THAT(error_of([&] { here->publish("there", {}); }, ErrorCode::AlreadyExists),
              HasSubstr("process " + std::to_string(there.pid())));
  EXPECT_EQ(there.ask("withdraw there"), "ok");
  EXPECT_THAT(here->list(), ElementsAre("here"));
}

TEST_F(FolderExchange, WakesUpForAnotherProcess) {
  auto const here = exchange();
  auto there = peer();
  auto later = std::async(std::launch::async, [&] { return here->fetch("late", kPatience); });
  ASSERT_EQ(there.ask("publish late 10 1"), "ok");
  EXPECT_EQ(later.get(), make_blob(10, 1));
}

TEST_F(FolderExchange, AProcessThatEndsLeavesNothing) {
  auto there = peer();
  ASSERT_EQ(there.ask("publish there 10 5"), "ok");
  EXPECT_EQ(there.finish(), 0);
  EXPECT_THAT(folder_.list(), ElementsAre("publish.lock"));
}

TEST_F(FolderExchange, WhatAKilledProcessLeftCountsAsAbsentAndMayBeReplaced) {
  auto const here = exchange();
  auto there = peer();
  ASSERT_EQ(there.ask("publish worker 10 5"), "ok");
  EXPECT_THAT(here->list(), ElementsAre("worker"));
  there.send_signal(SIGKILL);
  // Dead, though not yet reaped, or soon so: a zombie counts as gone.
  siginfo_t info{};
  ASSERT_EQ(waitid(P_PID, static_cast<id_t>(there.pid()), &info, WEXITED | WNOWAIT), 0);
  EXPECT_THAT(here->list(), IsEmpty());
  there.wait();
  EXPECT_THAT(here->list(), IsEmpty());
  EXPECT_THAT(error_of([&] { here->fetch("worker", 20ms); }, ErrorCode::Timeout),
              HasSubstr("a process that is gone"));
  auto again = peer();
  ASSERT_EQ(again.ask("publish worker 10 6"), "ok");
  EXPECT_EQ(here->fetch("worker", kPatience), make_blob(10, 6));
}

TEST_F(FolderExchange, APidThatBelongsToAnotherProcessNowIsNoOwner) {
  ProcessIdentity former = this_process();
  former.start_time -= 1;
  write_as("worker", former);
  auto const here = exchange();
  EXPECT_THAT(here->list(), IsEmpty());
  here->publish("worker", {});
}

TEST_F(FolderExchange, KeepsWhatMachinesAndContainersPublishThatItCannotSee) {
  ProcessIdentity elsewhere = this_process();
  elsewhere.boot_id = "another boot";
  elsewhere.host = "another-host";
  elsewhere.pid = 4242;
  ProcessIdentity container = this_process();
  container.pid_namespace = "pid:[1]";
  container.pid = 1'000'000'000;
  write_as("elsewhere", elsewhere);
  write_as("container", container);
  auto const here = exchange();
  EXPECT_THAT(here->list(), ElementsAre("container", "elsewhere"));
  EXPECT_EQ(here->fetch("elsewhere", kPatience), make_blob(20, 7));
  std::string const message =
      error_of([&] { here->publish("elsewhere", {}); }, ErrorCode::AlreadyExists);
  EXPECT_THAT(message, HasSubstr("process 4242 of host 'another-host'"));
  EXPECT_THAT(message, HasSubstr("remove " + fs::canonical(file_of("elsewhere")).string()));
  error_of([&] { here->publish("container", {}); }, ErrorCode::AlreadyExists);
  here->withdraw("elsewhere");
  EXPECT_THAT(here->list(), ElementsAre("container", "elsewhere"));
}

TEST(ProcessIdentity, KnowsThisMachineBeforeItsLastBoot) {
  ProcessIdentity self = this_process();
  self.machine_id = "machine";
  ProcessIdentity before = self;
  before.boot_id = "earlier";
  EXPECT_TRUE(is_certainly_gone(before, self));
  before.host += "-other";
  EXPECT_FALSE(is_certainly_gone(before, self)) << "machines cloned from one image";
  before.host = self.host;
  self.machine_id = before.machine_id = "";
  EXPECT_FALSE(is_certainly_gone(before, self));
  EXPECT_FALSE(is_certainly_gone(self, self));
}

TEST_F(FolderExchange, FindsEveryTruncationAndEveryFlippedByte) {
  auto const a = exchange();
  a->publish("w", make_blob(50, 1));
  auto const whole = content_of("w");
  auto const reader = exchange();
  for (std::size_t bytes = 0; bytes < whole.size(); ++bytes) {
    set_content("w", {whole.begin(), whole.begin() + static_cast<std::ptrdiff_t>(bytes)});
    error_of([&] { reader->fetch("w", 0ms); }, ErrorCode::Corrupt);
    EXPECT_THAT(reader->list(), IsEmpty()) << bytes;
  }
  for (std::size_t at = 0; at < whole.size(); ++at) {
    auto flipped = whole;
    flipped[at] = static_cast<char>(flipped[at] ^ 0x10);
    set_content("w", flipped);
    bool const is_version = at >= 8 && at < 12;
    error_of([&] { reader->fetch("w", 0ms); },
             is_version ? ErrorCode::VersionMismatch : ErrorCode::Corrupt);
  }
  auto longer = whole;
  longer.push_back('x');
  set_content("w", longer);
  error_of([&] { reader->fetch("w", 0ms); }, ErrorCode::Corrupt);
  set_content("w", whole);
  EXPECT_EQ(reader->fetch("w", 0ms), make_blob(50, 1));
}

TEST_F(FolderExchange, LeavesAnotherVersionAloneAndReplacesDamage) {
  auto const a = exchange();
  a->publish("w", make_blob(50, 1));
  auto content = content_of("w");
  content[8] = 2;
  set_content("w", content);
  auto const b = exchange();
  EXPECT_THAT(error_of([&] { b->publish("w", {}); }, ErrorCode::AlreadyExists),
              HasSubstr("version 2"));
  content[0] = 'x';
  set_content("w", content);
  b->publish("w", make_blob(5, 2));
  EXPECT_EQ(a->fetch("w", kPatience), make_blob(5, 2));
  a->withdraw("w");  // b's by now
  EXPECT_EQ(a->fetch("w", kPatience), make_blob(5, 2));
}

TEST_F(FolderExchange, FollowsNoLinkAndWaitsForNoPipe) {
  auto const a = exchange();
  a->publish("real", make_blob(5, 2));
  fs::create_symlink(file_of("real"), file_of("link"));
  ASSERT_EQ(mkfifo(file_of("pipe").c_str(), 0600), 0);
  fs::create_directory(file_of("folder"));
  for (std::string const name : {"link", "pipe", "folder"}) {
    EXPECT_THAT(error_of([&] { a->fetch(name, 0ms); }, ErrorCode::Corrupt),
                HasSubstr("regular file"));
  }
  EXPECT_THAT(a->list(), ElementsAre("real"));
}

TEST_F(FolderExchange, IgnoresOtherFilesAndRemovesWhatWasLeftHalfWritten) {
  std::string const mine = "new-" + this_process().boot_id + "-0123";
  for (std::string const& name : {mine, std::string("new-other-boot-0123"), std::string("readme"),
                                  std::string("worker-.meta"), std::string("worker-a b.meta")}) {
    std::ofstream(folder_ / name) << "x";
  }
  auto const a = exchange();
  EXPECT_THAT(a->list(), IsEmpty());
  a->publish("w", {});
  EXPECT_THAT(folder_.list(), ElementsAre("new-other-boot-0123", "publish.lock", "readme",
                                          "worker-.meta", "worker-a b.meta", "worker-w.meta"));
}

TEST_F(FolderExchange, SaysThatTheFolderIsGone) {
  auto const a = exchange();
  fs::remove_all(folder_.path());
  error_of([&] { a->publish("w", {}); }, ErrorCode::Io);
  error_of([&] { a->list(); }, ErrorCode::Io);
  error_of([&] { a->fetch("w", 0ms); }, ErrorCode::Timeout);
}

}  // namespace
}  // namespace kvbm::remote::test
