// SPDX-License-Identifier: Apache-2.0
//
// What one call of the library costs its caller: lowering, submitting, waiting, checksums.
// Comparisons with limits of the machine are `kvbm bench figures`; these find out what a change
// did.

#include <benchmark/benchmark.h>

#include <chrono>
#include <cstdint>
#include <numeric>
#include <vector>

#include "kvbm/kvbm.hpp"
#include "kvbm/transfer/copy_plan.hpp"

namespace {

using namespace kvbm;

std::vector<BlockId> all_ids(std::uint64_t count) {
  std::vector<BlockId> ids(count);
  std::iota(ids.begin(), ids.end(), BlockId{0});
  return ids;
}

LayoutConfig config(std::uint64_t num_blocks, std::uint64_t layers, std::uint64_t heads) {
  return LayoutConfig::builder()
      .num_blocks(num_blocks)
      .num_layers(layers)
      .page_size(16)
      .inner_dim(heads * 64)
      .num_heads(heads)
      .build();
}

/// An engine's cache on the device and its contiguous twin in pinned memory.
struct Tiers {
  TransferManager manager = TransferManager::builder().build();
  layout::LayoutHandle device;
  layout::LayoutHandle pinned;

  explicit Tiers(LayoutConfig const& shape)
      : device(manager.register_layout(manager.layout_builder()
                                           .config(shape)
                                           .layer_separate(BlockDimension::Second)
                                           .allocate_device(0)
                                           .build())),
        pinned(manager.register_layout(manager.layout_builder()
                                           .config(shape)
                                           .fully_contiguous(KvBlockLayout::UniversalTP)
                                           .allocate_pinned()
                                           .build())) {}
};

void lower(benchmark::State& state) {
  auto const layers = static_cast<std::uint64_t>(state.range(0));
  Tiers const tiers(config(2, layers, 8));
  auto const src = tiers.manager.layout(tiers.device);
  auto const dst = tiers.manager.layout(tiers.pinned);
  transfer::Selection const all{{0, layers}, {0, 8}, {0, 8}};
  for ([[maybe_unused]] auto _ : state) {
    benchmark::DoNotOptimize(transfer::lower(src, dst, all));
  }
}
BENCHMARK(lower)->ArgName("layers")->Arg(1)->Arg(32)->Arg(80);

void prepare(benchmark::State& state) {
  Tiers const tiers(config(2, 32, 8));
  for ([[maybe_unused]] auto _ : state) {
    benchmark::DoNotOptimize(tiers.manager.prepare_transfer(tiers.device, tiers.pinned));
  }
}
BENCHMARK(prepare);

/// Submit and wait; the whole round trip.
void round_trip(benchmark::State& state) {
  auto const blocks = static_cast<std::uint64_t>(state.range(0));
  Tiers tiers(config(blocks, 4, 8));
  auto const ids = all_ids(blocks);
  auto const bytes = tiers.manager.layout(tiers.device).config().block_bytes() * blocks;
  auto const prepared = tiers.manager.prepare_transfer(tiers.device, tiers.pinned);
  for ([[maybe_unused]] auto _ : state) {
    prepared.submit(ids, ids).wait();
  }
  state.SetBytesProcessed(state.iterations() * static_cast<std::int64_t>(bytes));
}
BENCHMARK(round_trip)->ArgName("blocks")->Arg(1)->Arg(16)->Arg(256)->UseRealTime();

/// What a submission costs beside its copy: the smallest block there is, copied in
/// the call itself (job:0) or as a job that could be stopped (job:1).
void submit(benchmark::State& state) {
  auto manager = TransferManager::builder().build();
  auto const make = [&manager] {
    return manager.register_layout(manager.layout_builder()
                                       .config(config(2, 1, 1))
                                       .fully_contiguous(KvBlockLayout::OperationalNHD)
                                       .allocate_system()
                                       .build());
  };
  TransferOptions options;
  if (state.range(0) != 0) { options.timeout = std::chrono::hours(1); }
  auto const prepared = manager.prepare_transfer(make(), make(), options);
  BlockId const block = 0;
  for ([[maybe_unused]] auto _ : state) {
    benchmark::DoNotOptimize(prepared.submit({&block, 1}, {&block, 1}));
  }
}
BENCHMARK(submit)->ArgName("job")->Arg(0)->Arg(1);

void checksums(benchmark::State& state) {
  constexpr std::uint64_t kBlocks = 64;
  Tiers tiers(config(kBlocks, 16, 8));
  auto const handle = state.range(0) == 0 ? tiers.device : tiers.pinned;
  auto const ids = all_ids(kBlocks);
  tiers.manager.fill_blocks(handle, ids, {FillPattern::Kind::Constant, 1});
  auto const bytes = tiers.manager.layout(handle).config().block_bytes() * kBlocks;
  for ([[maybe_unused]] auto _ : state) {
    benchmark::DoNotOptimize(tiers.manager.block_checksums(handle, ids));
  }
  state.SetBytesProcessed(state.iterations() * static_cast<std::int64_t>(bytes));
}
BENCHMARK(checksums)->ArgName("universal")->Arg(0)->Arg(1)->UseRealTime();

void aggregate(benchmark::State& state) {
  auto const count = static_cast<std::size_t>(state.range(0));
  auto const system = EventSystem::create();
  for ([[maybe_unused]] auto _ : state) {
    std::vector<transfer::Completion> events;
    std::vector<TransferCompleteNotification> parts;
    for (std::size_t i = 0; i < count; ++i) {
      events.push_back(system->create_event());
      parts.push_back(system->awaiter(events.back().handle()));
    }
    auto const whole = TransferCompleteNotification::aggregate(parts);
    for (auto& event : events) {
      event.trigger();
    }
    whole.wait();
  }
  state.SetItemsProcessed(state.iterations() * static_cast<std::int64_t>(count));
}
BENCHMARK(aggregate)->ArgName("events")->Arg(1)->Arg(64)->UseRealTime();

}  // namespace

BENCHMARK_MAIN();
