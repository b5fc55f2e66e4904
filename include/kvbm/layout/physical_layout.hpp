// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "kvbm/core/types.hpp"
#include "kvbm/layout/config.hpp"
#include "kvbm/layout/format.hpp"
#include "kvbm/memory/block_file.hpp"
#include "kvbm/memory/memory_source.hpp"
#include "kvbm/memory/region.hpp"

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace kvbm::object {
struct ObjectStoreOptions;
}  // namespace kvbm::object

namespace kvbm::layout {

class KvDimLayout;
class View;
struct BlockView;
struct LayoutDescriptor;

/// How blocks are spread over regions.
enum class LayoutKind {
  FullyContiguous,  ///< one region, [nb, block in its format]
  LayerSeparate,    ///< one region per layer, operational (or Unknown) formats only
};

/// Where the block index stands in a layer's region.
enum class BlockDimension {
  First,   ///< [nb, no, chunk]
  Second,  ///< [no, nb, chunk], as engines keep K and V
};

/// "FullyContiguous", "LayerSeparate"; "First", "Second".
std::string_view to_string(LayoutKind kind) noexcept;
std::string_view to_string(BlockDimension dimension) noexcept;

/// Address arithmetic of a layout. The byte of element (l, o, t, h, d) of block b is, in region
/// (layers_are_regions ? l : 0), at offset
///   b * block_stride + sum of strides[dim] * index[dim]   (without Layer if layers are regions).
struct BlockGeometry {
  bool layers_are_regions = false;
  std::uint64_t block_stride = 0;   ///< bytes
  PerDim<std::int64_t> strides{};   ///< bytes; [Layer] is 0 if layers are regions
  PerDim<std::uint64_t> extents{};  ///< elements; Unknown formats: Head 1, HeadDim inner_dim
  std::uint64_t element_bytes = 0;
  std::uint64_t region_bytes = 0;  ///< least bytes of every region
  friend bool operator==(BlockGeometry const&, BlockGeometry const&) = default;
};

/// Computes the geometry without any memory. Rounded up to config.alignment() are: a fully
/// contiguous block; block first, a layer's piece of one block ([no, chunk]); block second, each
/// chunk. `dimension` says nothing about a fully contiguous layout.
/// @throws Error(InvalidArgument) format needs heads; format not allowed for the kind; explicit
///         strides that overlap; more than 2^20 layers apart; Error(Overflow)
BlockGeometry make_geometry(LayoutConfig const& config, LayoutKind kind, BlockDimension dimension,
                            KvBlockLayout const& format);

/// One contiguous piece of one block: the unit of file I/O and of stored checksums. A fully
/// contiguous block is one extent, a layer-separate one an extent per layer (block first) or per
/// layer and outer (block second). Padding to the alignment behind the last element is not part of
/// it.
struct BlockExtent {
  std::uint32_t region = 0;
  std::uint64_t offset = 0;  ///< bytes in the region
  std::uint64_t bytes = 0;
  std::uint64_t index = 0;  ///< number of the extent in its region (BlockFile's extent)
};

/// Caller-owned memory for a layout.
struct ExternalRegion {
  void* address = nullptr;
  std::uint64_t bytes = 0;
  memory::StorageKind kind = memory::StorageKind::System;  ///< System or Pinned
  std::shared_ptr<void const> keep_alive;                  ///< optional owner
};

/// Engine-owned device tensor for a layout.
struct ExternalDeviceRegion {
  void* address = nullptr;
  std::uint64_t bytes = 0;
  DeviceId device_id = 0;
  std::shared_ptr<void const> keep_alive;  ///< optional owner
};

template <bool HasConfig, bool HasKind, bool HasMemory>
class PhysicalLayoutBuilder;

/// Blocks of one shape, in one format, in one storage: config + geometry + regions. A cheap value
/// (shared, immutable state); its memory lives as long as any copy.
///
/// Built by a builder whose type knows which steps were taken: config, kind, memory, build; a
/// missing or repeated step does not compile.
class PhysicalLayout {
 public:
  /// @param source  where owned memory comes from and external memory is checked
  static PhysicalLayoutBuilder<false, false, false> builder(
      std::shared_ptr<memory::MemorySource> source);

  /// Reopens a disk layout that allocate_disk(path) made, or one of several files by the first of
  /// them: config, kind and format come from its manifest.
  /// @throws like memory::open_block_store; CorruptError if the manifest's descriptor is bad
  static PhysicalLayout open_disk(std::shared_ptr<memory::MemorySource> source,
                                  std::filesystem::path const& path,
                                  memory::OpenMode mode = memory::OpenMode::ReadWrite);
  /// Likewise one whose several files have moved: all of them, in the order of their creation.
  static PhysicalLayout open_disk(std::shared_ptr<memory::MemorySource> source,
                                  std::vector<std::filesystem::path> const& paths,
                                  memory::OpenMode mode = memory::OpenMode::ReadWrite);

  [[nodiscard]] LayoutConfig const& config() const noexcept;
  [[nodiscard]] LayoutKind kind() const noexcept;
  [[nodiscard]] BlockDimension block_dimension() const noexcept;
  [[nodiscard]] KvBlockLayout const& format() const noexcept;
  [[nodiscard]] BlockGeometry const& geometry() const noexcept;
  [[nodiscard]] std::vector<memory::Region> const& regions() const noexcept;
  [[nodiscard]] memory::StorageKind storage_kind() const noexcept;
  /// Device of Device layouts, near device of Pinned ones where known, else -1.
  [[nodiscard]] DeviceId device_id() const noexcept;
  /// Where the memory came from; also the source for staging memory beside this layout.
  [[nodiscard]] std::shared_ptr<memory::MemorySource> const& source() const noexcept;

  /// Address of chunk (block, layer, outer) in its region: first byte of element [t=0, h=0, d=0].
  struct ChunkAddress {
    std::uint32_t region = 0;
    std::uint64_t offset = 0;  ///< bytes in the region
  };
  /// @throws Error(OutOfRange) naming the index and its extent
  [[nodiscard]] ChunkAddress chunk(std::uint64_t block, std::uint64_t layer,
                                   std::uint64_t outer) const;

  /// Address, size and strides of chunk (block, layer, outer). @throws Error(OutOfRange)
  [[nodiscard]] BlockView chunk_view(std::uint64_t block, std::uint64_t layer,
                                     std::uint64_t outer) const;
  /// The same of a whole block.
  /// @throws Error(OutOfRange); UnsupportedError if the block is spread over regions
  [[nodiscard]] BlockView block_view(std::uint64_t block) const;
  /// All blocks as one labelled strided view over [Block, Layer, Outer, Token, Head, HeadDim]; the
  /// Layer axis chooses the region if layers are regions.
  [[nodiscard]] View view() const;
  /// What another process needs to know to address the same bytes.
  [[nodiscard]] LayoutDescriptor descriptor() const;

  /// Extents of one block, in region order; 0 if a chunk's bytes do not lie together (engine
  /// tensors whose block dimension is not outside of the tokens).
  [[nodiscard]] std::uint32_t extents_per_block() const noexcept;
  /// @param number  in [0, extents_per_block())  @throws Error(OutOfRange)
  [[nodiscard]] BlockExtent extent(std::uint64_t block, std::uint32_t number) const;
  /// The layers an extent covers, e.g. all of a fully contiguous block's.
  [[nodiscard]] IndexRange extent_layers(std::uint32_t number) const;

  /// Stable hash of everything that decides which byte means what inside a block (shape without
  /// num_blocks, dtype width, format strides, kind); equal across processes and builds.
  [[nodiscard]] Checksum fingerprint() const;
  /// Stable hash of the logical tensor alone (layers, outer, page, inner, heads, width): two
  /// layouts with equal ones can be copied into each other in any format.
  [[nodiscard]] Checksum shape_fingerprint() const;

  /// The same regions read as another format (transfer overrides): geometry recomputed.
  /// @throws Error(InvalidArgument) heads missing, format not allowed for the kind, other bytes a
  /// block
  [[nodiscard]] PhysicalLayout with_format(KvBlockLayout const& format) const;

  /// One line: "FullyContiguous OperationalNHD, 64 blocks [30,2,16,3,64] x 4 B, Pinned" (without
  /// num_heads "[30,2,16,192]"; "LayerSeparate First ...").
  [[nodiscard]] std::string to_string() const;

  struct State;  ///< of the implementation
  /// For the implementation: only it can make a State.
  explicit PhysicalLayout(std::shared_ptr<State const> state) : state_(std::move(state)) {}

 private:
  std::shared_ptr<State const> state_;
};

/// What the builder collected so far; filled step by step.
struct LayoutDraft;

/// Type-state builder of PhysicalLayout; see PhysicalLayout::builder. Every step returns a new
/// builder and leaves this one as it is, so that a half-built one can be used several times.
/// Nothing is checked or allocated before build().
template <bool HasConfig, bool HasKind, bool HasMemory>
class PhysicalLayoutBuilder {
 public:
  explicit PhysicalLayoutBuilder(std::shared_ptr<LayoutDraft> draft) : draft_(std::move(draft)) {}

  /// The logical shape.
  [[nodiscard]] PhysicalLayoutBuilder<true, HasKind, HasMemory> config(
      LayoutConfig const& config) const
    requires(!HasConfig);

  /// One region. @param format  default: OperationalNHD if the config has num_heads, else Unknown
  [[nodiscard]] PhysicalLayoutBuilder<HasConfig, true, HasMemory> fully_contiguous() const
    requires(!HasKind);
  [[nodiscard]] PhysicalLayoutBuilder<HasConfig, true, HasMemory> fully_contiguous(
      KvBlockLayout const& format) const
    requires(!HasKind);
  /// One region a layer. Default format as above.
  [[nodiscard]] PhysicalLayoutBuilder<HasConfig, true, HasMemory> layer_separate(
      BlockDimension dimension) const
    requires(!HasKind);
  [[nodiscard]] PhysicalLayoutBuilder<HasConfig, true, HasMemory> layer_separate(
      BlockDimension dimension, KvBlockLayout const& format) const
    requires(!HasKind);

  /// One region a layer, each the engine's tensor of that layer in any order of its dimensions. A
  /// tensor that is a plain format (flash-attn, FlashInfer) becomes that format; else format() is
  /// Strided (Unknown without num_heads), for memory only, and with_format takes no other one.
  [[nodiscard]] PhysicalLayoutBuilder<HasConfig, true, HasMemory> layer_separate(
      KvDimLayout const& tensor) const
    requires(!HasKind);

  /// Owned pageable memory.
  [[nodiscard]] PhysicalLayoutBuilder<HasConfig, HasKind, true> allocate_system() const
    requires(!HasMemory);
  /// Owned pinned memory, near `near_device` where given (-1 = anywhere).
  [[nodiscard]] PhysicalLayoutBuilder<HasConfig, HasKind, true> allocate_pinned(
      DeviceId near_device = -1) const
    requires(!HasMemory);
  /// Owned memory of a device.
  [[nodiscard]] PhysicalLayoutBuilder<HasConfig, HasKind, true> allocate_device(DeviceId id) const
    requires(!HasMemory);
  /// A preallocated file that must not exist yet; alignment is raised to memory::kFileAlignment.
  /// Without a path a temporary file that vanishes with the layout.
  [[nodiscard]] PhysicalLayoutBuilder<HasConfig, HasKind, true> allocate_disk() const
    requires(!HasMemory);
  [[nodiscard]] PhysicalLayoutBuilder<HasConfig, HasKind, true> allocate_disk(
      std::filesystem::path const& path) const
    requires(!HasMemory);
  /// Several files, one a device, that share the blocks in turn (memory::StripedFile); one path is
  /// a file as above.
  [[nodiscard]] PhysicalLayoutBuilder<HasConfig, HasKind, true> allocate_disk(
      std::vector<std::filesystem::path> const& paths) const
    requires(!HasMemory);
  /// One object a block in a bucket of S3, which must be there; blocks that it has already keep
  /// their contents. Fully contiguous layouts only. An empty `scheme.model` becomes the
  /// fingerprint of the shape, an empty `scheme.format` the layout's format.
  /// build() throws what object::ObjectBlockStore::open throws.
  [[nodiscard]] PhysicalLayoutBuilder<HasConfig, HasKind, true> allocate_object(
      object::ObjectStoreOptions const& options) const
    requires(!HasMemory);
  /// The same where the environment says; see object::options_from_environment.
  [[nodiscard]] PhysicalLayoutBuilder<HasConfig, HasKind, true> allocate_object(
      std::string const& bucket, std::string const& prefix) const
    requires(!HasMemory);
  /// Memory that the caller owns, one region (fully contiguous) or one a layer.
  [[nodiscard]] PhysicalLayoutBuilder<HasConfig, HasKind, true> with_external_regions(
      std::vector<ExternalRegion> regions) const
    requires(!HasMemory);
  /// Tensors that the engine owns, one region (fully contiguous) or one a layer.
  [[nodiscard]] PhysicalLayoutBuilder<HasConfig, HasKind, true> with_external_device_regions(
      std::vector<ExternalDeviceRegion> regions) const
    requires(!HasMemory);
  /// Regions that exist already (of another layout, an arena, a file).
  [[nodiscard]] PhysicalLayoutBuilder<HasConfig, HasKind, true> with_regions(
      std::vector<memory::Region> regions) const
    requires(!HasMemory);

  /// Checks everything, allocates, and returns the layout.
  /// @throws Error(InvalidArgument) wrong number of regions, too small (naming needed and given
  ///         bytes), misaligned, mixed kinds or devices, wrong memory kind (naming address, given
  ///         and found kind), overlapping regions, no memory source; Error(NotFound) unknown
  ///         device; UnsupportedError for object storage; whatever make_geometry and the
  ///         allocation throw
  [[nodiscard]] PhysicalLayout build() const
    requires(HasConfig && HasKind && HasMemory);

 private:
  std::shared_ptr<LayoutDraft> draft_;
};

}  // namespace kvbm::layout
