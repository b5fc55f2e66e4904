// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <optional>

namespace kvbm::layout {

/// The logical shape of a layout: num_blocks KV blocks, each the tensor
/// [num_layers, outer_dim, page_size, num_heads, head_dim]. Immutable value; only a valid one
/// exists.
class LayoutConfig {
 public:
  class Builder;
  /// Starts a builder; num_blocks, num_layers, page_size and inner_dim must be set.
  static Builder builder();

  /// KV blocks, 1 to 2^32 - 1.
  [[nodiscard]] std::uint64_t num_blocks() const noexcept { return num_blocks_; }
  [[nodiscard]] std::uint64_t num_layers() const noexcept { return num_layers_; }
  /// 2 = K and V apart, 1 = fused or MLA.
  [[nodiscard]] std::uint64_t outer_dim() const noexcept { return outer_dim_; }
  /// Tokens in a block; a power of two.
  [[nodiscard]] std::uint64_t page_size() const noexcept { return page_size_; }
  /// Elements a token has per layer and outer: num_heads * head_dim.
  [[nodiscard]] std::uint64_t inner_dim() const noexcept { return inner_dim_; }
  /// Bytes that block starts are aligned to; a power of two.
  [[nodiscard]] std::uint64_t alignment() const noexcept { return alignment_; }
  /// Bytes of an element: 1, 2, 4 or 8.
  [[nodiscard]] std::uint64_t dtype_width_bytes() const noexcept { return dtype_width_bytes_; }
  /// KV heads where known.
  [[nodiscard]] std::optional<std::uint64_t> num_heads() const noexcept { return num_heads_; }

  /// inner_dim / num_heads. @throws Error(InvalidArgument) without num_heads
  [[nodiscard]] std::uint64_t head_dim() const;
  /// Bytes of one (layer, outer) chunk: page_size * inner_dim * dtype_width_bytes.
  [[nodiscard]] std::uint64_t chunk_bytes() const noexcept;
  /// Bytes of one block's elements, without padding.
  [[nodiscard]] std::uint64_t block_bytes() const noexcept;

  /// The same shape with another number of blocks. @throws like Builder::build
  [[nodiscard]] LayoutConfig with_num_blocks(std::uint64_t num_blocks) const;
  /// The same shape with another alignment. @throws like Builder::build
  [[nodiscard]] LayoutConfig with_alignment(std::uint64_t alignment) const;

  friend bool operator==(LayoutConfig const&, LayoutConfig const&) = default;

 private:
  LayoutConfig() = default;
  std::uint64_t num_blocks_ = 0;
  std::uint64_t num_layers_ = 0;
  std::uint64_t outer_dim_ = 2;
  std::uint64_t page_size_ = 0;
  std::uint64_t inner_dim_ = 0;
  std::uint64_t alignment_ = 1;
  std::uint64_t dtype_width_bytes_ = 2;
  std::optional<std::uint64_t> num_heads_;
};

/// Collects the fields of a LayoutConfig.
class LayoutConfig::Builder {
 public:
  Builder& num_blocks(std::uint64_t value);
  Builder& num_layers(std::uint64_t value);
  Builder& outer_dim(std::uint64_t value);  ///< default 2
  Builder& page_size(std::uint64_t value);
  Builder& inner_dim(std::uint64_t value);
  Builder& alignment(std::uint64_t value);          ///< default 1
  Builder& dtype_width_bytes(std::uint64_t value);  ///< default 2
  Builder& num_heads(std::optional<std::uint64_t> value);

  /// @throws Error(InvalidArgument) naming the first bad field and its value; Error(Overflow) if
  ///         all blocks together exceed 2^63 - 1 bytes
  [[nodiscard]] LayoutConfig build() const;

 private:
  friend class LayoutConfig;
  LayoutConfig config_;
};

}  // namespace kvbm::layout
