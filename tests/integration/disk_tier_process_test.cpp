// SPDX-License-Identifier: Apache-2.0
//
// The disk tier over two processes: reopened by another one, killed in the middle of an offload.
#include <fcntl.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/wait.h>
#include <unistd.h>

#include <string>
#include <vector>

#include "integration/tier.hpp"
#include "kvbm/testing/child_process.hpp"
#include "support/test_program.hpp"

namespace kvbm::testing {
namespace {

class TierProcess : public ::testing::TestWithParam<LayoutShape> {
 protected:
  [[nodiscard]] std::filesystem::path path() const { return folder_ / "tier"; }
  // What another process that reads the tier ends with.
  [[nodiscard]] int check(std::string const& seed) const {
    return LineProcess(test_program(KVBM_TIER_PROCESS), {"check", path().string(), seed}).wait();
  }
  // Writes that were under way keep the lock for the moment that they need to end.
  void wait_for_lock() const {
    int const file = open(path().c_str(), O_RDONLY | O_CLOEXEC);
    ASSERT_EQ(flock(file, LOCK_EX), 0);
    close(file);
  }
  TempFolder folder_;
};

INSTANTIATE_TEST_SUITE_P(
    Kinds, TierProcess,
    ::testing::Values(contiguous(KvBlockLayout::UniversalTP),
                      layer_wise(BlockDimension::Second, KvBlockLayout::OperationalNHD)),
    [](auto const& kind) { return std::string(kind.index == 0 ? "Contiguous" : "LayerWise"); });

TEST_P(TierProcess, BlocksAreReadByALaterProcess) {
  {
    auto manager = small_manager().build();
    auto const tier = create_tier(manager, path(), GetParam());
    auto const cache = make_cache(manager);
    write_all_blocks(cache, 42);
    move_blocks(manager, cache, first_blocks(kTierBlocks), tier, first_blocks(kTierBlocks)).wait();
    int const busy = check("42");
    EXPECT_TRUE(WIFEXITED(busy) && WEXITSTATUS(busy) == 1) << "opened twice: " << busy;
  }
  int const right = check("42");
  EXPECT_TRUE(WIFEXITED(right) && WEXITSTATUS(right) == 0) << right;
  int const wrong = check("43");
  EXPECT_TRUE(WIFEXITED(wrong) && WEXITSTATUS(wrong) == 4) << "the check sees nothing: " << wrong;
}

TEST_P(TierProcess, KilledWhileOffloadingLeavesEveryBlockOldNewOrReported) {
  constexpr std::uint64_t kTransfers = kTierBlocks / 4;
  for (std::uint64_t const kill_at : {1U, 3U, 6U, 8U, 11U, 13U}) {
    SCOPED_TRACE("killed in transfer " + std::to_string(kill_at));
    {
      auto manager = small_manager().build();
      create_tier(manager, path(), GetParam());
    }
    std::uint64_t begun = 0;
    std::uint64_t done = 0;
    {
      LineProcess child(test_program(KVBM_TIER_PROCESS), {"rewrite", path().string()});
      for (char what = child.next(); what != '\0'; what = child.next()) {
        begun += what == 'B';
        done += what == 'D';
        if (begun == kill_at) { child.send_signal(SIGKILL); }
      }
      ASSERT_TRUE(WIFSIGNALED(child.wait()));
    }
    wait_for_lock();
    auto manager = small_manager().build();
    auto const tier = PhysicalLayout::open_disk(manager.memory_source(), path());
    auto const cache = make_cache(manager);
    auto const reading =
        move_blocks(manager, tier, first_blocks(kTierBlocks), cache, first_blocks(kTierBlocks));
    static_cast<void>(failure_of_call([&] { reading.wait(); }));
    std::vector<std::exception_ptr> failed(kTierBlocks);
    for (auto const& block : reading.failed_blocks()) {
      failed[block.position] = block.error;
    }
    // The transfer that was not reported done may have gone any way; one more may have begun
    // before its report.
    for (BlockId id = 0; id < kTierBlocks; ++id) {
      std::uint64_t const part = id / 4;
      std::uint64_t const whole = done / kTransfers + (part < done % kTransfers ? 1 : 0);
      bool const in_flight = part == done % kTransfers;
      if (failed[id] == nullptr) {
        bool const is_old = whole > 0 && count_differences(cache, id, whole, id) == 0;
        bool const is_new = in_flight && count_differences(cache, id, whole + 1, id) == 0;
        EXPECT_TRUE(is_old || is_new) << "garbage in block " << id;
      } else {
        auto const failure = failure_of(failed[id]);
        EXPECT_TRUE(failure.code == ErrorCode::NotFound ||
                    (in_flight && failure.code == ErrorCode::Corrupt))
            << failure.message;
        EXPECT_TRUE(in_flight || whole == 0) << "block " << id << " was reported done";
      }
    }
    write_all_blocks(cache, 77);
    auto const ids = first_blocks(kTierBlocks);
    move_blocks(manager, cache, ids, tier, ids).wait();
    auto const back = make_cache(manager);
    move_blocks(manager, tier, ids, back, ids).wait();
    for (BlockId const id : ids) {
      EXPECT_EQ(count_differences(back, id, 77, id), 0U);
    }
    for (auto const& name : folder_.list()) {
      std::filesystem::remove(folder_ / name);
    }
  }
}

}  // namespace
}  // namespace kvbm::testing
