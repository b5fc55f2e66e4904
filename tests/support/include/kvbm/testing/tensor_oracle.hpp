// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <vector>

#include "kvbm/layout/physical_layout.hpp"

/// The obvious way to look at blocks in memory: one element at a time, by the address formula of
/// BlockGeometry. Slow, and what the real copies are compared with.
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

/// First byte of an element of a layout in host-reachable memory.
inline std::byte* element_address(layout::PhysicalLayout const& layout, BlockId block,
                                  Element const& e) {
  auto const& geometry = layout.geometry();
  auto const stride = [&geometry](std::size_t dim) {
    return static_cast<std::uint64_t>(geometry.strides[dim]);
  };
  std::uint64_t offset = block * geometry.block_stride + e.outer * stride(1) + e.token * stride(2) +
                         e.head * stride(3) + e.dim * stride(4);
  if (!geometry.layers_are_regions) { offset += e.layer * stride(0); }
  return layout.regions()[geometry.layers_are_regions ? e.layer : 0].host_data() + offset;
}

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

/// Writes element_value(seed, logical_block, ...) into a block.
inline void write_block(layout::PhysicalLayout const& layout, BlockId block, std::uint64_t seed,
                        BlockId logical_block) {
  for_each_element(layout, [&](Element const& e) {
    std::uint64_t const value = element_value(seed, logical_block, e);
    std::memcpy(element_address(layout, block, e), &value, layout.geometry().element_bytes);
  });
}

/// Number of elements of a block that differ from element_value(seed, logical_block, ...).
inline std::uint64_t count_differences(layout::PhysicalLayout const& layout, BlockId block,
                                       std::uint64_t seed, BlockId logical_block) {
  std::uint64_t differences = 0;
  for_each_element(layout, [&](Element const& e) {
    std::uint64_t const value = element_value(seed, logical_block, e);
    if (std::memcmp(element_address(layout, block, e), &value, layout.geometry().element_bytes) !=
        0) {
      ++differences;
    }
  });
  return differences;
}

/// Every byte of a layout's regions, to see that nothing else changed.
inline std::vector<std::vector<std::byte>> snapshot(layout::PhysicalLayout const& layout) {
  std::vector<std::vector<std::byte>> copies;
  for (auto const& region : layout.regions()) {
    copies.emplace_back(region.host_data(), region.host_data() + region.bytes());
  }
  return copies;
}

}  // namespace kvbm::testing
