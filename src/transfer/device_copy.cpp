// SPDX-License-Identifier: Apache-2.0
#include "transfer/device_copy.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <exception>
#include <numeric>
#include <utility>

#include "kvbm/core/checked.hpp"
#include "kvbm/core/error.hpp"
#include "kvbm/core/log.hpp"
#include "transfer/stream_copies.hpp"

namespace kvbm::transfer {
namespace {

using layout::PhysicalLayout;
using memory::StorageKind;

/// The ring between kernel and copy engine: deep enough that neither waits for the other.
constexpr std::size_t kRingSlots = 4;
constexpr std::uint64_t kMinSlotBytes = std::uint64_t{1} << 20U;
constexpr std::uint64_t kMaxSlotBytes = std::uint64_t{8} << 20U;

std::vector<std::uintptr_t> addresses_of(std::vector<SegmentBase> const& segments,
                                 PhysicalLayout const& layout) {
  std::vector<std::uintptr_t> addresses;
  addresses.reserve(segments.size());
  for (auto const& segment : segments) {
    addresses.push_back(layout.regions()[segment.region].address() + segment.offset);
  }
  return addresses;
}

bool is_device(PhysicalLayout const& layout) {
  return layout.storage_kind() == StorageKind::Device;
}

/// Lets one stream wait for another at the end of a scope.
class JoinStreams {
 public:
  JoinStreams(device::Device& device, device::StreamPtr from, device::StreamPtr to)
      : device_(device), from_(std::move(from)), to_(std::move(to)) {}
  ~JoinStreams() {
    if (from_ == nullptr) { return; }
    try {
      auto const end = device_.create_event();
      from_->record(end);
      to_->wait(end);
    } catch (std::exception const& e) {
      log::write(log::Level::Error, fmt::format("joining two streams failed: {}", e.what()));
    }
  }
  JoinStreams(JoinStreams const&) = delete;
  JoinStreams& operator=(JoinStreams const&) = delete;

 private:
  device::Device& device_;
  device::StreamPtr from_;
  device::StreamPtr to_;
};

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
      direct_{plan.shape, addresses_of(plan.src.segments, src), addresses_of(plan.dst.segments, dst),
              plan.src.block_stride, plan.dst.block_stride},
      bytes_per_block_(plan.bytes_per_block),
      runs_per_block_(plan.runs_per_block()),
      runs_adjoin_(runs_per_block_ == 1 && plan.src.block_stride == bytes_per_block_ &&
                   plan.dst.block_stride == bytes_per_block_) {
  choice_.emulated = device_->backend() == device::Backend::Host;
  if (is_device(src) && is_device(dst)) {
    choice_.direction = LinkDirection::DeviceToDevice;
    auto const other = context.device(src.device_id());
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

device::StreamPtr DeviceCopy::acquire_stream_beside(TransferContext::Impl& context,
                                                    device::Stream const& busy) const {
  auto stream = acquire_stream(context);
  if (stream.get() == &busy) { stream = acquire_stream(context); }
  return stream;
}

std::uint64_t DeviceCopy::count_dma(std::uint64_t pieces_per_block, bool blocks_adjoin,
                                    std::span<BlockId const> src_blocks,
                                    std::span<BlockId const> dst_blocks) const {
  if (!blocks_adjoin) { return pieces_per_block * src_blocks.size(); }
  std::uint64_t count = src_blocks.empty() ? 0 : 1;
  for (std::size_t i = 1; i < src_blocks.size(); ++i) {
    if (!follows(src_blocks, i) || !follows(dst_blocks, i)) { ++count; }
  }
  return count;
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
  kvbm_copy_boxes const boxes{direct_.src_segments.size(), direct_.src_segments.data(),
                              direct_.dst_segments.data(), direct_.src_block_stride,
                              direct_.dst_block_stride,    src_blocks.size(),
                              src_blocks.data(),           dst_blocks.data()};
  if (way.strategy == Strategy::SmCopy) {
    enqueue_kernel_copy(*stream, direct_.shape, boxes, way.max_ctas);
  } else {
    enqueue_dma(*stream, direct_.shape, boxes);
  }
}

void DeviceCopy::enqueue_staged(TransferContext::Impl& context, device::StreamPtr const& stream,
                                std::span<BlockId const> src_blocks,
                                std::span<BlockId const> dst_blocks, unsigned max_ctas) const {
  bool const to_host = direction() == LinkDirection::DeviceToHost;
  StagingImage const& image = *image_;
  std::size_t const num_blocks = src_blocks.size();
  std::uint64_t const total = checked_mul(image.block_bytes, num_blocks);
  std::uint64_t const slot_bytes = std::clamp(total / kRingSlots, kMinSlotBytes, kMaxSlotBytes);
  std::size_t const per_slot = std::min<std::size_t>(
      num_blocks, std::max<std::uint64_t>(1, slot_bytes / image.block_bytes));
  std::size_t const num_parts = (num_blocks + per_slot - 1) / per_slot;
  std::size_t const num_slots = std::min(kRingSlots, num_parts);
  std::uint64_t const slot_stride =
      checked_align_up(per_slot * image.block_bytes, memory::kRegionAlignment);
  auto const ring = context.memory_pool(device_->id()).allocate(slot_stride * num_slots, stream);

  // The kernels stay on `stream`; a second one moves the slots, so that both overlap.
  bool const overlap = num_parts > 1;
  auto const dma_stream = overlap ? acquire_stream_beside(context, *stream) : stream;
  std::vector<device::EventPtr> filled(num_slots);
  std::vector<device::EventPtr> emptied(num_slots);
  auto const record = [this](device::Stream& on, device::EventPtr& event) {
    event = device_->create_event();
    on.record(event);
  };
  auto const& fill_stream = to_host ? stream : dma_stream;
  auto const& empty_stream = to_host ? dma_stream : stream;
  if (overlap) {
    device::EventPtr begin;
    record(*stream, begin);
    dma_stream->wait(begin);
  }
  // Whatever happens in between, `stream` ends after its helper, and the ring is freed after both.
  JoinStreams const join(*device_, overlap ? dma_stream : nullptr, stream);
  std::vector<BlockId> image_blocks(per_slot);
  std::iota(image_blocks.begin(), image_blocks.end(), BlockId{0});
  std::vector<std::uintptr_t> image_of_device(image.device.image_segments.size());
  std::vector<std::uintptr_t> image_of_host(image.host.image_segments.size());

  for (std::size_t part = 0; part < num_parts; ++part) {
    std::size_t const slot = part % num_slots;
    std::size_t const first = part * per_slot;
    std::size_t const count = std::min(per_slot, num_blocks - first);
    std::uintptr_t const base = ring.address() + slot * slot_stride;
    auto const at = [base](std::uint64_t offset) { return base + offset; };
    std::transform(image.device.image_segments.begin(), image.device.image_segments.end(),
                   image_of_device.begin(), at);
    std::transform(image.host.image_segments.begin(), image.host.image_segments.end(),
                   image_of_host.begin(), at);
    auto const src = src_blocks.subspan(first, count);
    auto const dst = dst_blocks.subspan(first, count);
    auto const boxes = [&](std::vector<std::uintptr_t> const& in_image,
                           std::vector<std::uintptr_t> const& outside, std::uint64_t stride,
                           std::span<BlockId const> ids, bool from_image) {
      auto const* const a = from_image ? &in_image : &outside;
      auto const* const b = from_image ? &outside : &in_image;
      return kvbm_copy_boxes{a->size(),
                             a->data(),
                             b->data(),
                             from_image ? image.block_bytes : stride,
                             from_image ? stride : image.block_bytes,
                             count,
                             from_image ? image_blocks.data() : ids.data(),
                             from_image ? ids.data() : image_blocks.data()};
    };
    if (overlap && emptied[slot] != nullptr) { fill_stream->wait(emptied[slot]); }
    if (to_host) {
      enqueue_kernel_copy(
          *fill_stream, image.device.shape,
          boxes(image_of_device, device_segments_, image.device.block_stride, src, false),
          max_ctas);
    } else {
      enqueue_dma(*fill_stream, image.host.shape,
                  boxes(image_of_host, host_segments_, image.host.block_stride, src, false));
    }
    if (overlap) {
      record(*fill_stream, filled[slot]);
      empty_stream->wait(filled[slot]);
    }
    if (to_host) {
      enqueue_dma(*empty_stream, image.host.shape,
                  boxes(image_of_host, host_segments_, image.host.block_stride, dst, true));
    } else {
      enqueue_kernel_copy(
          *empty_stream, image.device.shape,
          boxes(image_of_device, device_segments_, image.device.block_stride, dst, true), max_ctas);
    }
    if (overlap) { record(*empty_stream, emptied[slot]); }
  }
}

}  // namespace kvbm::transfer
