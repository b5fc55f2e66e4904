// SPDX-License-Identifier: Apache-2.0
#include "transfer/device_copy.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <numeric>
#include <utility>

#include "kvbm/core/checked.hpp"
#include "kvbm/core/error.hpp"
#include "transfer/stream_copies.hpp"
#include "transfer/stream_fork.hpp"

namespace kvbm::transfer {
namespace {

using layout::PhysicalLayout;
using memory::StorageKind;

/// The ring between kernel and copy engines: deep enough that neither waits for the other, and all
/// of it within the 64 MiB that a pool reserves by default.
constexpr std::size_t kRingSlots = 4;
constexpr std::uint64_t kMinPartBytes = std::uint64_t{2} << 20U;
constexpr std::uint64_t kMaxPartBytes = std::uint64_t{16} << 20U;

bool is_device(PhysicalLayout const& layout) {
  return layout.storage_kind() == StorageKind::Device;
}

kvbm_copy_boxes boxes(std::vector<std::uintptr_t> const& in_image,
                      std::vector<std::uintptr_t> const& outside, std::uint64_t outside_stride,
                      std::span<BlockId const> ids, std::vector<BlockId> const& image_ids,
                      std::uint64_t image_stride, bool from_image) {
  auto const& from = from_image ? in_image : outside;
  auto const& to = from_image ? outside : in_image;
  return {from.size(),
          from.data(),
          to.data(),
          from_image ? image_stride : outside_stride,
          from_image ? outside_stride : image_stride,
          ids.size(),
          from_image ? image_ids.data() : ids.data(),
          from_image ? ids.data() : image_ids.data()};
}

bool follows(std::span<BlockId const> blocks, std::size_t i) {
  return blocks[i] == blocks[i - 1] + 1;
}

}  // namespace

bool DeviceCopy::applies(PhysicalLayout const& src, PhysicalLayout const& dst) {
  return memory::is_memory(src.storage_kind()) && memory::is_memory(dst.storage_kind()) &&
         (is_device(src) || is_device(dst));
}

DeviceCopy::DeviceCopy(TransferContext::Impl& context, CopyPlan const& plan,
                       PhysicalLayout const& src, PhysicalLayout const& dst)
    : device_(context.device(is_device(dst) ? dst.device_id() : src.device_id())),
      src_kind_(src.storage_kind()),
      dst_kind_(dst.storage_kind()),
      direct_(plan, src, dst),
      bytes_per_block_(plan.bytes_per_block),
      runs_per_block_(plan.runs_per_block()),
      runs_adjoin_(plan.shape.num_dims == 0 && plan.src.block_stride == plan.shape.run_bytes &&
                   plan.dst.block_stride == plan.shape.run_bytes) {
  choice_.emulated = device_->backend() == device::Backend::Host;
  if (is_device(src) && is_device(dst)) {
    choice_.direction = LinkDirection::DeviceToDevice;
    auto const& other = context.device(src.device_id());
    KVBM_EXPECTS(other->backend() == device_->backend(), Unsupported,
                 fmt::format("{} -> {}: an emulated device and a GPU do not reach each other; go "
                             "through host memory",
                             other->name(), device_->name()));
    choice_.addressable = device_->can_address(other->id());
    return;
  }
  bool const to_host = is_device(src);
  choice_.direction = to_host ? LinkDirection::DeviceToHost : LinkDirection::HostToDevice;
  choice_.pageable = (to_host ? dst : src).storage_kind() == StorageKind::System;
  image_ = make_staging_image(plan, to_host ? Side::Destination : Side::Source);
  host_segments_ = addresses_of(image_->host.segments, to_host ? dst : src);
  device_segments_ = addresses_of(image_->device.segments, to_host ? src : dst);
}

device::StreamPtr DeviceCopy::acquire_stream(TransferContext::Impl& context) const {
  return context.acquire_stream(device_->id(), choice_.direction);
}

std::vector<device::StreamPtr> DeviceCopy::streams_beside(TransferContext::Impl& context,
                                                          device::Stream const& busy) const {
  constexpr std::size_t kWanted = 2;
  std::vector<device::StreamPtr> streams;
  // The pool hands out in turns: one round more than wanted passes over `busy`.
  for (std::size_t i = 0; i <= kWanted && streams.size() < kWanted; ++i) {
    auto stream = context.acquire_inner_stream(device_->id(), choice_.direction);
    if (stream.get() != &busy) { streams.push_back(std::move(stream)); }
  }
  return streams;
}

std::uint64_t DeviceCopy::count_dma(std::uint64_t pieces_per_block, bool blocks_adjoin,
                                    std::span<BlockId const> src_blocks,
                                    std::span<BlockId const> dst_blocks) const {
  if (!blocks_adjoin) { return pieces_per_block * src_blocks.size(); }
  std::uint64_t num_groups = src_blocks.empty() ? 0 : 1;
  for (std::size_t i = 1; i < src_blocks.size(); ++i) {
    if (!follows(src_blocks, i) || !follows(dst_blocks, i)) { ++num_groups; }
  }
  return pieces_per_block * num_groups;
}

ChoiceInput DeviceCopy::choice(std::span<BlockId const> src_blocks,
                               std::span<BlockId const> dst_blocks) const {
  ChoiceInput input;
  input.src_kind = src_kind_;
  input.dst_kind = dst_kind_;
  input.num_blocks = src_blocks.size();
  input.bytes_per_block = bytes_per_block_;
  input.run_bytes = direct_.shape.run_bytes;
  DeviceChoice choice = choice_;
  choice.num_dma =
      std::max<std::uint64_t>(1, count_dma(runs_per_block_, runs_adjoin_, src_blocks, dst_blocks));
  if (image_) {
    auto const host = direction() == LinkDirection::DeviceToHost ? dst_blocks : src_blocks;
    choice.num_staged_dma = std::max<std::uint64_t>(
        1, count_dma(image_->pieces_per_block, image_->blocks_adjoin, host, host));
  }
  input.device = choice;
  return input;
}

void DeviceCopy::enqueue(TransferContext::Impl& context, device::StreamPtr const& stream,
                         std::span<BlockId const> src_blocks, std::span<BlockId const> dst_blocks,
                         Way const& way) const {
  CurrentDevice const current(device_->backend(), device_->id());
  if (way.strategy == Strategy::StagedDma) {
    enqueue_staged(context, stream, src_blocks, dst_blocks, way.max_ctas);
    return;
  }
  auto const boxes = direct_.boxes(src_blocks, dst_blocks);
  if (way.strategy == Strategy::SmCopy) {
    enqueue_kernel_copy(*stream, direct_.shape, boxes, way.max_ctas);
  } else {
    enqueue_dma(*stream, direct_.shape, boxes);
  }
}

std::vector<std::size_t> DeviceCopy::ring_parts(std::size_t num_blocks) const {
  // Small parts where the copy engines would otherwise wait: for the first gather, or at the end
  // for the last scatter. In between large ones, which cost fewer submissions.
  std::vector<std::size_t> parts;
  std::uint64_t bytes = kMinPartBytes;
  for (std::size_t left = num_blocks; left > 0;) {
    std::size_t const wanted = std::max<std::uint64_t>(1, bytes / image_->block_bytes);
    parts.push_back(std::min(left, wanted));
    left -= parts.back();
    bytes = std::min(2 * bytes, kMaxPartBytes);
  }
  if (direction() == LinkDirection::HostToDevice) { std::reverse(parts.begin(), parts.end()); }
  return parts;
}

void DeviceCopy::enqueue_staged(TransferContext::Impl& context, device::StreamPtr const& stream,
                                std::span<BlockId const> src_blocks,
                                std::span<BlockId const> dst_blocks, unsigned max_ctas) const {
  bool const to_host = direction() == LinkDirection::DeviceToHost;
  StagingImage const& image = *image_;
  auto const parts = ring_parts(src_blocks.size());
  std::size_t const num_slots = std::min(kRingSlots, parts.size());
  std::size_t const most_blocks = *std::max_element(parts.begin(), parts.end());
  std::uint64_t const slot_stride =
      checked_align_up(checked_mul(most_blocks, image.block_bytes), memory::kRegionAlignment);
  auto const ring = context.memory_pool(device_->id()).allocate(slot_stride * num_slots, stream);

  // The kernels stay on `stream`; others move the slots, in turns, so that the gap between two
  // copies of one is filled by the other.
  StreamFork const fork(
      *device_, stream,
      parts.size() > 1 ? streams_beside(context, *stream) : std::vector<device::StreamPtr>{});
  std::vector<device::EventPtr> emptied(num_slots);
  std::vector<BlockId> image_blocks(most_blocks);
  std::iota(image_blocks.begin(), image_blocks.end(), BlockId{0});
  std::vector<std::uintptr_t> image_of_device(image.device.image_segments.size());
  std::vector<std::uintptr_t> image_of_host(image.host.image_segments.size());

  std::size_t first = 0;
  for (std::size_t part = 0; part < parts.size(); ++part) {
    std::size_t const slot = part % num_slots;
    std::size_t const count = parts[part];
    std::uintptr_t const base = ring.address() + slot * slot_stride;
    auto const at = [base](std::uint64_t offset) { return base + offset; };
    std::transform(image.device.image_segments.begin(), image.device.image_segments.end(),
                   image_of_device.begin(), at);
    std::transform(image.host.image_segments.begin(), image.host.image_segments.end(),
                   image_of_host.begin(), at);
    auto const kernel = [&](device::Stream& on, std::span<BlockId const> ids) {
      enqueue_kernel_copy(
          on, image.device.shape,
          boxes(image_of_device, device_segments_, image.device.block_stride,
                ids.subspan(first, count), image_blocks, image.block_bytes, !to_host),
          max_ctas);
    };
    auto const dma = [&](device::Stream& on, std::span<BlockId const> ids) {
      enqueue_dma(on, image.host.shape,
                  boxes(image_of_host, host_segments_, image.host.block_stride,
                        ids.subspan(first, count), image_blocks, image.block_bytes, to_host));
    };
    auto const& dma_stream = fork.branch(part);
    auto const& fill_stream = to_host ? stream : dma_stream;
    auto const& empty_stream = to_host ? dma_stream : stream;
    if (emptied[slot] != nullptr) { fill_stream->wait(emptied[slot]); }
    if (to_host) {
      kernel(*fill_stream, src_blocks);
    } else {
      dma(*fill_stream, src_blocks);
    }
    fork.order(fill_stream, empty_stream);
    if (to_host) {
      dma(*empty_stream, dst_blocks);
    } else {
      kernel(*empty_stream, dst_blocks);
    }
    if (part + num_slots < parts.size()) { emptied[slot] = fork.mark(empty_stream); }
    first += count;
  }
}

}  // namespace kvbm::transfer
