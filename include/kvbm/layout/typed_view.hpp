// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "kvbm/layout/dims.hpp"
#include "kvbm/layout/physical_layout.hpp"

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <type_traits>
#include <utility>
#include <vector>

namespace kvbm::layout {

namespace detail {

/// What TypedView needs of a layout, independent of the element type.
struct HostAddressing {
  std::vector<std::byte*> bases;                  ///< of every region
  std::array<std::uint64_t, kNumDims> extents{};  ///< indexed by Dim
  std::array<std::uint64_t, kNumDims> strides{};  ///< bytes; 0 for layers that are regions
  bool layers_are_regions = false;
};

/// @throws Error(InvalidArgument) naming element_bytes and the layout's width; UnsupportedError if
/// the
///         CPU cannot reach the memory
HostAddressing host_addressing(PhysicalLayout const& layout, std::size_t element_bytes);

/// @throws Error(OutOfRange) naming the axis, index and extent
void check_indices(HostAddressing const& addressing,
                   std::array<std::uint64_t, kNumDims> const& indices);

/// Throws unless the bytes of chunk or block lie densely and in one region.
void check_contiguous(PhysicalLayout const& layout, bool whole_block);

}  // namespace detail

/// The elements of a layout as [block, layer, outer, token, head, head_dim], for memory that the
/// CPU can reach. Shares ownership of the memory. Without num_heads there is one head of inner_dim
/// elements.
///
/// Threads  reads and writes through it are plain memory accesses: ordering is the caller's.
template <typename T>
class TypedView {
  static_assert(std::is_trivially_copyable_v<T>, "elements are moved as bytes");

 public:
  using element_type = T;

  /// @throws Error(InvalidArgument) sizeof(T) is not the layout's dtype_width_bytes;
  ///         UnsupportedError Disk, Object, or device memory out of the CPU's reach
  explicit TypedView(PhysicalLayout layout)
      : layout_(std::move(layout)), addressing_(detail::host_addressing(layout_, sizeof(T))) {}

  static constexpr std::size_t rank() noexcept { return kNumDims; }
  [[nodiscard]] std::uint64_t extent(Dim dim) const noexcept {
    return addressing_.extents[static_cast<std::size_t>(dim)];
  }
  /// Bytes; 0 along layers that are regions.
  [[nodiscard]] std::uint64_t stride_bytes(Dim dim) const noexcept {
    return addressing_.strides[static_cast<std::size_t>(dim)];
  }
  [[nodiscard]] PhysicalLayout const& layout() const noexcept { return layout_; }

  /// The element. @pre every index is below its extent
  [[nodiscard]] T& operator()(std::uint64_t block, std::uint64_t layer, std::uint64_t outer,
                              std::uint64_t token, std::uint64_t head,
                              std::uint64_t head_dim) const noexcept {
    return *element({block, layer, outer, token, head, head_dim});
  }

  /// The element. @throws Error(OutOfRange) naming the axis, index and extent
  [[nodiscard]] T& at(std::uint64_t block, std::uint64_t layer, std::uint64_t outer,
                      std::uint64_t token, std::uint64_t head, std::uint64_t head_dim) const {
    std::array const indices{block, layer, outer, token, head, head_dim};
    detail::check_indices(addressing_, indices);
    return *element(indices);
  }

  /// The elements of a chunk, in the order of the format.
  /// @throws Error(OutOfRange); UnsupportedError if a chunk is not contiguous
  [[nodiscard]] std::span<T> chunk(std::uint64_t block, std::uint64_t layer,
                                   std::uint64_t outer) const {
    detail::check_contiguous(layout_, false);
    auto& first = at(block, layer, outer, 0, 0, 0);
    return {&first, extent(Dim::Token) * extent(Dim::Head) * extent(Dim::HeadDim)};
  }

  /// The elements of a whole block, in the order of the format.
  /// @throws Error(OutOfRange); UnsupportedError if a block is not contiguous
  [[nodiscard]] std::span<T> block(std::uint64_t block) const {
    detail::check_contiguous(layout_, true);
    auto& first = at(block, 0, 0, 0, 0, 0);
    return {&first, extent(Dim::Layer) * extent(Dim::Outer) * extent(Dim::Token) *
                        extent(Dim::Head) * extent(Dim::HeadDim)};
  }

 private:
  [[nodiscard]] T* element(std::array<std::uint64_t, kNumDims> const& indices) const noexcept {
    auto const layer = indices[static_cast<std::size_t>(Dim::Layer)];
    std::uint64_t offset = 0;
    for (std::size_t i = 0; i < kNumDims; ++i) {
      offset += indices[i] * addressing_.strides[i];
    }
    return reinterpret_cast<T*>(addressing_.bases[addressing_.layers_are_regions ? layer : 0] +
                                offset);
  }

  PhysicalLayout layout_;
  detail::HostAddressing addressing_;
};

}  // namespace kvbm::layout
