// SPDX-License-Identifier: Apache-2.0
#include "kvbm/core/checked.hpp"
#include "kvbm/core/error.hpp"
#include "kvbm/layout/physical_layout.hpp"
#include "layout/spec.hpp"
#include "layout/strides.hpp"

#include <fmt/format.h>

#include <array>

namespace kvbm::layout {
namespace {

using detail::bounded_mul;
using detail::index_of;
using detail::Pieces;
using detail::StridedDim;

/// Regions a layout may have; hostile descriptors would else make us reserve memory for 2^60.
constexpr std::uint64_t kMaxLayerRegions = std::uint64_t{1} << 20U;

std::uint64_t align_up(std::uint64_t bytes, LayoutConfig const& config) {
  KVBM_EXPECTS(bytes <= kMaxBytes && config.alignment() - 1 <= kMaxBytes - bytes, Overflow,
               fmt::format("{} bytes aligned up to {} exceed {} bytes", bytes, config.alignment(),
                           kMaxBytes));
  return checked_align_up(bytes, config.alignment());
}

BlockGeometry fully_contiguous(LayoutConfig const& config, KvBlockLayout const& format) {
  BlockGeometry geometry;
  auto const strides = format.strides(config);
  geometry.extents = detail::block_extents(config, format);
  geometry.strides = strides.bytes;
  geometry.element_bytes = config.dtype_width_bytes();
  geometry.block_stride = align_up(strides.footprint, config);
  geometry.region_bytes =
      bounded_mul(config.num_blocks(), geometry.block_stride, "num_blocks * block stride");
  return geometry;
}

/// Strides inside a layer's piece. For explicit ones the footprint is that of the piece.
BlockStrides piece_strides(LayoutConfig const& config, BlockDimension dimension,
                           KvBlockLayout const& format) {
  if (auto const given = format.explicit_strides()) {
    detail::check_strided(*given, detail::block_extents(config, format), config.dtype_width_bytes(),
                          dimension == BlockDimension::First ? BlockDim::Outer : BlockDim::Token);
    return *given;
  }
  KVBM_EXPECTS(format.is_operational() || format.is_unknown(), InvalidArgument,
               fmt::format("layer separate layouts take OperationalNHD, OperationalHND, Unknown or "
                           "explicit strides, got format {}",
                           format.to_string()));
  auto strides = format.strides(config);
  strides.footprint = dimension == BlockDimension::First ? config.outer_dim() * config.chunk_bytes()
                                                         : config.chunk_bytes();
  return strides;
}

BlockGeometry layer_separate(LayoutConfig const& config, BlockDimension dimension,
                             KvBlockLayout const& format) {
  auto const strides = piece_strides(config, dimension, format);
  BlockGeometry geometry;
  geometry.layers_are_regions = true;
  geometry.extents = detail::block_extents(config, format);
  geometry.strides = strides.bytes;
  geometry.strides[index_of(BlockDim::Layer)] = 0;
  geometry.element_bytes = config.dtype_width_bytes();
  geometry.block_stride = align_up(strides.footprint, config);
  auto const all_blocks =
      bounded_mul(config.num_blocks(), geometry.block_stride, "num_blocks * block stride");
  geometry.region_bytes = all_blocks;
  if (dimension == BlockDimension::Second) {
    geometry.strides[index_of(BlockDim::Outer)] = static_cast<std::int64_t>(all_blocks);
    geometry.region_bytes =
        bounded_mul(config.outer_dim(), all_blocks, "outer_dim * num_blocks * chunk stride");
  }
  return geometry;
}

/// The geometry of engine tensors, one a layer.
BlockGeometry of_tensor(KvDimLayout const& tensor, LayoutConfig const& config) {
  tensor.check_config(config);
  auto const unknown = !config.num_heads();
  auto const width = config.dtype_width_bytes();
  BlockGeometry geometry;
  geometry.layers_are_regions = true;
  geometry.extents = detail::block_extents(
      config, unknown ? KvBlockLayout::Unknown : KvBlockLayout::OperationalNHD);
  geometry.element_bytes = width;
  geometry.block_stride = tensor.stride(Dim::Block);
  geometry.region_bytes = tensor.bytes();
  KVBM_EXPECTS(geometry.block_stride % config.alignment() == 0, InvalidArgument,
               fmt::format("the tensor's block stride of {} bytes is not a multiple of the "
                           "alignment {}",
                           geometry.block_stride, config.alignment()));
  auto const stride = [&](Dim dim) { return static_cast<std::int64_t>(tensor.stride(dim)); };
  auto const rows = static_cast<std::int64_t>(config.inner_dim() * width);
  auto const heads = unknown ? rows : static_cast<std::int64_t>(config.head_dim() * width);
  geometry.strides = {0, stride(Dim::Outer), stride(Dim::Token),
                      tensor.has(Dim::Head) ? stride(Dim::Head) : heads,
                      static_cast<std::int64_t>(width)};
  return geometry;
}

/// Whether two geometries put every element at the same byte.
bool same_addresses(BlockGeometry const& a, BlockGeometry const& b) {
  if (a.block_stride != b.block_stride || a.extents != b.extents) { return false; }
  for (std::size_t i = index_of(BlockDim::Outer); i < kNumBlockDims; ++i) {
    if (a.extents[i] > 1 && a.strides[i] != b.strides[i]) { return false; }
  }
  return true;
}

Pieces pieces_of(LayoutConfig const& config, BlockGeometry const& geometry) {
  auto const dims = detail::named_dims({geometry.strides, 0}, geometry.extents);
  auto const width = geometry.element_bytes;
  auto const stride = geometry.block_stride;
  auto const blocks = config.num_blocks();
  if (!geometry.layers_are_regions) {
    return {Pieces::Unit::Block, detail::reach_bytes(dims, width), stride, blocks};
  }
  auto const layer = detail::reach_bytes(std::span(dims).subspan(index_of(BlockDim::Outer)), width);
  auto const chunk = detail::reach_bytes(std::span(dims).subspan(index_of(BlockDim::Token)), width);
  if (layer <= stride) { return {Pieces::Unit::Layer, layer, stride, blocks}; }
  auto const outer_stride = dims[index_of(BlockDim::Outer)].stride;
  if (chunk <= stride && outer_stride == blocks * stride) {
    return {Pieces::Unit::Chunk, chunk, stride, config.outer_dim() * blocks};
  }
  return {Pieces::Unit::Scattered, 0, 0, 0};
}

/// The tensor's order as a format, for messages and fingerprints.
KvBlockLayout format_of(BlockGeometry const& geometry) {
  BlockStrides strides{geometry.strides, 1};
  auto const dims = detail::named_dims(strides, geometry.extents);
  strides.footprint = detail::reach_bytes(std::span(dims).subspan(index_of(BlockDim::Outer)),
                                          geometry.element_bytes);
  return KvBlockLayout::Strided(strides);
}

void expect_few_regions(LayoutConfig const& config) {
  KVBM_EXPECTS(config.num_layers() <= kMaxLayerRegions, InvalidArgument,
               fmt::format("layer separate layouts have at most {} layers, got num_layers {}",
                           kMaxLayerRegions, config.num_layers()));
}

}  // namespace

BlockGeometry make_geometry(LayoutConfig const& config, LayoutKind kind, BlockDimension dimension,
                            KvBlockLayout const& format) {
  if (kind == LayoutKind::FullyContiguous) { return fully_contiguous(config, format); }
  expect_few_regions(config);
  return layer_separate(config, dimension, format);
}

namespace detail {

LayoutSpec make_spec(SpecRequest const& request) {
  auto const& config = request.config;
  auto const fallback = config.num_heads() ? KvBlockLayout::OperationalNHD : KvBlockLayout::Unknown;
  if (!request.tensor) {
    auto const format = request.format.value_or(fallback);
    auto const geometry = make_geometry(config, request.kind, request.dimension, format);
    return {config, request.kind, request.dimension,          format,
            {},     geometry,     pieces_of(config, geometry)};
  }

  expect_few_regions(config);
  auto const geometry = of_tensor(*request.tensor, config);
  auto const pieces = pieces_of(config, geometry);
  auto const formats =
      config.num_heads() ? std::vector{KvBlockLayout::OperationalNHD, KvBlockLayout::OperationalHND}
                         : std::vector{KvBlockLayout::Unknown};
  for (auto const dimension : {BlockDimension::First, BlockDimension::Second}) {
    for (auto const& format : formats) {
      auto const plain = layer_separate(config, dimension, format);
      if (same_addresses(plain, geometry)) {
        // A tensor that ends before its last padding needs fewer bytes: it stays what it is.
        auto const tensor =
            plain.region_bytes == geometry.region_bytes ? std::nullopt : request.tensor;
        return {config, LayoutKind::LayerSeparate, dimension, format, tensor, geometry, pieces};
      }
    }
  }
  auto const dimension =
      pieces.unit == Pieces::Unit::Chunk ? BlockDimension::Second : BlockDimension::First;
  auto const format = config.num_heads() ? format_of(geometry) : KvBlockLayout::Unknown;
  return {config, LayoutKind::LayerSeparate, dimension, format, request.tensor, geometry, pieces};
}

PhysicalLayout::ChunkAddress chunk_address(LayoutSpec const& spec, std::uint64_t block,
                                           std::uint64_t layer, std::uint64_t outer) {
  auto const expect_inside = [](char const* what, std::uint64_t index, std::uint64_t extent) {
    KVBM_EXPECTS(index < extent, OutOfRange, fmt::format("{} {} of {}", what, index, extent));
  };
  expect_inside("block", block, spec.config.num_blocks());
  expect_inside("layer", layer, spec.config.num_layers());
  expect_inside("outer", outer, spec.config.outer_dim());
  auto const& geometry = spec.geometry;
  auto const stride = [&](BlockDim dim) {
    return static_cast<std::uint64_t>(geometry.strides[index_of(dim)]);
  };
  // Inside region_bytes, whose computation was checked.
  return {geometry.layers_are_regions ? static_cast<std::uint32_t>(layer) : 0,
          block * geometry.block_stride + layer * stride(BlockDim::Layer) +
              outer * stride(BlockDim::Outer)};
}

Checksum fingerprint(LayoutSpec const& spec) {
  auto const& config = spec.config;
  auto text =
      fmt::format("kvbm-layout-1;{};{};{};unknown={};no={};nt={};inner={};nh={};width={}",
                  to_string(spec.kind), to_string(spec.dimension), config.num_layers(),
                  spec.format.is_unknown(), config.outer_dim(), config.page_size(),
                  config.inner_dim(), config.num_heads().value_or(0), config.dtype_width_bytes());
  for (std::size_t i = 0; i < kNumBlockDims; ++i) {
    // Where K and V stand num_blocks apart, their distance says nothing about a block.
    auto const says_nothing =
        spec.geometry.extents[i] == 1 ||
        (i == index_of(BlockDim::Outer) && spec.pieces.unit == Pieces::Unit::Chunk);
    text += fmt::format(";{}={}", to_string(static_cast<BlockDim>(i)),
                        says_nothing ? 0 : spec.geometry.strides[i]);
  }
  return checksum_bytes(text.data(), text.size());
}

Checksum shape_fingerprint(LayoutConfig const& config) {
  auto const text =
      fmt::format("kvbm-shape-1;nl={};no={};nt={};inner={};nh={};width={}", config.num_layers(),
                  config.outer_dim(), config.page_size(), config.inner_dim(),
                  config.num_heads().value_or(0), config.dtype_width_bytes());
  return checksum_bytes(text.data(), text.size());
}

}  // namespace detail
}  // namespace kvbm::layout
