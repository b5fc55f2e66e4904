// SPDX-License-Identifier: Apache-2.0
//
// A process that writes to a store, or creates one, is killed where it enters or leaves a system
// call, at each of them in turn, and the store is opened again.
#include <fcntl.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <new>

#include "block_file_fixture.hpp"
#include "crash_page.hpp"
#include "memory/file_handle.hpp"
#include "support/test_program.hpp"
#include "syscall_killer.hpp"

namespace kvbm::memory::test {
namespace {

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr std::uint64_t kEvery = 9;  // programs start slowly there
#else
constexpr std::uint64_t kEvery = 1;
#endif

// Memory that the writer maps as well.
class SharedPage {
 public:
  SharedPage() : file_(FileHandle::adopt(memfd_create("kvbm-crash", 0))) {
    if (ftruncate(file_.fd(), kCrashPageBytes) != 0) { throw std::runtime_error("ftruncate"); }
    memory_ =
        mmap(nullptr, kCrashPageBytes, PROT_READ | PROT_WRITE, MAP_SHARED, file_.fd(), 0);
    if (memory_ == MAP_FAILED) { throw std::runtime_error("mmap"); }
    reset();
  }
  ~SharedPage() { munmap(memory_, kCrashPageBytes); }
  SharedPage(SharedPage const&) = delete;
  SharedPage& operator=(SharedPage const&) = delete;

  void reset() { page_ = ::new (memory_) CrashPage; }
  [[nodiscard]] CrashPage const& operator*() const { return *page_; }
  [[nodiscard]] CrashPage const* operator->() const { return page_; }
  [[nodiscard]] int fd() const { return file_.fd(); }

 private:
  FileHandle file_;
  void* memory_ = nullptr;
  CrashPage* page_ = nullptr;
};

struct Outcomes {
  std::uint64_t kept = 0;     // the former content
  std::uint64_t written = 0;  // the new one
  std::uint64_t missing = 0;  // reported
};

class CrashAtSyscall : public BlockFileTest {
 protected:
  void SetUp() override {
    BlockFileTest::SetUp();
    // Leaks cannot be looked for in a traced process.
    char const* const options = std::getenv("ASAN_OPTIONS");
    std::string const wanted = options == nullptr ? "" : std::string(options) + ":";
    setenv("ASAN_OPTIONS", (wanted + "detect_leaks=0").c_str(), 1);
  }

  TracedEnd run_writer(std::string const& what, std::uint64_t generation, std::uint64_t n) {
    page_.reset();
    auto const end = run_and_kill_at(
        {testing::test_program(KVBM_CRASH_STEPS_WRITER), what, path().string(),
         std::string(to_string(GetParam().engine)), GetParam().direct ? "1" : "0",
         std::to_string(page_.fd()), std::to_string(generation)},
        n, [&] { return page_->counting.load() != 0; });
    EXPECT_TRUE(!end.refusal.empty() || end.killed || end.exit_code == 0)
        << "the writer failed with " << end.exit_code;
    return end;
  }

  // Writes that were under way keep the lock for the moment that they need to end.
  static void wait_for_lock(std::filesystem::path const& name) {
    auto const file = FileHandle::open(name, O_RDONLY);
    ASSERT_EQ(flock(file.fd(), LOCK_EX), 0);
  }

  void write_old_content(std::shared_ptr<BlockFile> const& file, std::uint64_t generation) {
    expect_written(file, generation);
    for (std::uint64_t const extent : kFresh) {
      file->invalidate(0, extent);
    }
  }

  // The batch of an extent; as many as there are batches: in none.
  static std::size_t batch_of(std::uint64_t extent) {
    auto const* const found = std::ranges::find_if(kCrashBatches, [&](auto const& batch) {
      return std::ranges::find(batch, extent) != batch.end();
    });
    return static_cast<std::size_t>(found - kCrashBatches.begin());
  }

  void check_extent(std::shared_ptr<BlockFile> const& file, std::uint64_t extent,
                    std::uint64_t generation, Outcomes& outcomes) {
    Failure failure;
    auto const content = read(file, 0, extent, &failure);
    bool const was_empty = std::ranges::find(kFresh, extent) != kFresh.end();
    bool const is_old = was_empty ? failure.code == ErrorCode::NotFound
                                  : content == pattern(kCrashExtentBytes, extent, generation - 1);
    bool const is_new = content == pattern(kCrashExtentBytes, extent, generation);
    bool const is_missing = failure.code == ErrorCode::NotFound;
    std::size_t const batch = batch_of(extent);
    if (batch < page_->done) {
      EXPECT_TRUE(is_new) << "extent " << extent << " was reported written: " << failure.message;
    } else if (batch < page_->begun) {
      EXPECT_TRUE(is_old || is_new || is_missing)
          << "extent " << extent << ": neither old nor new nor missing: " << failure.message;
      outcomes.kept += is_old && !was_empty ? 1 : 0;
      outcomes.written += is_new ? 1 : 0;
      outcomes.missing += is_missing ? 1 : 0;
    } else {
      EXPECT_TRUE(is_old) << "extent " << extent << " was not touched: " << failure.message;
    }
  }

  SharedPage page_;
};

INSTANTIATE_TEST_SUITE_P(Engines, CrashAtSyscall, all_io_cases(), name_of_case);

TEST_P(CrashAtSyscall, EveryBlockOfAnOffloadIsTheOldOneTheNewOneOrMissing) {
  create(crash_groups()).reset();
  Outcomes outcomes;
  std::uint64_t generation = 0;
  bool ended = false;
  for (std::uint64_t n = 1; !ended; n += kEvery) {
    ASSERT_LT(n, 10'000U);
    generation += 2;
    write_old_content(reopen(), generation - 1);
    auto const end = run_writer("offload", generation, n);
    if (!end.refusal.empty()) { GTEST_SKIP() << end.refusal; }
    ended = !end.killed;
    wait_for_lock(path());
    SCOPED_TRACE("killed at step " + std::to_string(n));
    auto const file = reopen();
    for (std::uint64_t extent = 0; extent < kCrashExtents; ++extent) {
      check_extent(file, extent, generation, outcomes);
    }
    if (ended) {
      EXPECT_EQ(page_->done, kCrashBatches.size());
      EXPECT_GT(end.num_steps, 10U) << "nothing was counted";
      RecordProperty("steps", static_cast<int>(end.num_steps));
    }
    ASSERT_FALSE(HasFailure());
  }
  // Had the kills all come too early or too late, nothing would have been shown.
  EXPECT_GT(outcomes.kept, 0U);
  EXPECT_GT(outcomes.written + outcomes.missing, 0U);
  if (kEvery == 1) {
    EXPECT_GT(outcomes.written, 0U);
    EXPECT_GT(outcomes.missing, 0U);
  }
}

TEST_P(CrashAtSyscall, CreationIsCompleteOrCanBeRepeated) {
  bool ended = false;
  std::uint64_t complete = 0;
  std::uint64_t repeated = 0;
  for (std::uint64_t n = 1; !ended; n += kEvery) {
    ASSERT_LT(n, 10'000U);
    auto const end = run_writer("create", 0, n);
    if (!end.refusal.empty()) { GTEST_SKIP() << end.refusal; }
    ended = !end.killed;
    SCOPED_TRACE("killed at step " + std::to_string(n));
    auto const failure = open_failure();
    if (failure.code) {
      EXPECT_EQ(failure.code, ErrorCode::NotFound) << failure.message;
      EXPECT_EQ(page_->done, 0U);
      ++repeated;
    } else {
      ++complete;
    }
    auto const file = failure.code ? create(crash_groups()) : reopen();
    EXPECT_EQ(file->groups(), crash_groups());
    Failure empty;
    EXPECT_EQ(read(file, 0, 0, &empty), std::nullopt);
    EXPECT_EQ(empty.code, ErrorCode::NotFound) << empty.message;
    expect_written(file, 3);
    expect_all_content(file, 3);
    EXPECT_EQ(folder_.list(), (std::vector<std::string>{"tier", "tier.blocks", "tier.manifest"}));
    for (auto const& name : folder_.list()) {
      std::filesystem::remove(folder_ / name);
    }
    ASSERT_FALSE(HasFailure());
  }
  EXPECT_GT(complete, 0U);
  EXPECT_GT(repeated, 0U);
}

}  // namespace
}  // namespace kvbm::memory::test
