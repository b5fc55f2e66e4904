// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <vector>

#include "kvbm/layout/physical_layout.hpp"
#include "kvbm/testing/region_io.hpp"

/// The obvious way to look at blocks in memory: one element at a time, by the address formula of
/// BlockGeometry. Slow, and what the real copies are compared with. Where the CPU does not reach
/// the memory, whole regions are read and written.
namespace kvbm::testing {

/// Index of one element of a block.
struct Element {
  std::uint64_t layer = 0;
  std::uint64_t outer = 0;
  std::uint64_t token = 0;
  std::uint64_t head = 0;
  std::uint64_t dim = 0;
};

/// Calls body(element) for every element of a block.
template <typename Body>
void for_each_element(layout::PhysicalLayout const& layout, Body const& body) {
  auto const& extents = layout.geometry().extents;
  for (std::uint64_t l = 0; l < extents[0]; ++l) {
    for (std::uint64_t o = 0; o < extents[1]; ++o) {
      for (std::uint64_t t = 0; t < extents[2]; ++t) {
        for (std::uint64_t h = 0; h < extents[3]; ++h) {
          for (std::uint64_t d = 0; d < extents[4]; ++d) {
            body(Element{l, o, t, h, d});
          }
        }
      }
    }
  }
}

/// The bytes of every region.
using Image = std::vector<std::vector<std::byte>>;

/// Every byte of a layout's regions, to see that nothing else changed.
inline Image snapshot(layout::PhysicalLayout const& layout) {
  Image image;
  for (auto const& region : layout.regions()) {
    image.push_back(read_region(region));
  }
  return image;
}

/// The opposite of snapshot.
inline void restore(layout::PhysicalLayout const& layout, Image const& image) {
  for (std::size_t i = 0; i < layout.regions().size(); ++i) {
    write_region(layout.regions()[i], image.at(i));
  }
}

/// Offset of an element in its region.
inline std::uint64_t element_offset(layout::PhysicalLayout const& layout, BlockId block,
                                    Element const& e) {
  auto const& geometry = layout.geometry();
  auto const stride = [&geometry](std::size_t dim) {
    return static_cast<std::uint64_t>(geometry.strides[dim]);
  };
  std::uint64_t offset = block * geometry.block_stride + e.outer * stride(1) + e.token * stride(2) +
                         e.head * stride(3) + e.dim * stride(4);
  if (!geometry.layers_are_regions) { offset += e.layer * stride(0); }
  return offset;
}

/// Number of the region that an element is in.
inline std::size_t element_region(layout::PhysicalLayout const& layout, Element const& e) {
  return layout.geometry().layers_are_regions ? e.layer : 0;
}

/// First byte of an element of a layout in host-reachable memory.
inline std::byte* element_address(layout::PhysicalLayout const& layout, BlockId block,
                                  Element const& e) {
  return layout.regions()[element_region(layout, e)].host_data() + element_offset(layout, block, e);
}

/// Where an element of a layout is in its image.
inline std::byte* element_of(Image& image, layout::PhysicalLayout const& layout, BlockId block,
                             Element const& e) {
  return &image.at(element_region(layout, e)).at(element_offset(layout, block, e));
}

/// The elements of a layout in memory: in place where the CPU reaches them, else in a copy.
class ElementAccess {
 public:
  explicit ElementAccess(layout::PhysicalLayout const& layout) : layout_(layout) {
    if (layout.regions().front().host_data() == nullptr) { copy_ = snapshot(layout); }
  }
  [[nodiscard]] std::byte* at(BlockId block, Element const& e) {
    return copy_.empty() ? element_address(layout_, block, e)
                         : element_of(copy_, layout_, block, e);
  }
  /// Writes a copy back.
  void store() const {
    if (!copy_.empty()) { restore(layout_, copy_); }
  }

 private:
  layout::PhysicalLayout const& layout_;
  Image copy_;
};

/// Value that an element is expected to have: a 64-bit hash of everything that names it, so that
/// any swap or shift shows. Only its low bytes are used for narrow elements.
inline std::uint64_t element_value(std::uint64_t seed, BlockId block, Element const& e) {
  std::uint64_t x = seed;
  for (std::uint64_t const part :
       {std::uint64_t{block}, e.layer, e.outer, e.token, e.head, e.dim}) {
    x = (x ^ part) * 0x9E3779B97F4A7C15U;
    x ^= x >> 29U;
  }
  return x * 0xBF58476D1CE4E5B9U;
}

/// Writes element_value(seed, logical_blocks[i], ...) into blocks[i].
inline void write_blocks(layout::PhysicalLayout const& layout, std::span<BlockId const> blocks,
                         std::uint64_t seed, std::span<BlockId const> logical_blocks) {
  ElementAccess elements(layout);
  for (std::size_t i = 0; i < blocks.size(); ++i) {
    for_each_element(layout, [&](Element const& e) {
      std::uint64_t const value = element_value(seed, logical_blocks[i], e);
      std::memcpy(elements.at(blocks[i], e), &value, layout.geometry().element_bytes);
    });
  }
  elements.store();
}

/// Number of elements of blocks[i] that differ from element_value(seed, logical_blocks[i], ...).
inline std::uint64_t count_differences(layout::PhysicalLayout const& layout,
                                       std::span<BlockId const> blocks, std::uint64_t seed,
                                       std::span<BlockId const> logical_blocks) {
  std::uint64_t differences = 0;
  ElementAccess elements(layout);
  for (std::size_t i = 0; i < blocks.size(); ++i) {
    for_each_element(layout, [&](Element const& e) {
      std::uint64_t const value = element_value(seed, logical_blocks[i], e);
      differences +=
          std::memcmp(elements.at(blocks[i], e), &value, layout.geometry().element_bytes) != 0;
    });
  }
  return differences;
}

/// The same for one block.
inline std::uint64_t count_differences(layout::PhysicalLayout const& layout, BlockId block,
                                       std::uint64_t seed, BlockId logical_block) {
  return count_differences(layout, {&block, 1}, seed, {&logical_block, 1});
}

}  // namespace kvbm::testing
