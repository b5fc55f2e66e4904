// SPDX-License-Identifier: Apache-2.0
//
// Three ways to learn that a transfer ended without blocking a thread: a coroutine that awaits it,
// a callback, and one notification for many.

#include <kvbm/kvbm.hpp>

#include <coroutine>
#include <cstdio>
#include <exception>
#include <future>
#include <numeric>
#include <vector>

namespace {

using namespace kvbm;

/// A coroutine whose end can be waited for from ordinary code.
struct Job {
  struct promise_type {  // NOLINT(readability-identifier-naming): the language asks for this name
    std::promise<void> ended;
    Job get_return_object() { return {ended.get_future()}; }
    std::suspend_never initial_suspend() noexcept { return {}; }
    std::suspend_never final_suspend() noexcept { return {}; }
    void return_void() { ended.set_value(); }
    void unhandled_exception() { ended.set_exception(std::current_exception()); }
  };
  std::future<void> ended;
};

struct Tiers {
  TransferManager& manager;
  layout::LayoutHandle device;
  layout::LayoutHandle pinned;
};

/// Reads like blocking code; the thread is free while the blocks are under way.
Job round_trip(Tiers tiers, std::vector<BlockId> there, std::vector<BlockId> back) {
  co_await tiers.manager.execute_transfer(tiers.device, there, tiers.pinned, there);
  co_await tiers.manager.execute_transfer(tiers.pinned, there, tiers.device, back);
}

}  // namespace

int main() {
  auto manager = TransferManager::builder().build();
  auto const config = LayoutConfig::builder()
                          .num_blocks(64)
                          .num_layers(2)
                          .page_size(16)
                          .inner_dim(256)
                          .num_heads(4)
                          .build();
  Tiers const tiers{manager,
                    manager.register_layout(manager.layout_builder()
                                                .config(config)
                                                .layer_separate(BlockDimension::Second)
                                                .allocate_device(0)
                                                .build()),
                    manager.register_layout(manager.layout_builder()
                                                .config(config)
                                                .fully_contiguous(KvBlockLayout::UniversalTP)
                                                .allocate_pinned()
                                                .build())};
  std::vector<BlockId> first(32);
  std::iota(first.begin(), first.end(), BlockId{0});
  std::vector<BlockId> second(32);
  std::iota(second.begin(), second.end(), BlockId{32});
  manager.fill_blocks(tiers.device, first, {FillPattern::Kind::Hashed, 7});

  // co_await: blocks 0 to 31 go to pinned memory and come back as blocks 32 to 63.
  round_trip(tiers, first, second).ended.get();

  // then: called on the event system's thread, with the error of a failed transfer.
  std::promise<bool> called;
  manager.execute_transfer(tiers.device, first, tiers.pinned, first)
      .then([&called](std::exception_ptr const& error) { called.set_value(error == nullptr); });
  bool const succeeded = called.get_future().get();

  // aggregate: one notification for both halves.
  TransferCompleteNotification::aggregate(
      {manager.execute_transfer(tiers.device, first, tiers.pinned, first),
       manager.execute_transfer(tiers.device, second, tiers.pinned, second)})
      .wait();

  auto const expected = manager.block_checksums(tiers.device, first);
  bool const equal = succeeded && manager.block_checksums(tiers.device, second) == expected &&
                     manager.block_checksums(tiers.pinned, second) == expected;
  std::printf("co_await, then and aggregate: %s\n", equal ? "equal" : "DIFFERENT");
  return equal ? 0 : 1;
}
