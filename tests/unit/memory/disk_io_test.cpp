// SPDX-License-Identifier: Apache-2.0
#include "kvbm/memory/disk_io.hpp"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstddef>
#include <thread>
#include <utility>
#include <vector>

#include "extent_pattern.hpp"
#include "kvbm/core/types.hpp"
#include "kvbm/testing/failure.hpp"
#include "kvbm/testing/temp_folder.hpp"
#include "memory/disk_engines.hpp"
#include "memory/file_handle.hpp"

namespace kvbm::memory {
namespace {

using namespace literals;
using test::AlignedBuffer;
using test::fill_pattern;
using testing::failure_of_call;
using Op = DiskRequest::Op;

class DiskIoTest : public ::testing::TestWithParam<DiskEngine> {
 protected:
  void SetUp() override {
    try {
      io_ = make_disk_io({GetParam(), true, 4, 3});
    } catch (UnsupportedError const& error) { GTEST_SKIP() << error.what(); }
    queue_ = io_->make_queue();
    file_ = FileHandle::open(folder_ / "data", O_CREAT | O_RDWR);
  }

  [[nodiscard]] DiskRequest request(Op op, std::uint64_t offset,
                                    std::span<std::byte> memory) const {
    return {op, file_.fd(), offset, memory.data(), memory.size()};
  }

  kvbm::testing::TempFolder folder_;
  std::shared_ptr<DiskIo> io_;
  std::unique_ptr<DiskQueue> queue_;
  FileHandle file_;
};

TEST_P(DiskIoTest, MovesManyMoreBytesThanItsDepth) {
  AlignedBuffer const out(7_MiB + 123);
  fill_pattern(out.span(), 1, 1);
  std::vector<DiskRequest> writes;
  for (std::size_t at = 0; at < 3_MiB; at += 64_KiB) {
    writes.push_back(request(Op::Write, at, out.span().subspan(at, 64_KiB)));
  }
  writes.push_back(request(Op::Write, 3_MiB, out.span().subspan(3_MiB)));  // split inside
  queue_->start(writes);
  EXPECT_EQ(queue_->finish(), std::vector<int>(writes.size(), 0));

  AlignedBuffer const in(out.size());
  auto const read = request(Op::Read, 0, in.span());
  queue_->start({&read, 1});
  EXPECT_EQ(queue_->finish(), std::vector<int>{0});
  EXPECT_TRUE(std::ranges::equal(in.span(), out.span()));
}

TEST_P(DiskIoTest, NothingToDoIsReadyAtOnce) {
  EXPECT_TRUE(queue_->finish().empty());
  std::vector<DiskCompletion> done;
  EXPECT_EQ(queue_->wait_some(done), 0U);
  queue_->start({});
  EXPECT_TRUE(queue_->finish().empty());
  DiskRequest const empty{Op::Read, file_.fd(), 0, nullptr, 0};
  queue_->start({&empty, 1});
  EXPECT_EQ(queue_->finish(), std::vector<int>{0});
}

TEST_P(DiskIoTest, EachRequestHasItsOwnErrno) {
  AlignedBuffer const buffer(12_KiB);
  auto const bytes = buffer.span();
  std::array const requests{
      request(Op::Write, 0, bytes.first(4096)),
      DiskRequest{Op::Read, -1, 0, bytes.data() + 4096, 4096},
      request(Op::Read, 1_MiB, bytes.subspan(8192)),  // beyond the end
  };
  queue_->start(requests);
  EXPECT_EQ(queue_->finish(), (std::vector<int>{0, EBADF, ENODATA}));
}

TEST_P(DiskIoTest, FileThatEndsInsideAReadIsNoData) {
  AlignedBuffer const buffer(3_MiB);
  ASSERT_EQ(ftruncate(file_.fd(), 1_MiB + 100), 0);
  auto const read = request(Op::Read, 0, buffer.span());
  queue_->start({&read, 1});
  EXPECT_EQ(queue_->finish(), std::vector<int>{ENODATA});
  int error = 0;
  auto const direct = FileHandle::try_open(folder_ / "data", O_RDONLY | O_DIRECT, error);
  if (error != 0) { GTEST_SKIP() << "no direct I/O here: " << describe_errno(error); }
  DiskRequest const direct_read{Op::Read, direct.fd(), 0, buffer.data(), buffer.size()};
  queue_->start({&direct_read, 1});
  EXPECT_EQ(queue_->finish(), std::vector<int>{ENODATA});
}

// The kernel's own short write: the first part fits, the rest does not.
TEST_P(DiskIoTest, A5_ShortWriteIsContinuedUntilTheErrno) {
  kvbm::testing::SmallFileSystem const disk(256 * 1024);
  if (!disk.refusal().empty()) { GTEST_SKIP() << disk.refusal(); }
  auto const file = FileHandle::open(disk.path() / "data", O_CREAT | O_RDWR);
  AlignedBuffer const buffer(512_KiB);
  DiskRequest const write{Op::Write, file.fd(), 0, buffer.data(), buffer.size()};
  queue_->start({&write, 1});
  EXPECT_EQ(queue_->finish(), std::vector<int>{ENOSPC});
  EXPECT_GT(file.status("data").st_size, 0);
}

TEST_P(DiskIoTest, WaitSomeNamesEachRequestOnceAndFinishAllAgain) {
  AlignedBuffer const buffer(1_MiB);
  std::vector<DiskRequest> writes;
  for (std::size_t at = 0; at < 1_MiB; at += 16_KiB) {
    writes.push_back(request(Op::Write, at, buffer.span().subspan(at, 16_KiB)));
  }
  writes[5].fd = -1;
  std::vector<DiskCompletion> done;
  queue_->start(std::span(writes).first(40));
  EXPECT_GT(queue_->wait_some(done), 0U);
  queue_->start(std::span(writes).subspan(40));
  while (queue_->wait_some(done) > 0) {}
  ASSERT_EQ(done.size(), writes.size());
  std::ranges::sort(done, {}, &DiskCompletion::request);
  for (std::size_t i = 0; i < done.size(); ++i) {
    EXPECT_EQ(done[i].request, i);
    EXPECT_EQ(done[i].error, i == 5 ? EBADF : 0);
  }
  auto const all = queue_->finish();
  EXPECT_EQ(all.size(), writes.size());
  EXPECT_EQ(all[5], EBADF);
  EXPECT_TRUE(queue_->finish().empty());
}

TEST_P(DiskIoTest, RegisteredBuffersMoveTheSameBytes) {
  AlignedBuffer const out(2_MiB);
  AlignedBuffer const other(64_KiB);
  fill_pattern(out.span(), 3, 1);
  queue_->register_buffer(out.span());
  auto const write = request(Op::Write, 0, out.span());
  auto const other_write = request(Op::Write, 4_MiB, other.span());
  queue_->start({&write, 1});
  queue_->register_buffer(other.span());  // may take effect only once nothing is under way
  queue_->start({&other_write, 1});
  EXPECT_EQ(queue_->finish(), (std::vector<int>{0, 0}));
  AlignedBuffer const in(2_MiB);
  auto const read = request(Op::Read, 0, in.span());
  queue_->start({&read, 1});
  EXPECT_EQ(queue_->finish(), std::vector<int>{0});
  EXPECT_TRUE(std::ranges::equal(in.span(), out.span()));
  queue_->register_buffer({});
  queue_->start({&read, 1});
  EXPECT_EQ(queue_->finish(), std::vector<int>{0});
}

TEST_P(DiskIoTest, QueuesOfOneEngineWorkSideBySide) {
  std::vector<int> failures(4, -1);
  {
    std::vector<std::jthread> threads;
    for (unsigned id = 0; id < failures.size(); ++id) {
      threads.emplace_back([this, id, &failures] {
        auto const queue = io_->make_queue();
        AlignedBuffer const out(256_KiB);
        AlignedBuffer const in(256_KiB);
        int bad = 0;
        for (unsigned round = 0; round < 5; ++round) {
          fill_pattern(out.span(), id, round);
          auto const write = request(Op::Write, id * 1_MiB, out.span());
          queue->start({&write, 1});
          bad += queue->finish() != std::vector<int>{0};
          auto const read = request(Op::Read, id * 1_MiB, in.span());
          queue->start({&read, 1});
          bad += queue->finish() != std::vector<int>{0};
          bad += !std::ranges::equal(in.span(), out.span());
        }
        failures[id] = bad;
      });
    }
  }
  EXPECT_EQ(failures, std::vector<int>(failures.size(), 0));
}

// Work started by a thread that is gone when its end is waited for.
TEST_P(DiskIoTest, WorkSurvivesTheThreadThatStartedIt) {
  AlignedBuffer const out(4_MiB);
  fill_pattern(out.span(), 9, 1);
  auto const write = request(Op::Write, 0, out.span());
  std::jthread([&] { queue_->start({&write, 1}); }).join();
  EXPECT_EQ(queue_->finish(), std::vector<int>{0});
  AlignedBuffer const in(4_MiB);
  auto const read = request(Op::Read, 0, in.span());
  queue_->start({&read, 1});
  EXPECT_EQ(queue_->finish(), std::vector<int>{0});
  EXPECT_TRUE(std::ranges::equal(in.span(), out.span()));
}

TEST_P(DiskIoTest, DestroyingAQueueWaitsForItsWork) {
  AlignedBuffer const out(4_MiB);
  fill_pattern(out.span(), 4, 1);
  auto const write = request(Op::Write, 0, out.span());
  queue_->start({&write, 1});
  queue_.reset();
  io_.reset();
  AlignedBuffer const in(4_MiB);
  ASSERT_EQ(file_.read_at(in.span(), 0), 0);
  EXPECT_TRUE(std::ranges::equal(in.span(), out.span()));
}

TEST_P(DiskIoTest, SaysWhatItIs) {
  EXPECT_EQ(io_->engine(), GetParam());
  EXPECT_EQ(io_->options().queue_depth, 4U);
  EXPECT_NE(io_->reason().find("asked for"), std::string::npos) << io_->reason();
}

INSTANTIATE_TEST_SUITE_P(Engines, DiskIoTest,
                         ::testing::Values(DiskEngine::IoUring, DiskEngine::Threads),
                         [](auto const& test) { return std::string(to_string(test.param)); });

TEST(ChooseEngine, FollowsTheProbeAndSaysWhy) {
  auto const no = [] { return UringProbe{false, "io_uring_queue_init: refused"}; };
  auto const yes = [] { return UringProbe{true, "works"}; };
  EXPECT_EQ(choose_engine(DiskEngine::Auto, yes).engine, DiskEngine::IoUring);
  auto const fallback = choose_engine(DiskEngine::Auto, no);
  EXPECT_EQ(fallback.engine, DiskEngine::Threads);
  EXPECT_EQ(fallback.reason, "io_uring_queue_init: refused");
  EXPECT_EQ(choose_engine(DiskEngine::Threads, yes).reason, "asked for");
  auto const refused = failure_of_call([&] { return choose_engine(DiskEngine::IoUring, no); });
  EXPECT_EQ(refused.code, ErrorCode::Unsupported);
  EXPECT_NE(refused.message.find("refused"), std::string::npos);
}

TEST(MakeDiskIo, RefusesSillyOptions) {
  auto const code = [](DiskIoOptions const& options) {
    return failure_of_call([&] { return make_disk_io(options); }).code;
  };
  EXPECT_EQ(code({DiskEngine::Threads, true, 0, 8}), ErrorCode::InvalidArgument);
  EXPECT_EQ(code({DiskEngine::Threads, true, 5000, 8}), ErrorCode::InvalidArgument);
  EXPECT_EQ(code({DiskEngine::Threads, true, 64, 0}), ErrorCode::InvalidArgument);
}

// What container runtimes do: the system call fails with EPERM.
bool forbid_io_uring() {
  std::array<sock_filter, 4> filter{
      sock_filter BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
      sock_filter BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_io_uring_setup, 0, 1),
      sock_filter BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
      sock_filter BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)};
  sock_fprog const program{static_cast<unsigned short>(filter.size()), filter.data()};
  return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 &&
         prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0;
}

[[noreturn]] void make_disk_io_in_a_sandbox() {
  if (!forbid_io_uring()) { _exit(2); }
  auto const io = make_disk_io();
  auto const refused =
      failure_of_call([] { return make_disk_io({DiskEngine::IoUring, true, 64, 8}); });
  bool const right = io->engine() == DiskEngine::Threads &&
                     io->reason().find("Operation not permitted") != std::string::npos &&
                     refused.code == ErrorCode::Unsupported;
  _exit(right ? 0 : 1);
}

TEST(MakeDiskIoDeathTest, GoesOnWithThreadsWhereTheSandboxForbidsIoUring) {
#if !KVBM_HAVE_URING
  GTEST_SKIP() << "built without liburing";
#endif
  EXPECT_EXIT(make_disk_io_in_a_sandbox(), ::testing::ExitedWithCode(0), "");
}

}  // namespace
}  // namespace kvbm::memory
