// SPDX-License-Identifier: Apache-2.0
//
// Layer by layer: the blocks of layer i leave the device while the model computes layer i + 1, and
// come back the same way. Nobody waits on the CPU in between: the order is kept by events.
//
// usage: layerwise [--cuda]      default: an emulated device; without a GPU --cuda ends with 77
//
// That a transfer of layer i needs no more than layer i is proved by making the model wait for it:
// the computation of layer i + 1 does not end before the transfer has. Everything runs once without
// that before, because a GPU loads kernels and gets memory when they are needed first, and then
// waits for all streams.

#include <kvbm/kvbm.hpp>

#include <chrono>
#include <condition_variable>
#include <cstdio>
#include <cstring>
#include <exception>
#include <memory>
#include <mutex>
#include <numeric>
#include <utility>
#include <vector>

namespace {

using namespace kvbm;

constexpr std::uint64_t kLayers = 6;
constexpr BlockId kBlocks = 24;
constexpr int kSkipped = 77;

/// Opens once. A wait gives up after a time that only a deadlock takes.
class Latch {
 public:
  void open() {
    std::lock_guard const lock(mutex_);
    open_ = true;
    changed_.notify_all();
  }
  bool wait() {
    std::unique_lock lock(mutex_);
    return changed_.wait_for(lock, std::chrono::seconds(60), [this] { return open_; });
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  bool open_ = false;
};
using LatchPtr = std::shared_ptr<Latch>;

/// The engine: a stream, a paged cache, and a model that takes as long as a latch says.
///
/// Computing a layer means here that the layer's K and V are copied on the compute stream: from
/// `truth` into `cache` when the prompt is run, from `cache` into `read` when it is read again.
struct Engine {
  TransferManager& manager;
  device::StreamPtr compute;
  LayoutHandle truth, cache, read, pinned;
  std::vector<BlockId> blocks;
  bool held = false;  ///< whether computations wait for their latches
  /// Whether every latch opened in time; written by the compute stream's callbacks, one at a time.
  std::shared_ptr<bool> in_time = std::make_shared<bool>(true);

  /// Enqueues the computation of one layer; ends when `until` has opened.
  void compute_layer(LayoutHandle src, LayoutHandle dst, std::uint64_t layer, LatchPtr until) {
    manager.execute_transfer(
        src, blocks, dst, blocks,
        TransferOptions::builder().cuda_stream(compute).layer_range(layer, layer + 1).build());
    if (held && until != nullptr) {
      compute->enqueue([until = std::move(until), ok = in_time] { *ok = until->wait() && *ok; });
    }
  }
};

LatchPtr opened_by(TransferCompleteNotification const& done) {
  auto latch = std::make_shared<Latch>();
  done.then([latch](std::exception_ptr const&) { latch->open(); });
  return latch;
}

/// cache -> pinned. The transfer of layer i waits for the event behind layer i, and is over before
/// the model is through with layer i + 1.
void offload(Engine& engine) {
  std::vector<TransferCompleteNotification> transfers;
  for (std::uint64_t layer = 0; layer < kLayers; ++layer) {
    LatchPtr const before = transfers.empty() ? nullptr : opened_by(transfers.back());
    engine.compute_layer(engine.truth, engine.cache, layer, before);
    auto const computed = engine.manager.context().device(0)->create_event();
    engine.compute->record(computed);
    transfers.push_back(engine.manager.execute_transfer(
        engine.cache, engine.blocks, engine.pinned, engine.blocks,
        TransferOptions::builder().layer_range(layer, layer + 1).wait_for(computed).build()));
  }
  TransferCompleteNotification::aggregate(transfers).wait();
}

/// pinned -> cache. The model's layer i waits for its blocks and no others: those of layer i + 1
/// arrive while it computes.
void onboard(Engine& engine) {
  auto const fetch = [&engine](std::uint64_t layer) {
    return engine.manager.execute_transfer(
        engine.pinned, engine.blocks, engine.cache, engine.blocks,
        TransferOptions::builder().layer_range(layer, layer + 1).record_on(engine.compute).build());
  };
  // record_on makes the compute stream wait for everything that was fetched before: so the model's
  // layer is enqueued first, and what follows is fetched behind it.
  std::vector<TransferCompleteNotification> transfers{fetch(0)};
  for (std::uint64_t layer = 0; layer < kLayers; ++layer) {
    if (layer + 1 == kLayers) {
      engine.compute_layer(engine.cache, engine.read, layer, nullptr);
      break;
    }
    auto const next = std::make_shared<Latch>();
    engine.compute_layer(engine.cache, engine.read, layer, next);
    transfers.push_back(fetch(layer + 1));
    transfers.back().then([next](std::exception_ptr const&) { next->open(); });
  }
  TransferCompleteNotification::aggregate(transfers).wait();
  engine.compute->synchronize();
}

bool run(TransferManager& manager) {
  auto const config = LayoutConfig::builder()
                          .num_blocks(kBlocks)
                          .num_layers(kLayers)
                          .page_size(16)
                          .inner_dim(4 * 64)
                          .num_heads(4)
                          .build();
  auto const device_layout = [&] {
    return manager.register_layout(manager.layout_builder()
                                       .config(config)
                                       .layer_separate(BlockDimension::Second)
                                       .allocate_device(0)
                                       .build());
  };
  auto const pinned = manager.register_layout(manager.layout_builder()
                                                  .config(config)
                                                  .fully_contiguous(KvBlockLayout::UniversalTP)
                                                  .allocate_pinned()
                                                  .build());
  Engine engine{manager,
                manager.context().device(0)->create_stream("compute"),
                device_layout(),
                device_layout(),
                device_layout(),
                pinned,
                {}};
  engine.blocks.resize(kBlocks);
  std::iota(engine.blocks.begin(), engine.blocks.end(), BlockId{0});
  manager.fill_blocks(engine.truth, engine.blocks, {FillPattern::Kind::Hashed, 11});
  auto const expected = manager.block_checksums(engine.truth, engine.blocks);

  offload(engine);
  onboard(engine);
  engine.held = true;
  for (auto const layout : {engine.cache, engine.read, engine.pinned}) {
    manager.fill_blocks(layout, engine.blocks, {FillPattern::Kind::Constant, 0});
  }

  offload(engine);
  bool const left = manager.block_checksums(engine.pinned, engine.blocks) == expected;

  manager.fill_blocks(engine.cache, engine.blocks, {FillPattern::Kind::Constant, 0});
  onboard(engine);
  bool const came_back = manager.block_checksums(engine.cache, engine.blocks) == expected;
  bool const was_read = manager.block_checksums(engine.read, engine.blocks) == expected;

  std::printf("%llu layers on %s: offloaded behind the model %s, onboarded before it %s, %s\n",
              static_cast<unsigned long long>(kLayers), manager.context().device(0)->name().c_str(),
              left ? "equal" : "DIFFERENT", came_back && was_read ? "equal" : "DIFFERENT",
              *engine.in_time ? "transfers and model side by side" : "ONE WAITED FOR THE OTHER");
  return left && came_back && was_read && *engine.in_time;
}

}  // namespace

int main(int argc, char** argv) {
  bool const cuda = argc > 1 && std::strcmp(argv[1], "--cuda") == 0;
  try {
    if (cuda && !device::cuda_unavailable_reason().empty()) {
      std::printf("no CUDA device: %s\n", device::cuda_unavailable_reason().c_str());
      return kSkipped;
    }
    auto builder = TransferManager::builder();
    if (cuda) { builder.cuda_device_id(0); }
    auto manager = builder.build();
    return run(manager) ? 0 : 1;
  } catch (kvbm::Error const& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}
