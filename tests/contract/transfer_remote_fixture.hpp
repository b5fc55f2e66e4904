// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "contract/fake_peer.hpp"
#include "contract/transfer_fixture.hpp"
#include "kvbm/transfer/strategy.hpp"

namespace kvbm::testing {

using transfer::Endpoint;
using transfer::PreparedTransfer;
using transfer::ResolvedBounce;
using transfer::Strategy;
using transfer::TransferContext;

inline constexpr std::array kRemoteStrategies{Strategy::DirectRemote, Strategy::StagedRemote,
                                              Strategy::PackedRemote};

/// Transfers between layouts of ours and those of a peer beside us.
class RemoteTest : public TransferTest {
 protected:
  static constexpr std::uint64_t kStagingBytes = 16U << 10U;  ///< some blocks: several batches
  static constexpr std::uint64_t kLandingBytes = 8U << 10U;

  RemoteTest()
      : TransferTest(emulated_manager()),
        context_(make_context()),
        peer_(std::make_shared<FakePeer>(manager_, kLandingBytes)) {}

  /// A layout of ours that the wire reaches where it is memory.
  PhysicalLayout make_ours(LayoutConfig const& config, LayoutShape const& shape,
                           StorageKind storage) {
    auto const layout = make(config, shape, storage);
    if (memory::is_memory(storage)) { peer_->reach(layout); }
    return layout;
  }

  /// A prepared transfer between a layout of ours and one of the peer's (the real one).
  PreparedTransfer prepare(PhysicalLayout const& ours, PhysicalLayout const& theirs, bool to_peer,
                           TransferOptions const& options = {},
                           std::optional<ResolvedBounce> bounce = {}) {
    Endpoint const near{ours, nullptr};
    Endpoint const far = peer_->lend(theirs);
    return PreparedTransfer::prepare(context_, to_peer ? near : far, to_peer ? far : near,
                                     std::move(bounce), options);
  }

  /// Moves and compares all of the destination, guards and padding too, with the oracle.
  void check_remote(PhysicalLayout const& ours, PhysicalLayout const& theirs, bool to_peer,
                    std::vector<BlockId> const& src_ids, std::vector<BlockId> const& dst_ids,
                    Part const& part, TransferOptions const& options,
                    std::optional<ResolvedBounce> bounce = {}) {
    auto const& src = to_peer ? ours : theirs;
    auto const& dst = to_peer ? theirs : ours;
    Image source = image_of(src);
    Image expected = image_of(dst);
    copy_elements(src, source, src_ids, dst, expected, dst_ids, part);
    prepare(ours, theirs, to_peer, options, std::move(bounce)).submit(src_ids, dst_ids).wait();
    expect_image(dst, expected);
    EXPECT_EQ(image_of(src), source) << "the source changed";
    EXPECT_EQ(peer_->num_lent(), 0U) << "landing memory was not given back";
  }

  static TransferOptions with(Strategy strategy) {
    TransferOptions options;
    options.strategy = strategy;
    return options;
  }

  std::shared_ptr<TransferContext> context_;
  std::shared_ptr<FakePeer> peer_;

 private:
  std::shared_ptr<TransferContext> make_context() {
    transfer::ContextOptions options;
    options.devices = manager_.context().devices();
    options.memory_source = manager_.memory_source();
    options.copy_engine.num_threads = 2;
    options.staging_bytes_per_worker = kStagingBytes;
    options.pool_reserve_bytes = 1U << 20U;
    return std::make_shared<TransferContext>(std::move(options));
  }
};

}  // namespace kvbm::testing
