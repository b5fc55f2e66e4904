// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "kvbm/layout/dims.hpp"
#include "kvbm/layout/physical_layout.hpp"

#include <optional>

namespace kvbm::layout::detail {

/// How one block falls into contiguous pieces: the extents of BlockExtent.
struct Pieces {
  enum class Unit {
    Block,      ///< one piece a block
    Layer,      ///< one a layer
    Chunk,      ///< one a layer and outer
    Scattered,  ///< other blocks' bytes lie between a chunk's: there are no extents
  };
  Unit unit = Unit::Block;
  std::uint64_t bytes = 0;   ///< of a piece
  std::uint64_t stride = 0;  ///< bytes from one piece of a region to the next
  std::uint64_t count = 0;   ///< pieces in a region
};

/// Everything about a layout but its memory.
struct LayoutSpec {
  LayoutConfig config;
  LayoutKind kind;
  BlockDimension dimension;
  KvBlockLayout format;
  std::optional<KvDimLayout> tensor;  ///< set where no operational format says the same
  BlockGeometry geometry;
  Pieces pieces;

  [[nodiscard]] std::uint64_t num_regions() const noexcept {
    return kind == LayoutKind::LayerSeparate ? config.num_layers() : 1;
  }
};

/// What a caller has said about a layout's order.
struct SpecRequest {
  LayoutConfig config;
  LayoutKind kind;
  BlockDimension dimension;
  std::optional<KvBlockLayout> format;  ///< default: OperationalNHD, Unknown without num_heads
  std::optional<KvDimLayout> tensor;    ///< overrides dimension and format
};

/// Computes geometry and pieces; a tensor that a plain format describes becomes that format.
/// @throws like make_geometry and KvDimLayout::check_config
LayoutSpec make_spec(SpecRequest const& request);

/// Offset and region of a chunk. @throws Error(OutOfRange)
PhysicalLayout::ChunkAddress chunk_address(LayoutSpec const& spec, std::uint64_t block,
                                           std::uint64_t layer, std::uint64_t outer);

Checksum fingerprint(LayoutSpec const& spec);
Checksum shape_fingerprint(LayoutConfig const& config);

}  // namespace kvbm::layout::detail
