// SPDX-License-Identifier: Apache-2.0
//
// The ways of a GPU, by run length and by what the caller wants spared, with the default costs.
#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <vector>

#include "kvbm/core/error.hpp"
#include "kvbm/transfer/strategy.hpp"

namespace kvbm::transfer {
namespace {

using memory::StorageKind;

constexpr std::uint64_t kTotal = std::uint64_t{64} << 20U;

/// 64 blocks of 1 MiB over a link, in runs of `run` bytes on both sides, the host's side in pieces
/// of `host_piece`.
ChoiceInput over(LinkDirection direction, std::uint64_t run, std::uint64_t host_piece,
                 StorageKind host = StorageKind::Pinned) {
  ChoiceInput input;
  bool const to_host = direction == LinkDirection::DeviceToHost;
  bool const d2d = direction == LinkDirection::DeviceToDevice;
  input.src_kind = to_host || d2d ? StorageKind::Device : host;
  input.dst_kind = to_host ? host : StorageKind::Device;
  input.num_blocks = 64;
  input.bytes_per_block = kTotal / 64;
  input.run_bytes = run;
  DeviceChoice device;
  device.direction = direction;
  device.pageable = !d2d && host == StorageKind::System;
  device.num_dma = kTotal / run;
  device.num_staged_dma = kTotal / host_piece;
  input.device = device;
  return input;
}

std::string refusal(ChoiceInput const& input) {
  try {
    return "chose " + std::string(to_string(choose_strategy(input)));
  } catch (UnsupportedError const& error) { return error.what(); }
}

Candidate candidate(ChoiceInput const& input, Strategy strategy) {
  return choose(input).candidates.at(static_cast<std::size_t>(strategy));
}

constexpr LinkDirection kH2D = LinkDirection::HostToDevice;
constexpr LinkDirection kD2H = LinkDirection::DeviceToHost;
constexpr LinkDirection kD2D = LinkDirection::DeviceToDevice;
constexpr std::uint64_t kKiB = 1024;
constexpr std::uint64_t kMiB = 1024 * kKiB;

TEST(ChooseGpu, S1_Q4_LongRunsGoByCopyEngines) {
  for (auto const direction : {kH2D, kD2H}) {
    for (std::uint64_t const run : {2 * kMiB, 16 * kMiB}) {
      EXPECT_EQ(choose(over(direction, run, run)).strategy, Strategy::DmaCopy)
          << to_string(direction) << ' ' << run;
    }
  }
}

TEST(ChooseGpu, S1_ShortRunsIntoLongPiecesOfTheHostGoThroughTheRing) {
  for (auto const direction : {kH2D, kD2H}) {
    for (std::uint64_t const run : {std::uint64_t{16}, std::uint64_t{256}, 2 * kKiB, 16 * kKiB}) {
      EXPECT_EQ(choose(over(direction, run, 16 * kMiB)).strategy, Strategy::StagedDma)
          << to_string(direction) << ' ' << run;
    }
  }
}

TEST(ChooseGpu, S1_Q4_ShortRunsAndShortPiecesOfTheHostGoByAKernel) {
  for (auto const direction : {kH2D, kD2H}) {
    for (std::uint64_t const run : {std::uint64_t{16}, std::uint64_t{256}, 2 * kKiB, 16 * kKiB}) {
      EXPECT_EQ(choose(over(direction, run, run)).strategy, Strategy::SmCopy)
          << to_string(direction) << ' ' << run;
    }
  }
}

TEST(ChooseGpu, S1_WithinHbmAKernelTakesAllButTheLongestRuns) {
  for (std::uint64_t const run : {std::uint64_t{16}, 2 * kKiB, kMiB}) {
    EXPECT_EQ(choose(over(kD2D, run, run)).strategy, Strategy::SmCopy) << run;
  }
  EXPECT_EQ(choose(over(kD2D, 64 * kMiB, 64 * kMiB)).strategy, Strategy::DmaCopy);
  EXPECT_NE(candidate(over(kD2D, kMiB, kMiB), Strategy::StagedDma).reason.find("no ring"),
            std::string::npos);
}

TEST(ChooseGpu, O2_SparingTheMultiprocessorsAvoidsStoresToTheHost) {
  auto input = over(kD2H, 2 * kKiB, 2 * kKiB);
  ASSERT_EQ(choose(input).strategy, Strategy::SmCopy);
  input.spare = Spare::SpareSms;
  EXPECT_NE(choose(input).strategy, Strategy::SmCopy);
  EXPECT_NE(candidate(input, Strategy::SmCopy).reason.find("slow down"), std::string::npos);
  auto up = over(kH2D, 2 * kKiB, 2 * kKiB);
  up.spare = Spare::SpareSms;
  EXPECT_EQ(choose(up).strategy, Strategy::SmCopy) << "loads from the host disturb nobody";
  input.wanted = Strategy::SmCopy;
  EXPECT_EQ(choose(input).strategy, Strategy::SmCopy) << "asked for by name";
}

TEST(ChooseGpu, S2_PageableMemoryGoesThroughPinnedStaging) {
  for (auto const direction : {kH2D, kD2H}) {
    for (std::uint64_t const run : {std::uint64_t{64}, 64 * kKiB, 16 * kMiB}) {
      auto input = over(direction, run, 16 * kMiB, StorageKind::System);
      EXPECT_EQ(choose(input).strategy, Strategy::PinnedStaging)
          << to_string(direction) << ' ' << run;
      EXPECT_NE(candidate(input, Strategy::SmCopy).reason.find("pageable"), std::string::npos);
    }
    EXPECT_NE(candidate(over(direction, kMiB, kMiB), Strategy::PinnedStaging)
                  .reason.find("no side is pageable"),
              std::string::npos);
  }
}

TEST(ChooseGpu, S2_PageableMemoryInAGraphOrInOneHopIsLeftToTheDriver) {
  for (auto const direction : {kH2D, kD2H}) {
    auto input = over(direction, 16 * kMiB, 16 * kMiB, StorageKind::System);
    input.caller_stream = true;
    EXPECT_EQ(choose(input).strategy, Strategy::PinnedStaging) << "the driver would block the call";
    input.capturing = true;
    EXPECT_EQ(choose(input).strategy, Strategy::DmaCopy);
    auto hop = over(direction, 16 * kMiB, 16 * kMiB, StorageKind::System);
    hop.single_hop = true;
    EXPECT_EQ(choose(hop).strategy, Strategy::DmaCopy);
    auto const scattered = [&] {
      auto i = over(direction, 256, 16 * kMiB, StorageKind::System);
      i.single_hop = true;
      return i;
    }();
    EXPECT_EQ(choose(scattered).strategy, Strategy::StagedDma);
  }
}

TEST(ChooseGpu, DevicesThatCannotAddressEachOtherAreLeftToTheCopyEngines) {
  auto input = over(kD2D, 2 * kKiB, 2 * kKiB);
  input.device->addressable = false;
  EXPECT_EQ(choose(input).strategy, Strategy::DmaCopy);
  EXPECT_NE(candidate(input, Strategy::SmCopy).reason.find("peer"), std::string::npos);
  input.wanted = Strategy::SmCopy;
  EXPECT_NE(refusal(input).find("no peer access"), std::string::npos) << refusal(input);
}

TEST(ChooseGpu, HostWorkCannotBeCapturedIntoAGraph) {
  ChoiceInput host;
  host.num_blocks = 1;
  host.bytes_per_block = host.run_bytes = 4096;
  host.caller_stream = true;
  EXPECT_EQ(choose(host).strategy, Strategy::StreamCopy);
  host.capturing = true;
  EXPECT_NE(refusal(host).find("cannot be captured"), std::string::npos) << refusal(host);
  for (auto const direction : {kH2D, kD2H, kD2D}) {
    auto input = over(direction, 2 * kKiB, 2 * kKiB);
    input.caller_stream = input.capturing = true;
    EXPECT_EQ(choose(input).strategy, Strategy::SmCopy);
  }
}

TEST(ChooseGpu, AWantedStrategyIsTakenOrRefusedWithItsReason) {
  auto const wanting = [](ChoiceInput input, Strategy strategy) {
    input.wanted = strategy;
    return input;
  };
  auto const pinned = over(kH2D, 2 * kKiB, 16 * kMiB);
  for (auto const strategy : {Strategy::DmaCopy, Strategy::SmCopy, Strategy::StagedDma}) {
    auto const decision = choose(wanting(pinned, strategy));
    EXPECT_EQ(decision.strategy, strategy);
    for (auto const& other : decision.candidates) {
      EXPECT_EQ(other.estimated_seconds.has_value(), other.strategy == strategy);
      EXPECT_FALSE(other.reason.empty());
    }
  }
  auto const expect_refused = [&](ChoiceInput const& input, Strategy strategy,
                                  std::string const& why) {
    auto const text = refusal(wanting(input, strategy));
    EXPECT_NE(text.find(to_string(strategy)), std::string::npos) << text;
    EXPECT_NE(text.find(why), std::string::npos) << text;
  };
  expect_refused(pinned, Strategy::HostCopy, "both sides must be host memory");
  expect_refused(pinned, Strategy::StreamCopy, "do not reach a GPU");
  expect_refused(pinned, Strategy::PinnedStaging, "no side is pageable");
  expect_refused(pinned, Strategy::DirectFile, "no side is a file");
  expect_refused(pinned, Strategy::StagedFile, "no side is a file");
  auto const pageable = over(kD2H, 2 * kKiB, 16 * kMiB, StorageKind::System);
  expect_refused(pageable, Strategy::SmCopy, "pageable");
  auto on_stream = pageable;
  expect_refused(on_stream, Strategy::DmaCopy, "block the caller");
  on_stream.caller_stream = on_stream.capturing = true;
  expect_refused(on_stream, Strategy::PinnedStaging, "captured");
  expect_refused(over(kD2D, kKiB, kKiB), Strategy::StagedDma, "needs no ring");
  auto without = pinned;
  without.device.reset();
  for (auto const strategy : {Strategy::DmaCopy, Strategy::SmCopy, Strategy::StagedDma}) {
    expect_refused(without, strategy, "no device takes part");
  }
}

TEST(ChooseGpu, AnEmulatedDevicesWaysRunOnlyWhenAskedFor) {
  auto input = over(kH2D, 2 * kKiB, 16 * kMiB);
  input.device->emulated = true;
  EXPECT_EQ(choose(input).strategy, Strategy::StreamCopy);
  EXPECT_NE(candidate(input, Strategy::DmaCopy).reason.find("emulated"), std::string::npos);
  for (auto const strategy : {Strategy::DmaCopy, Strategy::SmCopy, Strategy::StagedDma}) {
    input.wanted = strategy;
    EXPECT_EQ(choose(input).strategy, strategy);
  }
}

TEST(ChooseGpu, ChooseStrategyAgreesWithChoose) {
  for (auto const direction : {kH2D, kD2H, kD2D}) {
    for (auto const host : {StorageKind::System, StorageKind::Pinned}) {
      for (std::uint64_t run = 16; run <= kTotal; run *= 4) {
        for (auto const spare : {Spare::Fastest, Spare::SpareSms, Spare::SpareCpu}) {
          auto input = over(direction, run, std::max(run, kMiB), host);
          input.spare = spare;
          EXPECT_EQ(choose_strategy(input), choose(input).strategy);
        }
      }
    }
  }
}

TEST(ChooseGpu, TheMachinesOwnCostsDecide) {
  auto input = over(kH2D, 16 * kMiB, 16 * kMiB);
  CostModel costs;
  costs.gpu.h2d.dma.rates = {{1, 1e9}};
  input.costs = &costs;
  EXPECT_EQ(choose(input).strategy, Strategy::SmCopy);
}

TEST(ChooseMaxCtas, O2_FewSaturateALinkAndTheCallersLimitHolds) {
  EXPECT_EQ(choose_max_ctas(Strategy::SmCopy, kD2D, Spare::Fastest, {}), 0U) << "all of them";
  for (auto const direction : {kH2D, kD2H}) {
    for (auto const strategy : {Strategy::SmCopy, Strategy::StagedDma}) {
      auto const fastest = choose_max_ctas(strategy, direction, Spare::Fastest, {});
      auto const spared = choose_max_ctas(strategy, direction, Spare::SpareSms, {});
      EXPECT_GT(fastest, 0U);
      EXPECT_LE(fastest, 32U) << "most of a GPU";
      EXPECT_GT(spared, 0U);
      EXPECT_LE(spared, fastest);
      EXPECT_EQ(choose_max_ctas(strategy, direction, Spare::Fastest, 1), 1U);
      EXPECT_EQ(choose_max_ctas(strategy, direction, Spare::Fastest, 1000), fastest);
    }
  }
  EXPECT_GT(choose_max_ctas(Strategy::SmCopy, kD2D, Spare::SpareSms, {}), 0U);
  EXPECT_EQ(choose_max_ctas(Strategy::SmCopy, kD2D, Spare::Fastest, 7), 7U);
}

TEST(PathCosts, RatesAreInterpolatedBetweenTheirPointsAndConstantBeyond) {
  PathCosts const costs{1e-6, {{1024, 1e9}, {4096, 4e9}, {65536, 8e9}}};
  EXPECT_DOUBLE_EQ(costs.rate(1), 1e9);
  EXPECT_DOUBLE_EQ(costs.rate(1024), 1e9);
  EXPECT_NEAR(costs.rate(2048), 2e9, 1);
  EXPECT_NEAR(costs.rate(4096), 4e9, 1);
  EXPECT_NEAR(costs.rate(65536), 8e9, 1);
  EXPECT_DOUBLE_EQ(costs.rate(1e12), 8e9);
  double last = 0;
  for (double run = 1; run < 1e9; run *= 1.5) {
    EXPECT_GE(costs.rate(run), last);
    last = costs.rate(run);
  }
}

TEST(StrategyNames, GoBothWaysAndUnknownOnesNameThoseThatThereAre) {
  for (std::size_t i = 0; i < kNumStrategies; ++i) {
    auto const strategy = static_cast<Strategy>(i);
    EXPECT_EQ(strategy_from_string(to_string(strategy)), strategy);
  }
  try {
    static_cast<void>(strategy_from_string("dmacopy"));
    ADD_FAILURE();
  } catch (Error const& error) {
    EXPECT_EQ(error.code(), ErrorCode::InvalidArgument);
    EXPECT_NE(std::string(error.what()).find("dmacopy"), std::string::npos);
    EXPECT_NE(std::string(error.what()).find("StagedDma"), std::string::npos);
  }
}

}  // namespace
}  // namespace kvbm::transfer
