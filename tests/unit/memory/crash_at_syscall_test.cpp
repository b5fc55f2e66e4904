// SPDX-License-Identifier: Apache-2.0
//
// A process that writes to a store, or creates one, is killed where it enters or leaves a system
// call, at each of them in turn, and the store is opened again.
#include <fcntl.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <new>
#include <set>
#include <stdexcept>

#include "block_file_fixture.hpp"
#include "crash_page.hpp"
#include "kvbm/memory/striped_file.hpp"
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
    memory_ = mmap(nullptr, kCrashPageBytes, PROT_READ | PROT_WRITE, MAP_SHARED, file_.fd(), 0);
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

// Where fsync costs nothing: a creation is full of it. The kernel does not tell the difference.
class FastFolder {
 public:
  FastFolder() {
    std::string pattern = "/dev/shm/kvbm-test-XXXXXX";
    if (mkdtemp(pattern.data()) == nullptr) {
      pattern = (std::filesystem::temp_directory_path() / "kvbm-test-XXXXXX").string();
      if (mkdtemp(pattern.data()) == nullptr) { throw std::runtime_error("mkdtemp"); }
    }
    path_ = pattern;
  }
  ~FastFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  FastFolder(FastFolder const&) = delete;
  FastFolder& operator=(FastFolder const&) = delete;
  [[nodiscard]] std::filesystem::path const& path() const { return path_; }
  [[nodiscard]] std::set<std::string> list() const {
    std::set<std::string> names;
    for (auto const& entry : std::filesystem::directory_iterator(path_)) {
      names.insert(entry.path().filename().string());
    }
    return names;
  }
  void clear() const {
    for (auto const& name : list()) {
      std::filesystem::remove(path_ / name);
    }
  }

 private:
  std::filesystem::path path_;
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

  TracedEnd run_writer(std::string const& what, std::filesystem::path const& where,
                       std::uint64_t argument, std::uint64_t n) {
    page_.reset();
    auto const end =
        run_and_kill_at({testing::test_program(KVBM_CRASH_STEPS_WRITER), what, where.string(),
                         std::string(to_string(GetParam().engine)), GetParam().direct ? "1" : "0",
                         std::to_string(page_.fd()), std::to_string(argument)},
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

  std::shared_ptr<BlockStore> create_store(std::filesystem::path const& where, std::size_t parts) {
    if (parts == 1) { return BlockFile::create({where, crash_groups(), "layout", false}, io_); }
    return StripedFile::create({crash_paths(where, parts), crash_groups(), "layout"}, io_);
  }
  std::shared_ptr<BlockStore> open_store(std::filesystem::path const& where) {
    return open_block_store(where, OpenMode::ReadWrite, io_);
  }

  void write_old_content(std::shared_ptr<BlockStore> const& store, std::uint64_t generation) {
    write_store(store, generation);
    for (std::uint64_t const extent : kFresh) {
      store->invalidate(0, extent);
    }
  }
  static void write_store(std::shared_ptr<BlockStore> const& store, std::uint64_t generation) {
    AlignedBuffer const buffer(kCrashExtents * kCrashExtentStride);
    auto const queue = store->make_queue();
    queue->start_write(store, extents_in(buffer, [&](std::uint64_t extent, auto content) {
                         fill_pattern(content, extent, generation);
                       }));
    for (auto const& error : queue->finish()) {
      EXPECT_EQ(error, nullptr) << failure_of(error).message;
    }
  }
  template <typename Fill>
  static std::vector<ExtentIo> extents_in(AlignedBuffer const& buffer, Fill fill) {
    std::vector<ExtentIo> extents;
    for (std::uint64_t extent = 0; extent < kCrashExtents; ++extent) {
      auto* const memory = buffer.data() + extent * kCrashExtentStride;
      fill(extent, std::span(memory, kCrashExtentBytes));
      extents.push_back({0, extent, memory, kCrashExtentStride});
    }
    return extents;
  }

  // The batch of an extent; as many as there are batches: in none.
  static std::size_t batch_of(std::uint64_t extent) {
    auto const* const found = std::ranges::find_if(kCrashBatches, [&](auto const& batch) {
      return std::ranges::find(batch, extent) != batch.end();
    });
    return static_cast<std::size_t>(found - kCrashBatches.begin());
  }

  void check_store(std::shared_ptr<BlockStore> const& store, std::uint64_t generation,
                   Outcomes& outcomes) {
    AlignedBuffer const buffer(kCrashExtents * kCrashExtentStride);
    auto const queue = store->make_queue();
    auto const extents = extents_in(buffer, [](std::uint64_t, auto) {});
    queue->start_read(store, extents);
    auto const errors = queue->finish();
    for (std::uint64_t extent = 0; extent < kCrashExtents; ++extent) {
      check_extent(extents[extent], failure_of(errors[extent]), generation, outcomes);
    }
  }

  void check_extent(ExtentIo const& io, Failure const& failure, std::uint64_t generation,
                    Outcomes& outcomes) {
    std::uint64_t const extent = io.extent;
    auto const holds = [&](std::uint64_t wanted) {
      return !failure.code && std::ranges::equal(std::span(io.memory, kCrashExtentBytes),
                                                 pattern(kCrashExtentBytes, extent, wanted));
    };
    bool const was_empty = std::ranges::find(kFresh, extent) != kFresh.end();
    bool const is_missing = failure.code == ErrorCode::NotFound;
    bool const is_old = was_empty ? is_missing : holds(generation - 1);
    bool const is_new = holds(generation);
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

  void kill_offload_everywhere(std::size_t parts);
  void kill_creation_everywhere(std::size_t parts);

  SharedPage page_;
};

INSTANTIATE_TEST_SUITE_P(Engines, CrashAtSyscall, all_io_cases(), name_of_case);

void CrashAtSyscall::kill_offload_everywhere(std::size_t parts) {
  create_store(path(), parts).reset();
  Outcomes outcomes;
  std::uint64_t generation = 0;
  bool ended = false;
  for (std::uint64_t n = 1; !ended; n += kEvery) {
    ASSERT_LT(n, 10'000U);
    generation += 2;
    write_old_content(open_store(path()), generation - 1);
    auto const end = run_writer("offload", path(), generation, n);
    if (!end.refusal.empty()) { GTEST_SKIP() << end.refusal; }
    ended = !end.killed;
    for (auto const& part : crash_paths(path(), parts)) {
      wait_for_lock(part);
    }
    SCOPED_TRACE("killed at step " + std::to_string(n));
    check_store(open_store(path()), generation, outcomes);
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
  // How threads take turns decides which of their steps are seen.
  if (kEvery == 1 && GetParam().engine == DiskEngine::IoUring) {
    EXPECT_GT(outcomes.written, 0U);
    EXPECT_GT(outcomes.missing, 0U);
  }
}

void CrashAtSyscall::kill_creation_everywhere(std::size_t parts) {
  if (GetParam().engine != make_disk_io()->engine()) { GTEST_SKIP() << "no engine takes part"; }
  FastFolder const folder;
  auto const where = folder.path() / "tier";
  bool ended = false;
  std::uint64_t complete = 0;
  std::uint64_t repeated = 0;
  std::set<std::string> names;
  for (std::uint64_t n = 1; !ended; n += kEvery) {
    ASSERT_LT(n, 10'000U);
    auto const end = run_writer("create", where, parts, n);
    if (!end.refusal.empty()) { GTEST_SKIP() << end.refusal; }
    ended = !end.killed;
    SCOPED_TRACE("killed at step " + std::to_string(n));
    auto const failure = failure_of_call([&] { return open_store(where); });
    if (failure.code) {
      EXPECT_EQ(failure.code, ErrorCode::NotFound) << failure.message;
      EXPECT_EQ(page_->done, 0U);
    }
    ++(failure.code ? repeated : complete);
    auto const store = failure.code ? create_store(where, parts) : open_store(where);
    EXPECT_EQ(store->groups(), crash_groups());
    for (std::uint64_t extent = 0; extent < kCrashExtents; ++extent) {
      EXPECT_EQ(store->status(0, extent), ExtentStatus::Empty);
    }
    write_store(store, 3);
    for (std::uint64_t extent = 0; extent < kCrashExtents; ++extent) {
      EXPECT_EQ(store->status(0, extent), ExtentStatus::Written);
    }
    if (names.empty()) { names = folder.list(); }
    EXPECT_EQ(folder.list(), names);
    EXPECT_EQ(names.size(), 3 * parts + (parts > 1 ? 1 : 0));
    folder.clear();
    ASSERT_FALSE(HasFailure());
  }
  EXPECT_GT(complete, 0U);
  EXPECT_GT(repeated, 0U);
}

TEST_P(CrashAtSyscall, EveryBlockOfAnOffloadIsTheOldOneTheNewOneOrMissing) {
  kill_offload_everywhere(1);
}

TEST_P(CrashAtSyscall, EveryBlockOfAStripedOffloadIsTheOldOneTheNewOneOrMissing) {
  if (!GetParam().direct) { GTEST_SKIP() << "as with one file"; }
  kill_offload_everywhere(2);
}

TEST_P(CrashAtSyscall, CreationIsCompleteOrCanBeRepeated) { kill_creation_everywhere(1); }

TEST_P(CrashAtSyscall, StripedCreationIsCompleteOrCanBeRepeated) { kill_creation_everywhere(2); }

}  // namespace
}  // namespace kvbm::memory::test
