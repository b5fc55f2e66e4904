// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "kvbm/layout/config.hpp"

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace kvbm::layout {

/// Names of the dimensions of tensors and views: those of a KV block, and the block itself.
enum class Dim : std::uint8_t {
  Block,
  Layer,
  Outer,
  Token,
  Head,
  HeadDim,
  Payload = HeadDim,  ///< the elements of a row, where a tensor does not tell heads apart
};

inline constexpr std::size_t kNumDims = 6;

/// "nb", "nl", "no", "nt", "nh", "hd".
char const* to_string(Dim dim) noexcept;

/// One dimension of an engine's tensor.
struct TensorDim {
  Dim dim = Dim::Block;
  std::uint64_t extent = 0;        ///< >= 1
  std::uint64_t stride_bytes = 0;  ///< 0: densely packed, as if nothing outside were padded
  friend bool operator==(TensorDim const&, TensorDim const&) = default;
};

/// How ONE engine tensor (the KV cache of one layer) orders the dimensions Block, Outer, Token,
/// Head and Payload, outermost first. Only valid ones exist.
///
///   flash-attn   {Outer 2, Block nb, Token nt, Head nh, Payload hd}
///   FlashInfer   {Block nb, Outer 2, Token nt, Head nh, Payload hd}  (HND: Head before Token)
///   MLA          {Block nb, Token nt, Payload 576}
///   K and V of different size in one row   {Block nb, Token nt, Head nh, Payload hd_k + hd_v}
///
/// Outer, Token and Head may be missing (extent 1; without Head the payload is the whole row).
/// `PhysicalLayout::builder().layer_separate(tensor)` registers such tensors, one a layer.
class KvDimLayout {
 public:
  /// @param dims           outermost first, Payload last
  /// @param element_bytes  1, 2, 4 or 8
  /// @throws Error(InvalidArgument) naming the dimension: given twice, extent 0, Layer, no Block,
  ///         Payload missing or not last or not contiguous, Outer above 2, strides with which
  ///         elements overlap; Error(Overflow)
  KvDimLayout(std::vector<TensorDim> dims, std::uint64_t element_bytes);

  /// Outermost first, every stride filled in.
  [[nodiscard]] std::vector<TensorDim> const& dims() const noexcept { return dims_; }
  [[nodiscard]] std::uint64_t element_bytes() const noexcept { return element_bytes_; }
  /// Elements along `dim`; 1 where the tensor does not have it.
  [[nodiscard]] std::uint64_t extent(Dim dim) const noexcept;
  /// Bytes a step along `dim` moves; 0 where the tensor does not have it.
  [[nodiscard]] std::uint64_t stride(Dim dim) const noexcept;
  [[nodiscard]] bool has(Dim dim) const noexcept;
  /// Bytes from the first element to behind the last.
  [[nodiscard]] std::uint64_t bytes() const noexcept { return bytes_; }

  /// The config of `num_layers` such tensors: num_heads is set if the tensor has Head.
  /// @throws like LayoutConfig::Builder::build
  [[nodiscard]] LayoutConfig config(std::uint64_t num_layers) const;

  /// Refuses a config of another shape. A tensor without Head fits a config with num_heads if its
  /// payload is inner_dim: the heads of a token then lie one behind the other.
  /// @throws Error(InvalidArgument) naming the dimension, the tensor's and the config's extent
  void check_config(LayoutConfig const& config) const;

  /// "[no=2,nb=64,nt=16,nh=8,hd=128] x 2 B".
  [[nodiscard]] std::string to_string() const;

  friend bool operator==(KvDimLayout const&, KvDimLayout const&) = default;

 private:
  [[nodiscard]] TensorDim const* find(Dim dim) const noexcept;
  std::vector<TensorDim> dims_;
  std::uint64_t element_bytes_;
  std::uint64_t bytes_ = 0;
};

}  // namespace kvbm::layout
