// SPDX-License-Identifier: Apache-2.0
#include <fcntl.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/wait.h>

#include "block_file_fixture.hpp"
#include "kvbm/testing/child_process.hpp"
#include "memory/file_handle.hpp"
#include "support/test_program.hpp"

namespace kvbm::memory::test {
namespace {

constexpr std::uint64_t kExtents = 32;
constexpr std::uint64_t kBatch = 8;

class BlockFileCrash : public BlockFileTest {
 protected:
  struct Progress {
    std::uint64_t begun = 0;
    std::uint64_t done = 0;
  };

  // Runs the writer and kills it once its n-th batch is under way.
  Progress kill_in_batch(std::uint64_t n) const {
    testing::LineProcess writer(testing::test_program(KVBM_CRASH_WRITER),
                                {path().string(), std::string(to_string(GetParam().engine)),
                                 GetParam().direct ? "1" : "0", std::to_string(kBatch)});
    Progress progress;
    std::uint64_t started = 0;
    for (char what = writer.next(); what != '\0'; what = writer.next()) {
      progress.begun += what == 'B';
      progress.done += what == 'D';
      started += what == 'S';
      if (started == n) { writer.send_signal(SIGKILL); }
    }
    int const status = writer.wait();
    EXPECT_TRUE(WIFSIGNALED(status)) << "the writer ended by itself: " << status;
    wait_for_lock();
    return progress;
  }

  // Writes that were under way keep the lock for the moment that they need to end.
  void wait_for_lock() const {
    auto const file = FileHandle::open(path(), O_RDONLY);
    ASSERT_EQ(flock(file.fd(), LOCK_EX), 0);
  }
};

INSTANTIATE_TEST_SUITE_P(Engines, BlockFileCrash, all_io_cases(), name_of_case);

TEST_P(BlockFileCrash, KilledWriterLeavesOldOrNewContentOrAnErrorNeverGarbage) {
  constexpr std::uint64_t kBatches = kExtents / kBatch;
  for (std::uint64_t const n : {1U, 2U, 4U, 5U, 7U, 10U}) {
    create({{0, 200'000, 200'704, kExtents}}).reset();
    Progress const progress = kill_in_batch(n);
    EXPECT_GE(progress.begun, n);
    EXPECT_LE(progress.begun - progress.done, 1U);

    auto const file = reopen();
    for (std::uint64_t extent = 0; extent < kExtents; ++extent) {
      std::uint64_t const batch = extent / kBatch;
      std::uint64_t const whole = progress.done / kBatches + (batch < progress.done % kBatches);
      bool const in_flight = progress.begun > progress.done && progress.done % kBatches == batch;
      Failure failure;
      auto const content = read(file, 0, extent, &failure);
      if (content) {
        bool const is_old = whole > 0 && *content == pattern(200'000, extent, whole);
        bool const is_new = in_flight && *content == pattern(200'000, extent, whole + 1);
        EXPECT_TRUE(is_old || is_new) << "garbage in extent " << extent << ", killed at " << n;
      } else if (in_flight) {
        EXPECT_TRUE(failure.code == ErrorCode::NotFound || failure.code == ErrorCode::Corrupt)
            << failure.message;
      } else {
        EXPECT_EQ(failure.code, ErrorCode::NotFound) << failure.message;
        EXPECT_EQ(whole, 0U) << "extent " << extent << " was reported done: " << failure.message;
      }
    }
    expect_written(file, 77);
    expect_all_content(file, 77);
    for (auto const& name : folder_.list()) {
      std::filesystem::remove(folder_ / name);
    }
  }
}

}  // namespace
}  // namespace kvbm::memory::test
