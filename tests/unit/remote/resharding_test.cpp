// SPDX-License-Identifier: Apache-2.0
#include "kvbm/remote/resharding.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <string>
#include <tuple>

#include "kvbm/core/error.hpp"
#include "kvbm/testing/failure.hpp"

namespace kvbm::remote {
namespace {

using kvbm::testing::failure_of_call;

constexpr unsigned kRanks[] = {1, 2, 4, 8};

bool is_legal(std::uint64_t heads, unsigned tp) { return heads % tp == 0 || tp % heads == 0; }

/// Which heads a rank holds, said one head at a time: head h of the model is on the ranks r with
/// r * heads / tp rounded down equal to h, or in the share that h falls into.
std::vector<std::uint64_t> held(std::uint64_t heads, unsigned tp, unsigned rank) {
  std::vector<std::uint64_t> result;
  for (std::uint64_t head = 0; head < heads; ++head) {
    bool const mine = tp <= heads ? head * tp / heads == rank : rank * heads / tp == head;
    if (mine) { result.push_back(head); }
  }
  return result;
}

class Resharding : public ::testing::TestWithParam<std::tuple<std::uint64_t, unsigned, unsigned>> {
};

TEST_P(Resharding, FillsEveryHeadOnceWithTheRightHead) {
  auto const [heads, src_tp, dst_tp] = GetParam();
  auto const plan = plan_resharding(heads, src_tp, dst_tp);
  for (unsigned rank = 0; rank < dst_tp; ++rank) {
    auto const wanted = held(heads, dst_tp, rank);
    std::vector<std::vector<std::uint64_t>> got(wanted.size());
    for (auto const& transfer : plan) {
      if (transfer.dst_rank != rank) { continue; }
      auto const sent = held(heads, src_tp, transfer.src_rank);
      ASSERT_EQ(transfer.src_heads.size(), transfer.dst_heads.size());
      ASSERT_LT(transfer.src_heads.begin, transfer.src_heads.end);
      ASSERT_LE(transfer.src_heads.end, sent.size());
      ASSERT_LE(transfer.dst_heads.end, wanted.size());
      for (std::uint64_t i = 0; i < transfer.src_heads.size(); ++i) {
        got[transfer.dst_heads.begin + i].push_back(sent[transfer.src_heads.begin + i]);
      }
    }
    for (std::size_t i = 0; i < wanted.size(); ++i) {
      EXPECT_EQ(got[i], std::vector{wanted[i]}) << "rank " << rank << " head " << i;
    }
  }
}

TEST_P(Resharding, LoadsHoldersOfTheSameHeadsEqually) {
  auto const [heads, src_tp, dst_tp] = GetParam();
  std::map<std::vector<std::uint64_t>, std::vector<std::uint64_t>> loads;
  auto const plan = plan_resharding(heads, src_tp, dst_tp);
  for (unsigned rank = 0; rank < src_tp; ++rank) {
    std::uint64_t load = 0;
    for (auto const& transfer : plan) {
      if (transfer.src_rank == rank) { load += transfer.src_heads.size(); }
    }
    loads[held(heads, src_tp, rank)].push_back(load);
  }
  std::vector<std::uint64_t> of_groups;
  for (auto const& [which, group] : loads) {
    auto const [least, most] = std::minmax_element(group.begin(), group.end());
    EXPECT_LE(*most - *least, 1U);
    std::uint64_t sum = 0;
    for (auto const load : group) {
      sum += load;
    }
    of_groups.push_back(sum);
  }
  EXPECT_EQ(std::count(of_groups.begin(), of_groups.end(), of_groups.front()),
            static_cast<std::ptrdiff_t>(of_groups.size()));
}

TEST_P(Resharding, FiltersSplitThePlan) {
  auto const [heads, src_tp, dst_tp] = GetParam();
  auto const plan = plan_resharding(heads, src_tp, dst_tp);
  EXPECT_TRUE(std::is_sorted(plan.begin(), plan.end(), [](auto const& a, auto const& b) {
    return std::pair(a.dst_rank, a.dst_heads.begin) < std::pair(b.dst_rank, b.dst_heads.begin);
  }));
  std::vector<HeadTransfer> joined;
  for (unsigned rank = 0; rank < dst_tp; ++rank) {
    for (auto const& transfer : transfers_to(plan, rank)) {
      EXPECT_EQ(transfer.dst_rank, rank);
      joined.push_back(transfer);
    }
  }
  EXPECT_EQ(joined, plan);
  std::size_t sent = 0;
  for (unsigned rank = 0; rank < src_tp; ++rank) {
    auto const part = transfers_from(plan, rank);
    sent += part.size();
    EXPECT_TRUE(std::all_of(part.begin(), part.end(),
                            [&](auto const& transfer) { return transfer.src_rank == rank; }));
  }
  EXPECT_EQ(sent, plan.size());
}

std::vector<std::tuple<std::uint64_t, unsigned, unsigned>> legal_cases() {
  std::vector<std::tuple<std::uint64_t, unsigned, unsigned>> cases;
  for (std::uint64_t const heads : {1U, 2U, 3U, 4U, 8U, 16U}) {
    for (auto const src_tp : kRanks) {
      for (auto const dst_tp : kRanks) {
        if (is_legal(heads, src_tp) && is_legal(heads, dst_tp)) {
          cases.emplace_back(heads, src_tp, dst_tp);
        }
      }
    }
  }
  // Neither rank count divides the other.
  cases.emplace_back(12, 3, 4);
  cases.emplace_back(6, 2, 3);
  cases.emplace_back(2, 6, 4);
  return cases;
}

INSTANTIATE_TEST_SUITE_P(All, Resharding, ::testing::ValuesIn(legal_cases()),
                         [](auto const& instance) {
                           return "Heads" + std::to_string(std::get<0>(instance.param)) + "From" +
                                  std::to_string(std::get<1>(instance.param)) + "To" +
                                  std::to_string(std::get<2>(instance.param));
                         });

TEST(ReshardingPlan, EqualSidesSendEachRankToItself) {
  for (std::uint64_t const heads : {0U, 2U, 8U, 16U}) {
    auto const plan = plan_resharding(heads, 8, 8);
    ASSERT_EQ(plan.size(), 8U);
    for (unsigned rank = 0; rank < 8; ++rank) {
      EXPECT_EQ(plan[rank].src_rank, rank);
      EXPECT_EQ(plan[rank].dst_rank, rank);
      EXPECT_EQ(plan[rank].src_heads, plan[rank].dst_heads);
    }
  }
}

TEST(ReshardingPlan, FourToTwoInNumbers) {
  std::vector<HeadTransfer> const expected{{0, 0, {0, 2}, {0, 2}},
                                           {1, 0, {0, 2}, {2, 4}},
                                           {2, 1, {0, 2}, {0, 2}},
                                           {3, 1, {0, 2}, {2, 4}}};
  EXPECT_EQ(plan_resharding(8, 4, 2), expected);
}

TEST(ReshardingPlan, MlaGivesEachReceiverEverythingFromOneSenderInTurns) {
  for (auto const src_tp : kRanks) {
    for (auto const dst_tp : kRanks) {
      auto const plan = plan_resharding(0, src_tp, dst_tp);
      ASSERT_EQ(plan.size(), dst_tp);
      std::vector<std::uint64_t> loads(src_tp);
      for (unsigned rank = 0; rank < dst_tp; ++rank) {
        EXPECT_EQ(plan[rank].dst_rank, rank);
        EXPECT_TRUE(plan[rank].src_heads.empty());
        EXPECT_TRUE(plan[rank].dst_heads.empty());
        ++loads.at(plan[rank].src_rank);
      }
      auto const [least, most] = std::minmax_element(loads.begin(), loads.end());
      EXPECT_LE(*most - *least, 1U);
    }
  }
}

TEST(ReshardingPlan, HeadsOfARank) {
  EXPECT_EQ(heads_of_rank(8, 2, 1), (IndexRange{4, 8}));
  EXPECT_EQ(heads_of_rank(2, 8, 3), (IndexRange{0, 1}));
  EXPECT_EQ(heads_of_rank(2, 8, 4), (IndexRange{1, 2}));
  EXPECT_EQ(failure_of_call([] { return heads_of_rank(8, 2, 2); }).code, ErrorCode::OutOfRange);
}

TEST(ReshardingPlan, RefusesWhatCannotBeShared) {
  struct Case {
    std::uint64_t heads;
    unsigned src_tp;
    unsigned dst_tp;
    char const* part;
  };
  for (auto const& [heads, src_tp, dst_tp, part] :
       {Case{8, 0, 1, "src_tp is 0"}, Case{8, 1, 0, "dst_tp is 0"}, Case{0, 0, 1, "src_tp is 0"},
        Case{0, 1, 65537, "dst_tp is 65537"}, Case{3, 2, 1, "src_tp is 2"},
        Case{8, 1, 3, "dst_tp is 3"}, Case{8, 12, 8, "src_tp is 12"}}) {
    auto const failure = failure_of_call(
        [&, h = heads, a = src_tp, b = dst_tp] { return plan_resharding(h, a, b); });
    EXPECT_EQ(failure.code, ErrorCode::InvalidArgument) << part;
    EXPECT_TRUE(failure.names(part)) << part << " is not in: " << failure.message;
  }
}

}  // namespace
}  // namespace kvbm::remote
