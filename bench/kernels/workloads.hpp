// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "kvbm/kernels/kernels.h"

namespace kvbm::bench {

/// Extents of one KV block, in the order layer, outer, token, head, head_dim, and element width.
struct Workload {
  char const* name;
  std::array<std::uint64_t, 5> extents;
  std::uint64_t width;

  [[nodiscard]] std::uint64_t block_bytes() const noexcept {
    std::uint64_t bytes = width;
    for (std::uint64_t const extent : extents)
      bytes *= extent;
    return bytes;
  }
};

enum Axis : std::uint8_t { Layer, Outer, Token, Head, Dim };

/// Names of the axes from the outermost to the innermost.
using Order = std::array<Axis, 5>;

inline constexpr Order kNhd{Layer, Outer, Token, Head, Dim};
inline constexpr Order kHnd{Layer, Outer, Head, Token, Dim};
inline constexpr Order kUniversalTp{Head, Layer, Outer, Token, Dim};
inline constexpr Order kDimOutside{Layer, Outer, Head, Dim, Token};
inline constexpr Order kHeadInside{Layer, Outer, Token, Dim, Head};

/// The workloads of the project's goals.
std::span<Workload const> workloads();

/// The copy of one fully contiguous block from one order to another, one loop per axis.
kvbm_copy_template permute_template(Workload const& workload, Order const& from, Order const& to);

/// Two buffers of blocks and the tables between them; block ids are shuffled on the source side.
class BlockSet {
 public:
  BlockSet(std::uint64_t block_bytes, std::uint64_t total_bytes);
  [[nodiscard]] kvbm_copy_boxes boxes() const noexcept;
  [[nodiscard]] std::uint64_t bytes() const noexcept { return block_bytes_ * src_blocks_.size(); }
  [[nodiscard]] std::byte const* src() const noexcept { return src_; }
  [[nodiscard]] std::byte* dst() const noexcept { return dst_; }

 private:
  std::uint64_t block_bytes_;
  std::vector<std::byte> src_storage_;
  std::vector<std::byte> dst_storage_;
  std::byte* src_;
  std::byte* dst_;
  std::uintptr_t src_segment_;
  std::uintptr_t dst_segment_;
  std::vector<std::uint32_t> src_blocks_;
  std::vector<std::uint32_t> dst_blocks_;
};

}  // namespace kvbm::bench
