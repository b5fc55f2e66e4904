// SPDX-License-Identifier: Apache-2.0
#include "transfer/file_geometry.hpp"

#include <fmt/format.h>

#include "kvbm/core/error.hpp"
#include "kvbm/memory/block_file.hpp"

namespace kvbm::transfer {
namespace {

using layout::BlockDim;
using layout::PhysicalLayout;
using memory::StorageKind;

std::size_t index(BlockDim dim) { return static_cast<std::size_t>(dim); }

std::uint64_t num_heads(PhysicalLayout const& layout) {
  return layout.geometry().extents[index(BlockDim::Head)];
}

bool same_strides(PhysicalLayout const& a, PhysicalLayout const& b) {
  for (BlockDim const dim :
       {BlockDim::Layer, BlockDim::Outer, BlockDim::Token, BlockDim::Head, BlockDim::HeadDim}) {
    std::size_t const i = index(dim);
    if (a.geometry().extents[i] != b.geometry().extents[i]) { return false; }
    // Between extents (block second: along Outer) strides may differ: extents move one by one.
    bool const inside_extent =
        !(dim == BlockDim::Outer && a.kind() == layout::LayoutKind::LayerSeparate &&
          a.block_dimension() == layout::BlockDimension::Second);
    if (inside_extent && a.geometry().extents[i] > 1 &&
        a.geometry().strides[i] != b.geometry().strides[i]) {
      return false;
    }
  }
  return true;
}

bool is_aligned(std::uint64_t value) { return value % memory::kFileAlignment == 0; }

}  // namespace

bool same_extents(PhysicalLayout const& a, PhysicalLayout const& b) {
  if (a.kind() != b.kind() || a.block_dimension() != b.block_dimension() ||
      a.extents_per_block() != b.extents_per_block() ||
      a.geometry().element_bytes != b.geometry().element_bytes || !same_strides(a, b)) {
    return false;
  }
  for (std::uint32_t i = 0; i < a.extents_per_block(); ++i) {
    if (a.extent(0, i).bytes != b.extent(0, i).bytes) { return false; }
  }
  return true;
}

bool is_partial(PhysicalLayout const& layout, IndexRange layers, IndexRange heads) {
  if (heads.size() != num_heads(layout)) { return true; }
  for (std::uint32_t i = 0; i < layout.extents_per_block(); ++i) {
    IndexRange const covered = layout.extent_layers(i);
    bool const touched = covered.begin < layers.end && layers.begin < covered.end;
    bool const inside = layers.begin <= covered.begin && covered.end <= layers.end;
    if (touched && !inside) { return true; }
  }
  return false;
}

bool extents_match(ValidatedPair const& pair) {
  auto const& selection = pair.selection;
  return same_extents(pair.src, pair.dst) &&
         !is_partial(pair.src, selection.layers, selection.src_heads) &&
         !is_partial(pair.dst, selection.layers, selection.dst_heads);
}

bool aligned_for_direct_io(ValidatedPair const& pair) {
  bool const from_store = memory::is_store(pair.src.storage_kind());
  bool const to_store = memory::is_store(pair.dst.storage_kind());
  if (from_store == to_store) { return false; }
  PhysicalLayout const& memory = from_store ? pair.dst : pair.src;
  PhysicalLayout const& stored = from_store ? pair.src : pair.dst;
  // Objects are sent and received by the CPU, from and to any address.
  if (stored.storage_kind() == StorageKind::Object) { return true; }
  if (!memory::is_memory(memory.storage_kind()) || !is_aligned(memory.geometry().block_stride)) {
    return false;
  }
  for (auto const& region : memory.regions()) {
    if (!is_aligned(region.address())) { return false; }
  }
  for (std::uint32_t i = 0; i < memory.extents_per_block(); ++i) {
    auto const extent = memory.extent(0, i);
    if (!is_aligned(extent.offset) || !is_aligned(extent.bytes)) { return false; }
  }
  return true;
}

bool bounce_serves_as_staging(ValidatedPair const& pair, PhysicalLayout const& bounce) {
  bool const from_store = memory::is_store(pair.src.storage_kind());
  bool const to_store = memory::is_store(pair.dst.storage_kind());
  if (bounce.regions().front().host_data() == nullptr) { return false; }
  if (from_store && to_store) { return same_extents(pair.src, bounce) && extents_match(pair); }
  return same_extents(from_store ? pair.src : pair.dst, bounce);
}

void validate_bounce_fits(ValidatedPair const& pair, PhysicalLayout const& bounce) {
  auto const& config = bounce.config();
  auto const& expected = pair.src.config();
  bool const shape_fits = config.num_layers() == expected.num_layers() &&
                          config.outer_dim() == expected.outer_dim() &&
                          config.page_size() == expected.page_size() &&
                          config.dtype_width_bytes() == expected.dtype_width_bytes();
  auto const same_heads = [&bounce](PhysicalLayout const& side) {
    return bounce.geometry().extents == side.geometry().extents;
  };
  KVBM_EXPECTS(shape_fits && bounce.format().is_unknown() == pair.src.format().is_unknown() &&
                   (same_heads(pair.src) || same_heads(pair.dst)),
               InvalidArgument,
               fmt::format("bounce_buffer ({}) has the shape of neither side ({} -> {})",
                           bounce.to_string(), pair.src.to_string(), pair.dst.to_string()));
}

}  // namespace kvbm::transfer
