// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "kvbm/core/types.hpp"
#include "kvbm/layout/dims.hpp"

#include <cstdint>
#include <initializer_list>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace kvbm::layout {

struct ViewIntersection;

/// One labelled axis of a View.
struct ViewAxis {
  Dim dim = Dim::Block;
  std::uint64_t extent = 1;        ///< elements
  std::uint64_t stride_bytes = 0;  ///< bytes a step moves; not used on the region axis
  std::uint64_t begin = 0;         ///< where this view's index 0 stands in the whole tensor
  std::uint64_t full = 0;          ///< elements the whole tensor has; 0 = this view is all of it
  bool sliced = false;             ///< slice() or shard() was applied
  friend bool operator==(ViewAxis const&, ViewAxis const&) = default;
};

/// Where an element is.
struct ViewLocation {
  std::uint64_t region = 0;
  std::uint64_t offset = 0;  ///< bytes in the region
  friend bool operator==(ViewLocation const&, ViewLocation const&) = default;
};

/// A labelled strided view: an offset, and per named dimension an extent and a byte stride. One
/// dimension may be the region axis: a step along it moves to the next region.
///
/// A view also knows which part of a whole tensor it is (begin and full of every axis), so that the
/// parts that two workers hold can be intersected. Immutable value; describes bytes, owns none.
class View {
 public:
  /// @param element_bytes  1, 2, 4 or 8
  /// @param axes           outermost first by convention; none for a single element
  /// @param offset         bytes to element 0 of all axes
  /// @param region_dim     the region axis
  /// @param first_region   region of index 0
  /// @throws Error(InvalidArgument) naming the axis: repeated, extent 0, a part outside of the
  ///         whole, region_dim not among them; Error(Overflow) beyond 2^63 - 1 bytes
  View(std::uint64_t element_bytes, std::vector<ViewAxis> axes, std::uint64_t offset = 0,
       std::optional<Dim> region_dim = std::nullopt, std::uint64_t first_region = 0);

  [[nodiscard]] std::uint64_t element_bytes() const noexcept { return element_bytes_; }
  [[nodiscard]] std::vector<ViewAxis> const& axes() const noexcept { return axes_; }
  [[nodiscard]] std::uint64_t offset() const noexcept { return offset_; }
  [[nodiscard]] std::optional<Dim> region_dim() const noexcept { return region_dim_; }
  [[nodiscard]] std::uint64_t first_region() const noexcept { return first_region_; }

  [[nodiscard]] std::size_t ndim() const noexcept { return axes_.size(); }
  /// Elements; 1 for rank 0.
  [[nodiscard]] std::uint64_t numel() const noexcept { return numel_; }
  [[nodiscard]] bool has(Dim dim) const noexcept;
  /// @throws Error(InvalidArgument) no such axis
  [[nodiscard]] ViewAxis const& axis(Dim dim) const;
  /// Bytes from the first element (in its region) to behind the last one.
  [[nodiscard]] std::uint64_t reach() const noexcept { return reach_; }

  /// Whether the elements lie in one region, densely, in the order of the axes.
  [[nodiscard]] bool is_contiguous() const noexcept;
  /// The stride `dim` has if the view is contiguous. @throws Error(InvalidArgument) no such axis
  [[nodiscard]] std::uint64_t contiguous_stride(Dim dim) const;

  /// Narrows an axis: strides stay, the offset (on the region axis the first region) moves.
  /// @throws Error(InvalidArgument) empty or reversed range, an axis that was sliced before;
  ///         Error(OutOfRange) beyond the extent
  [[nodiscard]] View slice(Dim dim, IndexRange range) const;
  /// Part `rank` of `count` equal ones.
  /// @throws Error(InvalidArgument) naming extent and count if they are not equal; like slice
  [[nodiscard]] View shard(Dim dim, std::uint64_t rank, std::uint64_t count) const;
  /// Index `index` of an axis, which disappears. @throws Error(OutOfRange)
  [[nodiscard]] View select(Dim dim, std::uint64_t index) const;
  /// The same bytes, declared to be elements [begin, begin + extent) of `full` ones: how a rank
  /// says which heads its own, smaller tensor holds.
  /// @throws Error(InvalidArgument) an axis that was sliced; Error(OutOfRange) outside of `full`
  [[nodiscard]] View placed(Dim dim, std::uint64_t begin, std::uint64_t full) const;

  /// Location of one element. @param indices  one an axis, in their order
  /// @throws Error(InvalidArgument) wrong number of indices; Error(OutOfRange) naming the axis
  [[nodiscard]] ViewLocation at(std::span<std::uint64_t const> indices) const;
  [[nodiscard]] ViewLocation at(std::initializer_list<std::uint64_t> indices) const;

  /// Stable hash of labels, extents, strides, width and region axis: views with equal ones differ
  /// in base address alone. Equal across processes and builds.
  [[nodiscard]] Checksum signature() const;

  /// JSON of everything above.
  [[nodiscard]] std::string to_json() const;
  /// @param text  untrusted
  /// @throws CorruptError not what to_json writes, or a view that the constructor refuses;
  ///         Error(VersionMismatch) another version
  static View from_json(std::string_view text);

  friend bool operator==(View const&, View const&) = default;

 private:
  [[nodiscard]] std::size_t find(Dim dim) const;
  [[nodiscard]] View narrowed(std::size_t axis, IndexRange range) const;
  friend std::optional<ViewIntersection> intersect(View const& first, View const& second);

  std::uint64_t element_bytes_;
  std::vector<ViewAxis> axes_;
  std::uint64_t offset_;
  std::optional<Dim> region_dim_;
  std::uint64_t first_region_;
  std::uint64_t numel_ = 1;
  std::uint64_t reach_ = 0;
};

/// Which part of an axis two views share, in the indices of each.
struct AxisOverlap {
  Dim dim = Dim::Block;
  IndexRange first;
  IndexRange second;
  friend bool operator==(AxisOverlap const&, AxisOverlap const&) = default;
};

/// What two parts of one tensor have in common.
struct ViewIntersection {
  std::vector<AxisOverlap> narrowed;  ///< axes that at least one view had to narrow, first's order
  View first;                         ///< the shared elements in the first view's memory
  View second;                        ///< and in the second's
};

/// The elements that two parts of one whole tensor share; nullopt if there are none. The axes may
/// stand in any order; a region axis may be on either side, on both or on none.
/// @throws Error(InvalidArgument) different labels, widths or extents of the whole
std::optional<ViewIntersection> intersect(View const& first, View const& second);

/// A block or chunk of a PhysicalLayout.
struct BlockView {
  std::uint32_t region = 0;
  std::uint64_t offset = 0;    ///< bytes in the region
  std::uintptr_t address = 0;  ///< of the first element, host or device; 0 for files
  std::uint64_t bytes = 0;     ///< from the first element to behind the last: all the block's own
                               ///< only if view.is_contiguous()
  View view;                   ///< extents and strides
};

}  // namespace kvbm::layout
