// SPDX-License-Identifier: Apache-2.0
#include "kvbm/memory/scrub.hpp"

#include <atomic>
#include <future>
#include <mutex>
#include <set>
#include <thread>

#include "block_file_fixture.hpp"
#include "fake_block_store.hpp"

namespace kvbm::memory::test {
namespace {

using Key = FakeBlockStore::Key;

ScrubOptions one_pass() {
  ScrubOptions options;
  options.bytes_per_second = 0;
  options.batch_bytes = 3 * kFileAlignment;
  options.max_passes = 1;
  return options;
}

/// What a scrubber reported.
class Reports {
 public:
  Scrubber::Report recorder() {
    return [this](DamagedExtent const& damage) {
      std::lock_guard const lock(mutex_);
      reports_.push_back(damage);
    };
  }
  [[nodiscard]] std::vector<DamagedExtent> all() const {
    std::lock_guard const lock(mutex_);
    return reports_;
  }

 private:
  mutable std::mutex mutex_;
  std::vector<DamagedExtent> reports_;
};

class ScrubberOfFake : public ::testing::Test {
 protected:
  void SetUp() override {
    for (std::uint64_t e = 0; e < 10; ++e) {
      if (e != 4) { store_->put({0, e}, 1); }
    }
    store_->put({1, 1}, 1);
  }

  ScrubCounters scrub(ScrubOptions const& options = one_pass()) {
    Scrubber const scrubber(store_, options, reports_.recorder());
    EXPECT_TRUE(scrubber.wait_for_passes(1));
    return scrubber.counters();
  }

  std::shared_ptr<FakeBlockStore> store_ = std::make_shared<FakeBlockStore>(
      std::vector<ExtentGroup>{{0, 5000, 8192, 10}, {81920, 100, 4096, 3}});
  Reports reports_;
};

TEST_F(ScrubberOfFake, ReadsAllThatWasWrittenInOrder) {
  std::vector<Key> seen;
  store_->on_read([&](Key key) { seen.push_back(key); });
  ScrubCounters const counters = scrub();
  EXPECT_EQ(counters.passes, 1U);
  EXPECT_EQ(counters.extents_checked, 10U);
  EXPECT_EQ(counters.bytes_checked, 9U * 5000U + 100U);
  EXPECT_EQ(counters.damaged, 0U);
  std::vector<Key> written = seen;
  std::erase_if(written,
                [](Key key) { return key == Key{0, 4} || key == Key{1, 0} || key == Key{1, 2}; });
  EXPECT_EQ(written.size(), 10U);
  EXPECT_TRUE(std::ranges::is_sorted(written));
  EXPECT_TRUE(reports_.all().empty());
}

TEST_F(ScrubberOfFake, ReportsEachDamagedExtentOnce) {
  store_->flip_bit({0, 7});
  store_->flip_bit({1, 1});
  EXPECT_EQ(scrub().damaged, 2U);
  auto const reports = reports_.all();
  ASSERT_EQ(reports.size(), 2U);
  EXPECT_EQ(reports[0].store, "fake");
  EXPECT_EQ((Key{reports[0].group, reports[0].extent}), (Key{0, 7}));
  EXPECT_EQ((Key{reports[1].group, reports[1].extent}), (Key{1, 1}));
  EXPECT_EQ(failure_of(reports[0].error).code, ErrorCode::Corrupt);
  EXPECT_FALSE(reports[0].invalidated);
  EXPECT_NE(store_->checksum(0, 7), std::nullopt);
}

TEST_F(ScrubberOfFake, ForgetsWhatIsDamagedWhereAsked) {
  store_->flip_bit({0, 7});
  store_->fail_reads({0, 2}, std::make_exception_ptr(Error(ErrorCode::Io, "bad sector", EIO)));
  auto options = one_pass();
  options.invalidate_damaged = true;
  EXPECT_EQ(scrub(options).damaged, 2U);
  auto const reports = reports_.all();
  ASSERT_EQ(reports.size(), 2U);
  EXPECT_FALSE(reports[0].invalidated) << "what cannot be read may come back";
  EXPECT_TRUE(reports[1].invalidated);
  EXPECT_NE(store_->checksum(0, 2), std::nullopt);
  EXPECT_EQ(store_->checksum(0, 7), std::nullopt);
  EXPECT_EQ(scrub(options).damaged, 1U);

  store_->set_writable(false);
  EXPECT_EQ(failure_of_call([&] { return std::make_unique<Scrubber>(store_, options); }).code,
            ErrorCode::InvalidArgument);
  EXPECT_EQ(failure_of_call([&] { return std::make_unique<Scrubber>(nullptr, options); }).code,
            ErrorCode::InvalidArgument);
}

TEST_F(ScrubberOfFake, OverwritesMeanwhileAreNoDamage) {
  std::uint64_t generation = 1;
  store_->on_read([&](Key key) {
    if (key == Key{0, 3}) { store_->put(key, ++generation); }  // between checksum and bytes
    if (key == Key{0, 5}) { store_->invalidate(0, 5); }
  });
  ScrubCounters const counters = scrub();
  EXPECT_EQ(counters.damaged, 0U);
  EXPECT_EQ(counters.overwritten, 1U);
  EXPECT_TRUE(reports_.all().empty());
}

TEST_F(ScrubberOfFake, DamageThatASecondReadDoesNotFindIsNotReported) {
  bool first = true;
  store_->on_read([&](Key key) {
    // As if the same content had been written again while it was read.
    if (key == Key{0, 6}) {
      if (first) {
        store_->flip_bit(key);
      } else {
        store_->put(key, 1);
      }
      first = false;
    }
  });
  EXPECT_EQ(scrub().damaged, 0U);
  EXPECT_FALSE(first);
}

TEST_F(ScrubberOfFake, StoreThatCannotBeReachedEndsThePassWithoutAVerdict) {
  store_->fail_reads({0, 2}, std::make_exception_ptr(TimeoutError("no answer")));
  ScrubCounters const counters = scrub();
  EXPECT_EQ(counters.failed_passes, 1U);
  EXPECT_EQ(counters.passes, 0U);
  EXPECT_EQ(counters.damaged, 0U);
}

TEST_F(ScrubberOfFake, StopsWhileItWaitsForItsRateWhilePausedAndBetweenPasses) {
  auto slow = one_pass();
  slow.bytes_per_second = 1;  // the second batch would start hours later
  {
    std::promise<void> reading;
    std::atomic<bool> told = false;
    store_->on_read([&](Key) {
      if (!told.exchange(true)) { reading.set_value(); }
    });
    Scrubber scrubber(store_, slow);
    reading.get_future().wait();
    EXPECT_TRUE(scrubber.is_running());
    scrubber.stop();
    EXPECT_FALSE(scrubber.is_running());
    EXPECT_FALSE(scrubber.wait_for_passes(1));
    scrubber.stop();
  }
  store_->on_read({});
  {
    auto options = one_pass();
    options.max_passes = 0;
    Scrubber scrubber(store_, options);
    ASSERT_TRUE(scrubber.wait_for_passes(1));
    scrubber.pause();
    scrubber.start_pass();
    EXPECT_TRUE(scrubber.is_running());
  }
}

TEST_F(ScrubberOfFake, PauseKeepsItFromReading) {
  auto options = one_pass();
  options.max_passes = 0;
  std::atomic<std::uint64_t> reads = 0;
  std::promise<void> reached;
  std::promise<void> go_on;
  auto const gate = go_on.get_future().share();
  store_->on_read([&](Key) {
    if (++reads == 1) {
      reached.set_value();
      gate.wait();
    }
  });
  Scrubber scrubber(store_, options);
  reached.get_future().wait();
  scrubber.pause();  // in the first batch
  go_on.set_value();
  // One extent fits into a batch, two do not: the second batch is not read until resume().
  while (scrubber.counters().extents_checked == 0) {
    std::this_thread::yield();
  }
  EXPECT_EQ(reads, 1U);
  EXPECT_EQ(scrubber.counters().extents_checked, 1U);
  scrubber.resume();
  EXPECT_TRUE(scrubber.wait_for_passes(1));
  EXPECT_EQ(scrubber.counters().extents_checked, 10U);
}

TEST_F(ScrubberOfFake, StartsTheNextPassWhenAskedAndSurvivesAReportThatThrows) {
  store_->flip_bit({0, 0});
  auto options = one_pass();
  options.max_passes = 0;
  Scrubber scrubber(store_, options, [](DamagedExtent const&) { throw std::runtime_error("no"); });
  ASSERT_TRUE(scrubber.wait_for_passes(1));
  scrubber.start_pass();
  ASSERT_TRUE(scrubber.wait_for_passes(2, std::chrono::hours(1)));
  EXPECT_FALSE(scrubber.wait_for_passes(3, std::chrono::nanoseconds(0)));
  EXPECT_EQ(scrubber.counters().damaged, 2U);
}

class ScrubberOfFile : public BlockFileTest {};

INSTANTIATE_TEST_SUITE_P(Engines, ScrubberOfFile, all_io_cases(), name_of_case);

TEST_P(ScrubberOfFile, FindsFlippedBitsInDataAndRecords) {
  create({{0, 20000, 20480, 200}}).reset();
  {
    auto const file = reopen();
    expect_written(file, 1);
    file->invalidate(0, 9);
  }
  flip_bit(path(), 150 * 20480 + 19999);
  flip_bit(path(), 9 * 20480);                // of one that holds nothing
  flip_bit(path(), 20 * 20480 + 20000);       // between two extents
  flip_bit(sibling(".blocks"), 77 * 32 + 3);  // the checksum of extent 77
  auto const file = reopen();
  Reports reports;
  auto options = one_pass();
  options.batch_bytes = 1 << 20U;
  options.invalidate_damaged = true;
  Scrubber const scrubber(file, options, reports.recorder());
  ASSERT_TRUE(scrubber.wait_for_passes(1));
  EXPECT_EQ(scrubber.counters().extents_checked, 199U);
  auto const found = reports.all();
  ASSERT_EQ(found.size(), 2U);
  EXPECT_EQ(found[0].extent, 77U);
  EXPECT_EQ(found[1].extent, 150U);
  EXPECT_EQ(file->status(0, 77), ExtentStatus::Empty);
  EXPECT_EQ(file->status(0, 150), ExtentStatus::Empty);
  EXPECT_EQ(file->status(0, 149), ExtentStatus::Written);
}

TEST_P(ScrubberOfFile, WritersAreNeverTakenForDamage) {
  auto const file = create({{0, 20000, 20480, 16}});
  expect_written(file, 1);
  auto options = one_pass();
  options.max_passes = 30;
  options.between_passes = std::chrono::milliseconds(0);
  Reports reports;
  Scrubber const scrubber(file, options, reports.recorder());
  std::uint64_t generation = 1;
  while (scrubber.is_running()) {
    expect_written(file, ++generation);
  }
  EXPECT_EQ(scrubber.counters().passes, 30U);
  EXPECT_TRUE(reports.all().empty());
  expect_all_content(file, generation);
}

}  // namespace
}  // namespace kvbm::memory::test
