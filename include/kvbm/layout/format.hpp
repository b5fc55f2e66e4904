// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "kvbm/layout/config.hpp"

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>

namespace kvbm::layout {

/// The five named dimensions of one KV block.
enum class BlockDim : std::uint8_t { Layer, Outer, Token, Head, HeadDim };

inline constexpr std::size_t kNumBlockDims = 5;

/// One value per BlockDim, indexed by it.
template <typename T>
using PerDim = std::array<T, kNumBlockDims>;

/// "nl", "no", "nt", "nh", "hd".
char const* to_string(BlockDim dim) noexcept;

/// Byte strides of the five dimensions inside one block.
struct BlockStrides {
  PerDim<std::int64_t> bytes{};  ///< bytes a step along each BlockDim moves
  std::uint64_t footprint = 0;   ///< bytes from the block's first byte to behind its last
  friend bool operator==(BlockStrides const&, BlockStrides const&) = default;
};

/// The order of a block's five dimensions in memory: a preset over byte strides.
///
/// Unknown: the chunk of every (layer, outer) lies where an operational format puts it, what is
/// inside a chunk is not known: whole chunks can be moved, heads and tokens cannot be told apart.
class KvBlockLayout {
 public:
  using Order = std::array<BlockDim, kNumBlockDims>;  ///< outermost first
  enum class Kind : std::uint8_t {
    UniversalTP,
    UniversalPP,
    OperationalHND,
    OperationalNHD,
    Custom,
    Strided,
    Unknown
  };

  static KvBlockLayout const UniversalTP;     ///< [nh, nl, no, nt, hd]
  static KvBlockLayout const UniversalPP;     ///< [nl, nh, no, nt, hd]
  static KvBlockLayout const OperationalHND;  ///< [nl, no, nh, nt, hd]
  static KvBlockLayout const OperationalNHD;  ///< [nl, no, nt, nh, hd]
  static KvBlockLayout const Unknown;

  /// Any permutation of the five dimensions. @throws Error(InvalidArgument) naming a repeated one
  static KvBlockLayout Custom(Order const& order);
  /// Explicit byte strides (padded rows, packed K/V). Whether distinct elements keep distinct bytes
  /// is checked against the config when a layout is built. Strides are multiples of the element's
  /// width; those of dimensions of extent 1 do not count.
  ///
  /// In a layer-separate layout the Layer stride is ignored and the footprint is that of a layer's
  /// piece of one block ([no, nt, nh, hd], block first); block second also ignores the Outer stride
  /// and the footprint is that of one chunk ([nt, nh, hd]).
  /// @throws Error(InvalidArgument) a stride is negative or zero footprint
  static KvBlockLayout Strided(BlockStrides const& strides);

  [[nodiscard]] constexpr Kind kind() const noexcept { return kind_; }
  /// The order, outermost first; nullopt for Unknown and Strided.
  [[nodiscard]] std::optional<Order> order() const noexcept;
  /// What was given to Strided; nullopt for all others.
  [[nodiscard]] std::optional<BlockStrides> explicit_strides() const noexcept;
  /// NHD or HND (also a Custom of the same order): [nl, no] outermost.
  [[nodiscard]] bool is_operational() const noexcept;
  /// TP or PP (also a Custom of the same order).
  [[nodiscard]] bool is_universal() const noexcept;
  [[nodiscard]] bool is_unknown() const noexcept { return kind_ == Kind::Unknown; }
  /// Whether every config of this format must state num_heads: all but Unknown.
  [[nodiscard]] bool needs_num_heads() const noexcept { return kind_ != Kind::Unknown; }

  /// Whether bytes have to be rearranged to go from this format to `other`, shape unknown: false
  /// for equal formats (a Custom equals a named one of the same order); true between different
  /// known ones and between Unknown and a known one; false, with a logged warning, between two
  /// Unknowns.
  [[nodiscard]] bool requires_transform(KvBlockLayout const& other) const;
  /// The same for blocks of one shape: dimensions of extent 1 do not count. A config without
  /// num_heads decides nothing more than the formats alone do.
  [[nodiscard]] bool requires_transform(KvBlockLayout const& other,
                                        LayoutConfig const& config) const;

  /// Byte strides for blocks of this shape (Unknown: as NHD with one head of inner_dim elements).
  /// @throws Error(InvalidArgument) needs heads and config has none; a Strided whose elements
  ///         overlap or leave the footprint
  [[nodiscard]] BlockStrides strides(LayoutConfig const& config) const;

  /// "UniversalTP", "Custom[nt,nl,no,nh,hd]", ...; parse() reads it back.
  [[nodiscard]] std::string to_string() const;
  /// @throws Error(InvalidArgument) naming the text
  static KvBlockLayout parse(std::string const& text);

  friend bool operator==(KvBlockLayout const& a, KvBlockLayout const& b) noexcept;

 private:
  constexpr KvBlockLayout(Kind kind, Order order) : kind_(kind), order_(order) {}
  Kind kind_;
  Order order_;
  BlockStrides strides_;
};

}  // namespace kvbm::layout
