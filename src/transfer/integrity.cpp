// SPDX-License-Identifier: Apache-2.0
#include "kvbm/transfer/integrity.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <numeric>
#include <optional>

#include "kvbm/core/checksum_stream.hpp"
#include "kvbm/core/error.hpp"
#include "kvbm/memory/memory_source.hpp"
#include "kvbm/transfer/prepared_transfer.hpp"
#include "transfer/bound_plan.hpp"
#include "transfer/context_impl.hpp"
#include "transfer/stream_copies.hpp"

namespace kvbm::transfer {
namespace {

using layout::KvBlockLayout;
using layout::LayoutConfig;
using layout::PhysicalLayout;

void check_ids(PhysicalLayout const& layout, std::span<BlockId const> ids) {
  std::uint64_t const num_blocks = layout.config().num_blocks();
  for (BlockId const id : ids) {
    KVBM_EXPECTS(id < num_blocks, OutOfRange,
                 fmt::format("block {} is beyond the layout's {} blocks", id, num_blocks));
  }
}

/// The order in which a logical tensor is hashed and filled: [nl, no, nt, nh, hd].
KvBlockLayout canonical_format(PhysicalLayout const& layout) {
  return layout.format().is_unknown() ? KvBlockLayout::Unknown : KvBlockLayout::OperationalNHD;
}

/// A layout of the same blocks in the order of their logical tensors, but for its memory.
auto canonical_like(PhysicalLayout const& like, std::uint64_t num_blocks) {
  return PhysicalLayout::builder(like.source())
      .config(like.config().with_num_blocks(num_blocks).with_alignment(1))
      .fully_contiguous(canonical_format(like));
}

/// In memory that the CPU reaches, pinned where a device has to reach it too.
PhysicalLayout make_canonical(PhysicalLayout const& like, std::uint64_t num_blocks) {
  auto const builder = canonical_like(like, num_blocks);
  return like.storage_kind() == memory::StorageKind::Device
             ? builder.allocate_pinned(like.device_id()).build()
             : builder.allocate_system().build();
}

/// Box of one layer of one block between a layout and its canonical order.
struct LayerBox {
  kvbm_copy_template shape;
  std::uintptr_t base;  ///< block 0 in the layout
  std::uint64_t block_stride;
  /// @pre the CPU reaches this memory
  [[nodiscard]] std::byte* of(BlockId block) const {
    return reinterpret_cast<std::byte*>(base + block * block_stride);
  }
};

enum class Way { ToCanonical, FromCanonical };

/// One box a layer, found by the same lowering that moves blocks.
std::vector<LayerBox> layer_boxes(PhysicalLayout const& layout, Way way) {
  // Only its geometry is asked: one block of memory nobody touches.
  PhysicalLayout const canonical = canonical_like(layout, 1).allocate_system().build();
  std::uint64_t const heads =
      layout.geometry().extents[static_cast<std::size_t>(layout::BlockDim::Head)];
  std::vector<LayerBox> boxes;
  for (std::uint64_t layer = 0; layer < layout.config().num_layers(); ++layer) {
    Selection const selection{{layer, layer + 1}, {0, heads}, {0, heads}};
    bool const to = way == Way::ToCanonical;
    CopyPlan const plan =
        to ? lower(layout, canonical, selection) : lower(canonical, layout, selection);
    PlanSide const& side = to ? plan.src : plan.dst;
    std::uintptr_t const region = layout.regions()[side.segments[0].region].address();
    boxes.push_back({plan.shape, region + side.segments[0].offset, side.block_stride});
  }
  return boxes;
}

/// Calls `body(bytes, size)` for the bytes of one box in canonical order. Long runs are read where
/// they are, short ones first gathered into `scratch`, which holds a layer and stays in the cache.
template <typename Body>
void for_each_piece(LayerBox const& box, BlockId block, std::span<std::byte> scratch,
                    Body const& body) {
  constexpr std::uint64_t kLongRunBytes = 2048;
  std::span const dims(box.shape.dims, box.shape.num_dims);
  if (!dims.empty() && box.shape.run_bytes < kLongRunBytes) {
    kernels::copy_box(box.shape, box.of(block), scratch.data());
    body(scratch.data(), scratch.size());
    return;
  }
  auto const walk = [&](auto const& self, std::byte const* at, std::size_t dim) -> void {
    if (dim == dims.size()) {
      body(at, box.shape.run_bytes);
      return;
    }
    auto const step = static_cast<std::uint64_t>(dims[dim].src_stride);
    for (std::uint64_t i = 0; i < dims[dim].extent; ++i) {
      self(self, at + i * step, dim + 1);
    }
  };
  walk(walk, box.of(block), 0);
}

std::size_t layer_bytes(PhysicalLayout const& layout) {
  return layout.config().block_bytes() / layout.config().num_layers();
}

/// What is hashed: a whole block, or each of its layers by itself.
enum class Scope { Block, Layer };

std::vector<Checksum> hash_memory(TransferContext& context, PhysicalLayout const& layout,
                                  std::span<BlockId const> ids, Scope scope) {
  auto const boxes = layer_boxes(layout, Way::ToCanonical);
  std::size_t const per_block = scope == Scope::Block ? 1 : boxes.size();
  std::vector<Checksum> checksums(ids.size() * per_block);
  context.copy_engine().parallel_for(ids.size(), 1, [&](std::size_t i) {
    std::vector<std::byte> scratch(layer_bytes(layout));
    ChecksumStream stream;
    for (std::size_t layer = 0; layer < boxes.size(); ++layer) {
      for_each_piece(boxes[layer], ids[i], scratch,
                     [&](auto const* data, std::size_t size) { stream.update(data, size); });
      if (layer + 1 == boxes.size() || scope == Scope::Layer) {
        checksums[i * per_block + (scope == Scope::Layer ? layer : 0)] = stream.digest();
        stream.reset();
      }
    }
  });
  return checksums;
}

/// The context outlives the synchronous calls below: they need no share in its ownership.
std::shared_ptr<TransferContext> borrow(TransferContext& context) {
  return {&context, [](TransferContext*) {}};
}

/// Runs a transfer of this context between two unregistered layouts and waits for it.
void move_and_wait(std::shared_ptr<TransferContext> const& context, PhysicalLayout const& src,
                   std::span<BlockId const> src_ids, PhysicalLayout const& dst,
                   std::span<BlockId const> dst_ids) {
  PreparedTransfer::prepare(context, {src, nullptr}, {dst, nullptr}, {}, {})
      .submit(src_ids, dst_ids)
      .wait();
}

/// Calls `body(scratch layout, its ids, part of ids)` for batches of blocks that fit into memory.
template <typename Body>
void in_batches(PhysicalLayout const& layout, std::span<BlockId const> ids, Body const& body) {
  constexpr std::uint64_t kBatchBytes = std::uint64_t{64} << 20U;
  std::size_t const batch = std::clamp<std::size_t>(kBatchBytes / layout.config().block_bytes(), 1,
                                                    std::max<std::size_t>(1, ids.size()));
  PhysicalLayout const scratch = make_canonical(layout, batch);
  std::vector<BlockId> scratch_ids(batch);
  std::iota(scratch_ids.begin(), scratch_ids.end(), BlockId{0});
  for (std::size_t first = 0; first < ids.size(); first += batch) {
    std::size_t const count = std::min(batch, ids.size() - first);
    body(scratch, std::span<BlockId const>(scratch_ids).first(count), ids.subspan(first, count));
  }
}

/// By the GPU that the blocks are on; empty where they are not laid out for that.
std::optional<std::vector<Checksum>> hash_on_device(TransferContext& context,
                                                    PhysicalLayout const& layout,
                                                    std::span<BlockId const> ids, Scope scope) {
  constexpr std::uint64_t kScratchBytes = std::uint64_t{32} << 20U;
  auto const device = context.device(layout.device_id());
  if (device->backend() != device::Backend::Cuda || ids.empty()) { return std::nullopt; }
  auto const boxes = layer_boxes(layout, Way::ToCanonical);
  std::vector<std::uintptr_t> segments;
  segments.reserve(boxes.size());
  for (LayerBox const& box : boxes) {
    segments.push_back(box.base);
  }
  kvbm_hash_units const units{segments.size(),
                              segments.data(),
                              boxes.front().block_stride,
                              scope == Scope::Layer ? 1 : segments.size(),
                              ids.size(),
                              ids.data()};
  std::uint64_t const per_block = kvbm_cuda_xxh3_128_scratch_bytes(&boxes.front().shape, &units);
  CurrentDevice const current(device->backend(), device->id());
  auto const stream = context.impl().acquire_stream(device->id(), LinkDirection::DeviceToDevice);
  auto const scratch =
      context.impl()
          .memory_pool(device->id())
          .allocate(std::max({per_block, std::min(per_block * ids.size(), kScratchBytes),
                              memory::kRegionAlignment}),
                    stream);
  std::size_t const count = ids.size() * segments.size() / units.segments_per_unit;
  auto const results = layout.source()->allocate(
      {memory::StorageKind::Pinned, count * sizeof(Checksum), memory::kRegionAlignment, -1});
  auto* const halves = reinterpret_cast<std::uint64_t*>(results.address());
  kvbm_status const status =
      kvbm_cuda_xxh3_128(&boxes.front().shape, &units, reinterpret_cast<void*>(scratch.address()),
                         scratch.bytes(), halves, stream->native_handle());
  if (status == KVBM_STATUS_NOT_SUPPORTED) { return std::nullopt; }
  check_status(status, "hashing blocks on the device");
  stream->synchronize();
  std::vector<Checksum> checksums(count);
  for (std::size_t i = 0; i < count; ++i) {
    checksums[i] = {halves[2 * i], halves[2 * i + 1]};
  }
  return checksums;
}

std::vector<Checksum> hash_blocks(TransferContext& context, PhysicalLayout const& layout,
                                  std::span<BlockId const> ids, Scope scope) {
  check_ids(layout, ids);
  if (is_host_reachable(layout)) { return hash_memory(context, layout, ids, scope); }
  if (layout.storage_kind() == memory::StorageKind::Device) {
    if (auto checksums = hash_on_device(context, layout, ids, scope)) { return *checksums; }
  }
  auto const borrowed = borrow(context);
  std::vector<Checksum> checksums;
  in_batches(layout, ids, [&](auto const& scratch, auto scratch_ids, auto part) {
    move_and_wait(borrowed, layout, part, scratch, scratch_ids);
    auto const batch = hash_memory(context, scratch, scratch_ids, scope);
    checksums.insert(checksums.end(), batch.begin(), batch.end());
  });
  return checksums;
}

/// SplitMix64's finalizer (Steele, Lea, Flood 2014): every input bit reaches every output bit.
std::uint64_t mix(std::uint64_t x) {
  x = (x ^ (x >> 30U)) * 0xBF58476D1CE4E5B9U;
  x = (x ^ (x >> 27U)) * 0x94D049BB133111EBU;
  return x ^ (x >> 31U);
}

/// Writes the pattern for one layer of one block in canonical order.
void fill_layer(std::vector<std::byte>& bytes, FillPattern const& pattern, BlockId block,
                std::uint64_t layer) {
  std::uint64_t const start = layer * bytes.size();
  std::uint64_t const place = mix(pattern.value + mix((std::uint64_t{block} << 32U) + layer + 1));
  switch (pattern.kind) {
    case FillPattern::Kind::Constant:
      std::memset(bytes.data(), static_cast<int>(pattern.value & 0xFFU), bytes.size());
      return;
    case FillPattern::Kind::BlockLayer:
      std::memset(bytes.data(), static_cast<int>(place & 0xFFU), bytes.size());
      return;
    case FillPattern::Kind::Sequential:
      for (std::size_t i = 0; i < bytes.size(); ++i) {
        bytes[i] = static_cast<std::byte>((pattern.value + block + start + i) & 0xFFU);
      }
      return;
    case FillPattern::Kind::Hashed:
      for (std::size_t i = 0; i < bytes.size(); i += sizeof(std::uint64_t)) {
        std::uint64_t const word = mix(place + i);
        std::memcpy(bytes.data() + i, &word, std::min(sizeof word, bytes.size() - i));
      }
      return;
  }
}

void fill_memory(TransferContext& context, PhysicalLayout const& layout,
                 std::span<BlockId const> ids, std::span<BlockId const> logical_ids,
                 FillPattern const& pattern) {
  auto const boxes = layer_boxes(layout, Way::FromCanonical);
  context.copy_engine().parallel_for(ids.size(), 1, [&](std::size_t i) {
    std::vector<std::byte> scratch(layer_bytes(layout));
    for (std::size_t layer = 0; layer < boxes.size(); ++layer) {
      fill_layer(scratch, pattern, logical_ids[i], layer);
      kernels::copy_box(boxes[layer].shape, scratch.data(), boxes[layer].of(ids[i]));
    }
  });
}

}  // namespace

std::vector<Checksum> block_checksums(TransferContext& context, PhysicalLayout const& layout,
                                      std::span<BlockId const> block_ids) {
  return hash_blocks(context, layout, block_ids, Scope::Block);
}

std::vector<Checksum> layer_checksums(TransferContext& context, PhysicalLayout const& layout,
                                      std::span<BlockId const> block_ids) {
  return hash_blocks(context, layout, block_ids, Scope::Layer);
}

void fill_blocks(TransferContext& context, PhysicalLayout const& layout,
                 std::span<BlockId const> block_ids, FillPattern const& pattern) {
  check_ids(layout, block_ids);
  if (is_host_reachable(layout)) {
    fill_memory(context, layout, block_ids, block_ids, pattern);
    return;
  }
  auto const borrowed = borrow(context);
  in_batches(layout, block_ids, [&](auto const& scratch, auto scratch_ids, auto part) {
    fill_memory(context, scratch, scratch_ids, part, pattern);
    move_and_wait(borrowed, scratch, scratch_ids, layout, part);
  });
}

}  // namespace kvbm::transfer
