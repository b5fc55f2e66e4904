// SPDX-License-Identifier: Apache-2.0
#include "kvbm/layout/physical_layout.hpp"

#include "kvbm/core/error.hpp"
#include "kvbm/layout/descriptor.hpp"
#include "kvbm/layout/view.hpp"
#include "layout/state.hpp"
#include "layout/strides.hpp"

#include <fmt/format.h>

namespace kvbm::layout {

using detail::Pieces;

std::string_view to_string(LayoutKind kind) noexcept {
  return kind == LayoutKind::FullyContiguous ? "FullyContiguous" : "LayerSeparate";
}

std::string_view to_string(BlockDimension dimension) noexcept {
  return dimension == BlockDimension::First ? "First" : "Second";
}

namespace detail {

PhysicalLayout make_layout(LayoutSpec spec, std::vector<memory::Region> regions,
                           std::shared_ptr<memory::MemorySource> source) {
  auto const print = fingerprint(spec);
  auto const shape = shape_fingerprint(spec.config);
  return PhysicalLayout(std::make_shared<PhysicalLayout::State const>(
      PhysicalLayout::State{std::move(spec), std::move(regions), std::move(source), print, shape}));
}

}  // namespace detail

LayoutConfig const& PhysicalLayout::config() const noexcept { return state_->spec.config; }
LayoutKind PhysicalLayout::kind() const noexcept { return state_->spec.kind; }
BlockDimension PhysicalLayout::block_dimension() const noexcept { return state_->spec.dimension; }
KvBlockLayout const& PhysicalLayout::format() const noexcept { return state_->spec.format; }
BlockGeometry const& PhysicalLayout::geometry() const noexcept { return state_->spec.geometry; }

std::vector<memory::Region> const& PhysicalLayout::regions() const noexcept {
  return state_->regions;
}

memory::StorageKind PhysicalLayout::storage_kind() const noexcept {
  return state_->regions.front().kind();
}

DeviceId PhysicalLayout::device_id() const noexcept { return state_->regions.front().device_id(); }

std::shared_ptr<memory::MemorySource> const& PhysicalLayout::source() const noexcept {
  return state_->source;
}

PhysicalLayout::ChunkAddress PhysicalLayout::chunk(std::uint64_t block, std::uint64_t layer,
                                                   std::uint64_t outer) const {
  return detail::chunk_address(state_->spec, block, layer, outer);
}

std::uint32_t PhysicalLayout::extents_per_block() const noexcept {
  auto const& config = state_->spec.config;
  switch (state_->spec.pieces.unit) {
    case Pieces::Unit::Block: return 1;
    case Pieces::Unit::Layer: return static_cast<std::uint32_t>(config.num_layers());
    case Pieces::Unit::Chunk:
      return static_cast<std::uint32_t>(config.num_layers() * config.outer_dim());
    case Pieces::Unit::Scattered: break;
  }
  return 0;
}

BlockExtent PhysicalLayout::extent(std::uint64_t block, std::uint32_t number) const {
  KVBM_EXPECTS(number < extents_per_block(), OutOfRange,
               fmt::format("extent {} of {}", number, extents_per_block()));
  auto const& spec = state_->spec;
  std::uint32_t layer = 0;
  std::uint64_t outer = 0;
  if (spec.pieces.unit == Pieces::Unit::Layer) {
    layer = number;
  } else if (spec.pieces.unit == Pieces::Unit::Chunk) {
    auto const outers = static_cast<std::uint32_t>(spec.config.outer_dim());
    layer = number / outers;
    outer = number % outers;
  }
  auto const address = detail::chunk_address(spec, block, layer, outer);
  return {address.region, address.offset, spec.pieces.bytes,
          outer * spec.config.num_blocks() + block};
}

IndexRange PhysicalLayout::extent_layers(std::uint32_t number) const {
  KVBM_EXPECTS(number < extents_per_block(), OutOfRange,
               fmt::format("extent {} of {}", number, extents_per_block()));
  auto const& spec = state_->spec;
  if (spec.pieces.unit == Pieces::Unit::Block) { return {0, spec.config.num_layers()}; }
  auto const layer =
      spec.pieces.unit == Pieces::Unit::Layer ? number : number / spec.config.outer_dim();
  return {layer, layer + 1};
}

Checksum PhysicalLayout::fingerprint() const { return state_->fingerprint; }

Checksum PhysicalLayout::shape_fingerprint() const { return state_->shape_fingerprint; }

PhysicalLayout PhysicalLayout::with_format(KvBlockLayout const& format) const {
  auto const& spec = state_->spec;
  if (format == spec.format) { return *this; }
  KVBM_EXPECTS(!spec.tensor, InvalidArgument,
               fmt::format("these are engine tensors {}, they cannot be read as {}",
                           spec.tensor->to_string(), format.to_string()));
  auto other = detail::make_spec({spec.config, spec.kind, spec.dimension, format, {}});
  KVBM_EXPECTS(other.geometry.block_stride == spec.geometry.block_stride &&
                   other.pieces.bytes == spec.pieces.bytes && other.pieces.unit == spec.pieces.unit,
               InvalidArgument,
               fmt::format("blocks of format {} are {} bytes each {} bytes, they cannot be read as "
                           "{} ({} bytes each {} bytes)",
                           spec.format.to_string(), spec.pieces.bytes, spec.geometry.block_stride,
                           format.to_string(), other.pieces.bytes, other.geometry.block_stride));
  return detail::make_layout(std::move(other), state_->regions, state_->source);
}

std::string PhysicalLayout::to_string() const {
  auto const& c = config();
  auto const row = c.num_heads() ? fmt::format("{},{}", *c.num_heads(), c.head_dim())
                                 : fmt::format("{}", c.inner_dim());
  auto const dimension = kind() == LayoutKind::LayerSeparate
                             ? fmt::format(" {}", layout::to_string(block_dimension()))
                             : std::string{};
  auto const device = device_id() >= 0 ? fmt::format(" {}", device_id()) : std::string{};
  return fmt::format("{}{} {}, {} blocks [{},{},{},{}] x {} B, {}{}", layout::to_string(kind()),
                     dimension, format().to_string(), c.num_blocks(), c.num_layers(), c.outer_dim(),
                     c.page_size(), row, c.dtype_width_bytes(), memory::to_string(storage_kind()),
                     device);
}

View PhysicalLayout::view() const {
  auto const& g = geometry();
  auto const axis = [&](Dim dim, BlockDim block_dim) {
    auto const i = detail::index_of(block_dim);
    return ViewAxis{dim, g.extents[i], static_cast<std::uint64_t>(g.strides[i])};
  };
  std::vector<ViewAxis> axes{{Dim::Block, config().num_blocks(), g.block_stride},
                             axis(Dim::Layer, BlockDim::Layer),
                             axis(Dim::Outer, BlockDim::Outer),
                             axis(Dim::Token, BlockDim::Token),
                             axis(Dim::Head, BlockDim::Head),
                             axis(Dim::HeadDim, BlockDim::HeadDim)};
  return View(g.element_bytes, std::move(axes), 0,
              g.layers_are_regions ? std::optional(Dim::Layer) : std::nullopt);
}

namespace {

BlockView make_block_view(PhysicalLayout const& layout, View view) {
  auto const& region = layout.regions()[view.first_region()];
  auto const address = region.address() == 0 ? 0 : region.address() + view.offset();
  auto const bytes = view.reach();
  return {static_cast<std::uint32_t>(view.first_region()), view.offset(), address, bytes,
          std::move(view)};
}

}  // namespace

BlockView PhysicalLayout::chunk_view(std::uint64_t block, std::uint64_t layer,
                                     std::uint64_t outer) const {
  return make_block_view(
      *this, view().select(Dim::Block, block).select(Dim::Layer, layer).select(Dim::Outer, outer));
}

BlockView PhysicalLayout::block_view(std::uint64_t block) const {
  if (regions().size() > 1) {
    throw UnsupportedError(
        fmt::format("a block of this layout is spread over {} regions, take "
                    "chunk_view(block, layer, outer)",
                    regions().size()));
  }
  auto whole = view().select(Dim::Block, block);
  return make_block_view(*this,
                         geometry().layers_are_regions ? whole.select(Dim::Layer, 0) : whole);
}

}  // namespace kvbm::layout
