// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <utility>

#include "kvbm/core/checked.hpp"
#include "kvbm/kernels/kernels.h"

namespace kvbm::kernels {

/// Extents of a named permute and what follows from them.
struct PermuteShape {
  std::uint64_t num_blocks, nh, nl, no, nt, hd, width;
  kvbm_block_order order;
  std::uint64_t num_chunks = 0;   ///< of all blocks
  std::uint64_t row_bytes = 0;    ///< [hd]
  std::uint64_t slice_bytes = 0;  ///< [nt, hd] of one head
  std::uint64_t head_bytes = 0;   ///< [nl, no, nt, hd] of one head of the universal block

  /// False where a product leaves the 63-bit range.
  bool derive() noexcept {
    std::uint64_t all = 0;
    auto const product = [](std::uint64_t a, std::uint64_t b, std::uint64_t& out) {
      return !__builtin_mul_overflow(a, b, &out) && out <= kMaxBytes;
    };
    std::uint64_t chunks_per_block = 0;
    return product(hd, width, row_bytes) && product(nt, row_bytes, slice_bytes) &&
           product(nl, no, chunks_per_block) &&
           product(chunks_per_block, slice_bytes, head_bytes) &&
           product(chunks_per_block, num_blocks, num_chunks) && product(nh, head_bytes, all) &&
           product(all, num_blocks, all);
  }
  [[nodiscard]] bool empty() const noexcept {
    return num_blocks == 0 || nh == 0 || nl == 0 || no == 0 || nt == 0 || hd == 0;
  }
  /// Whether width and order came from tags that are known.
  [[nodiscard]] bool is_known() const noexcept {
    return width != 0 && (order == KVBM_BLOCK_NHD || order == KVBM_BLOCK_HND);
  }
  [[nodiscard]] std::uint64_t chunks_per_block() const noexcept { return nl * no; }

  /// One chunk [nt, nh, hd] or [nh, nt, hd] against its slices [nh][nt, hd] of the universal block.
  [[nodiscard]] kvbm_copy_template chunk_template(bool to_universal) const noexcept {
    auto const row = static_cast<std::int64_t>(row_bytes);
    auto const slice = static_cast<std::int64_t>(slice_bytes);
    auto const head = static_cast<std::int64_t>(head_bytes);
    bool const nhd = order == KVBM_BLOCK_NHD;
    auto const chunk_head = nhd ? row : slice;
    auto const chunk_token = nhd ? static_cast<std::int64_t>(nh * row_bytes) : row;
    kvbm_copy_template shape{};
    shape.num_dims = 2;
    shape.dims[0] = {nh, chunk_head, head};
    shape.dims[1] = {nt, chunk_token, row};
    shape.run_bytes = row_bytes;
    if (!to_universal) {
      for (kvbm_copy_dim& dim : shape.dims)
        std::swap(dim.src_stride, dim.dst_stride);
    }
    return shape;
  }
};

/// Bytes of an element; 0 for an unknown tag.
inline std::uint64_t width_of(kvbm_dtype dtype) noexcept {
  switch (dtype) {
    case KVBM_DTYPE_F16:
    case KVBM_DTYPE_BF16: return 2;
    case KVBM_DTYPE_F32: return 4;
    case KVBM_DTYPE_F64: return 8;
    case KVBM_DTYPE_U8: return 1;
    default: return 0;
  }
}

}  // namespace kvbm::kernels
