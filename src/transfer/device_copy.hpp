// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "kvbm/core/types.hpp"
#include "kvbm/device/device.hpp"
#include "kvbm/transfer/copy_plan.hpp"
#include "kvbm/transfer/strategy.hpp"
#include "transfer/bound_plan.hpp"
#include "transfer/context_impl.hpp"
#include "transfer/staging_image.hpp"

namespace kvbm::transfer {

/// A plan with a device's memory on at least one side, bound to addresses: enqueues copies onto a
/// stream of that device in any of the device's ways. On an emulated device the same steps are run
/// by copy threads, so that their order can be tested without a GPU.
/// Lifetime holds addresses only: the layouts must be kept alive beside it.
class DeviceCopy {
 public:
  /// Whether device streams may have to move these bytes: one side is device memory.
  [[nodiscard]] static bool applies(layout::PhysicalLayout const& src,
                                    layout::PhysicalLayout const& dst);

  /// @throws UnsupportedError a device that this context does not have, or two of different kinds
  DeviceCopy(TransferContext::Impl& context, CopyPlan const& plan,
             layout::PhysicalLayout const& src, layout::PhysicalLayout const& dst);

  /// How one submission is done.
  struct Way {
    Strategy strategy = Strategy::DmaCopy;  ///< DmaCopy, SmCopy or StagedDma
    unsigned max_ctas = 0;                  ///< 0: what suits the link
  };

  /// Enqueues everything on `stream`; other streams of the context may take part in between, and
  /// have ended where `stream`'s work has. May be captured into a graph.
  /// @throws Error(Device), Error(OutOfMemory): part of it may be enqueued nevertheless
  void enqueue(TransferContext::Impl& context, device::StreamPtr const& stream,
               std::span<BlockId const> src_blocks, std::span<BlockId const> dst_blocks,
               Way const& way) const;

  /// What choose() wants to know about these blocks, but for the options.
  [[nodiscard]] ChoiceInput choice(std::span<BlockId const> src_blocks,
                                   std::span<BlockId const> dst_blocks) const;

  [[nodiscard]] DeviceId device_id() const noexcept { return device_->id(); }
  [[nodiscard]] device::Device& device() const noexcept { return *device_; }
  [[nodiscard]] LinkDirection direction() const noexcept { return choice_.direction; }
  [[nodiscard]] bool is_emulated() const noexcept { return choice_.emulated; }
  /// A stream of the pool for this direction.
  [[nodiscard]] device::StreamPtr acquire_stream(TransferContext::Impl& context) const;

 private:
  /// Two inner streams that are not `busy`.
  [[nodiscard]] std::vector<device::StreamPtr> streams_beside(TransferContext::Impl& context,
                                                              device::Stream const& busy) const;
  /// Numbers of blocks that go through a slot of the ring at a time.
  [[nodiscard]] std::vector<std::size_t> ring_parts(std::size_t num_blocks) const;
  void enqueue_staged(TransferContext::Impl& context, device::StreamPtr const& stream,
                      std::span<BlockId const> src_blocks, std::span<BlockId const> dst_blocks,
                      unsigned max_ctas) const;
  [[nodiscard]] std::uint64_t count_dma(std::uint64_t pieces_per_block, bool blocks_adjoin,
                                        std::span<BlockId const> src_blocks,
                                        std::span<BlockId const> dst_blocks) const;

  device::DevicePtr device_;
  memory::StorageKind src_kind_;
  memory::StorageKind dst_kind_;
  DeviceChoice choice_;  ///< but for the numbers of copies
  BoundPlan direct_;
  std::optional<StagingImage> image_;  ///< where one side is the host's
  std::vector<std::uintptr_t> host_segments_;
  std::vector<std::uintptr_t> device_segments_;
  std::uint64_t bytes_per_block_;
  std::uint64_t runs_per_block_;
  bool runs_adjoin_;  ///< on both sides a block's runs are followed by the next block's
};

}  // namespace kvbm::transfer
