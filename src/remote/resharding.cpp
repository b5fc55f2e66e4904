// SPDX-License-Identifier: Apache-2.0
#include "kvbm/remote/resharding.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <iterator>

#include "kvbm/core/error.hpp"

namespace kvbm::remote {
namespace {

void check_ranks(unsigned tp, char const* what) {
  KVBM_EXPECTS(tp >= 1 && tp <= kMaxRanks, InvalidArgument,
               fmt::format("{} is {}, it has to be 1 to {}", what, tp, kMaxRanks));
}

/// How the heads of a model are spread over the ranks of one side.
class HeadShares {
 public:
  HeadShares(std::uint64_t total_heads, unsigned tp, char const* what) {
    check_ranks(tp, what);
    KVBM_EXPECTS(total_heads >= 1, InvalidArgument,
                 "total_heads is 0: ranks of an MLA model have no heads of their own");
    KVBM_EXPECTS(total_heads % tp == 0 || tp % total_heads == 0, InvalidArgument,
                 fmt::format("{} is {}, which neither divides total_heads {} nor is a multiple of "
                             "it",
                             what, tp, total_heads));
    heads_a_rank_ = std::max<std::uint64_t>(1, total_heads / tp);
    replicas_ = tp > total_heads ? static_cast<unsigned>(tp / total_heads) : 1;
  }

  [[nodiscard]] std::uint64_t heads_a_rank() const { return heads_a_rank_; }
  /// Ranks that hold the same heads; they are neighbours.
  [[nodiscard]] unsigned replicas() const { return replicas_; }

  [[nodiscard]] IndexRange of(unsigned rank) const {
    auto const begin = rank / replicas_ * heads_a_rank_;
    return {begin, begin + heads_a_rank_};
  }
  /// First of the ranks that hold this head. No more of them than ranks: fits.
  [[nodiscard]] unsigned first_holder(std::uint64_t head) const {
    return static_cast<unsigned>(head / heads_a_rank_) * replicas_;
  }

 private:
  std::uint64_t heads_a_rank_ = 0;
  unsigned replicas_ = 1;
};

std::vector<HeadTransfer> plan_without_heads(unsigned src_tp, unsigned dst_tp) {
  check_ranks(src_tp, "src_tp");
  check_ranks(dst_tp, "dst_tp");
  std::vector<HeadTransfer> plan;
  plan.reserve(dst_tp);
  for (unsigned rank = 0; rank < dst_tp; ++rank) {
    plan.push_back({rank % src_tp, rank, {}, {}});
  }
  return plan;
}

IndexRange relative_to(IndexRange range, std::uint64_t begin) {
  return {range.begin - begin, range.end - begin};
}

}  // namespace

IndexRange heads_of_rank(std::uint64_t total_heads, unsigned tp, unsigned rank) {
  HeadShares const shares(total_heads, tp, "tp");
  KVBM_EXPECTS(rank < tp, OutOfRange, fmt::format("rank {} of {}", rank, tp));
  return shares.of(rank);
}

std::vector<HeadTransfer> plan_resharding(std::uint64_t total_heads, unsigned src_tp,
                                          unsigned dst_tp) {
  if (total_heads == 0) { return plan_without_heads(src_tp, dst_tp); }
  HeadShares const src(total_heads, src_tp, "src_tp");
  HeadShares const dst(total_heads, dst_tp, "dst_tp");
  std::vector<HeadTransfer> plan;
  for (unsigned rank = 0; rank < dst_tp; ++rank) {
    auto const wanted = dst.of(rank);
    // Receivers of the same heads stand behind one another; each takes the next sender.
    auto const turn = rank % dst.replicas() % src.replicas();
    for (auto head = wanted.begin; head < wanted.end;) {
      auto const sender = src.first_holder(head) + turn;
      auto const held = src.of(sender);
      IndexRange const both{head, std::min(wanted.end, held.end)};
      plan.push_back(
          {sender, rank, relative_to(both, held.begin), relative_to(both, wanted.begin)});
      head = both.end;
    }
  }
  return plan;
}

std::vector<HeadTransfer> transfers_from(std::span<HeadTransfer const> plan, unsigned src_rank) {
  std::vector<HeadTransfer> result;
  std::copy_if(plan.begin(), plan.end(), std::back_inserter(result),
               [&](HeadTransfer const& transfer) { return transfer.src_rank == src_rank; });
  return result;
}

std::vector<HeadTransfer> transfers_to(std::span<HeadTransfer const> plan, unsigned dst_rank) {
  std::vector<HeadTransfer> result;
  std::copy_if(plan.begin(), plan.end(), std::back_inserter(result),
               [&](HeadTransfer const& transfer) { return transfer.dst_rank == dst_rank; });
  return result;
}

}  // namespace kvbm::remote
