// SPDX-License-Identifier: Apache-2.0
#include "kvbm/layout/format.hpp"

#include "kvbm/core/checked.hpp"
#include "kvbm/core/error.hpp"
#include "kvbm/core/log.hpp"
#include "layout/strides.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <charconv>
#include <string_view>
#include <vector>

namespace kvbm::layout {
namespace {

using detail::index_of;
using enum BlockDim;

constexpr KvBlockLayout::Order kOrderTp{Head, Layer, Outer, Token, HeadDim};
constexpr KvBlockLayout::Order kOrderPp{Layer, Head, Outer, Token, HeadDim};
constexpr KvBlockLayout::Order kOrderHnd{Layer, Outer, Head, Token, HeadDim};
constexpr KvBlockLayout::Order kOrderNhd{Layer, Outer, Token, Head, HeadDim};

constexpr char const* kDimNames[kNumBlockDims] = {"nl", "no", "nt", "nh", "hd"};

/// Strides of densely packed dimensions, order[0] outermost. The config bounds the product.
BlockStrides packed(KvBlockLayout::Order const& order, PerDim<std::uint64_t> const& extents,
                    std::uint64_t element_bytes) {
  BlockStrides strides;
  std::uint64_t next = element_bytes;
  for (auto it = order.rbegin(); it != order.rend(); ++it) {
    strides.bytes[index_of(*it)] = static_cast<std::int64_t>(next);
    next = checked_mul(next, extents[index_of(*it)]);
  }
  strides.footprint = next;
  return strides;
}

std::vector<std::string_view> split(std::string_view text, char separator) {
  std::vector<std::string_view> parts;
  for (;;) {
    auto const end = text.find(separator);
    parts.push_back(text.substr(0, end));
    if (end == std::string_view::npos) { return parts; }
    text.remove_prefix(end + 1);
  }
}

/// The text between `prefix` and a closing bracket; nullopt if it is not of that form.
std::optional<std::string_view> bracketed(std::string_view text, std::string_view prefix) {
  if (!text.starts_with(prefix) || !text.ends_with(']')) { return std::nullopt; }
  text.remove_prefix(prefix.size());
  text.remove_suffix(1);
  return text;
}

[[noreturn]] void refuse_text(std::string const& text, char const* why) {
  throw_error(ErrorCode::InvalidArgument,
              fmt::format("not a KV block format: '{}' ({}); expected UniversalTP, UniversalPP, "
                          "OperationalHND, OperationalNHD, Unknown, Custom[nl,no,nt,nh,hd] or "
                          "Strided[nl=..,no=..,nt=..,nh=..,hd=..,footprint=..]",
                          text.substr(0, 200), why));
}

KvBlockLayout parse_custom(std::string const& text, std::string_view body) {
  auto const names = split(body, ',');
  if (names.size() != kNumBlockDims) { refuse_text(text, "five dimensions are needed"); }
  KvBlockLayout::Order order{};
  for (std::size_t i = 0; i < kNumBlockDims; ++i) {
    auto const* const found = std::find(std::begin(kDimNames), std::end(kDimNames), names[i]);
    if (found == std::end(kDimNames)) { refuse_text(text, "unknown dimension"); }
    order[i] = static_cast<BlockDim>(found - std::begin(kDimNames));
  }
  return KvBlockLayout::Custom(order);
}

std::int64_t parse_assignment(std::string const& text, std::string_view part,
                              std::string_view name) {
  if (!part.starts_with(name) || part.size() <= name.size() || part[name.size()] != '=') {
    refuse_text(text, "strides have to be in the order nl, no, nt, nh, hd, footprint");
  }
  part.remove_prefix(name.size() + 1);
  std::int64_t value = 0;
  auto const [end, status] = std::from_chars(part.data(), part.data() + part.size(), value);
  if (status != std::errc{} || end != part.data() + part.size()) {
    refuse_text(text, "not a number of bytes");
  }
  return value;
}

KvBlockLayout parse_strided(std::string const& text, std::string_view body) {
  auto const parts = split(body, ',');
  if (parts.size() != kNumBlockDims + 1) {
    refuse_text(text, "five strides and a footprint are needed");
  }
  BlockStrides strides;
  for (std::size_t i = 0; i < kNumBlockDims; ++i) {
    strides.bytes[i] = parse_assignment(text, parts[i], kDimNames[i]);
  }
  auto const footprint = parse_assignment(text, parts[kNumBlockDims], "footprint");
  if (footprint < 0) { refuse_text(text, "negative footprint"); }
  strides.footprint = static_cast<std::uint64_t>(footprint);
  return KvBlockLayout::Strided(strides);
}

}  // namespace

char const* to_string(BlockDim dim) noexcept {
  auto const index = index_of(dim);
  return index < kNumBlockDims ? kDimNames[index] : "?";
}

constinit KvBlockLayout const KvBlockLayout::UniversalTP{Kind::UniversalTP, kOrderTp};
constinit KvBlockLayout const KvBlockLayout::UniversalPP{Kind::UniversalPP, kOrderPp};
constinit KvBlockLayout const KvBlockLayout::OperationalHND{Kind::OperationalHND, kOrderHnd};
constinit KvBlockLayout const KvBlockLayout::OperationalNHD{Kind::OperationalNHD, kOrderNhd};
constinit KvBlockLayout const KvBlockLayout::Unknown{Kind::Unknown, kOrderNhd};

KvBlockLayout KvBlockLayout::Custom(Order const& order) {
  PerDim<bool> seen{};
  for (auto const dim : order) {
    KVBM_EXPECTS(index_of(dim) < kNumBlockDims, InvalidArgument,
                 fmt::format("Custom format: {} is not a dimension", index_of(dim)));
    KVBM_EXPECTS(!seen[index_of(dim)], InvalidArgument,
                 fmt::format("Custom format names dimension {} twice, each of nl, no, nt, nh, hd "
                             "must appear once",
                             layout::to_string(dim)));
    seen[index_of(dim)] = true;
  }
  return {Kind::Custom, order};
}

KvBlockLayout KvBlockLayout::Strided(BlockStrides const& strides) {
  for (std::size_t i = 0; i < kNumBlockDims; ++i) {
    KVBM_EXPECTS(
        strides.bytes[i] >= 0, InvalidArgument,
        fmt::format("Strided format: stride {} of {} is negative", strides.bytes[i], kDimNames[i]));
  }
  KVBM_EXPECTS(strides.footprint >= 1, InvalidArgument,
               "Strided format: footprint must be at least 1 byte, got 0");
  KVBM_EXPECTS(
      strides.footprint <= kMaxBytes, InvalidArgument,
      fmt::format("Strided format: footprint {} exceeds {} bytes", strides.footprint, kMaxBytes));
  KvBlockLayout format{Kind::Strided, kOrderNhd};
  format.strides_ = strides;
  return format;
}

std::optional<KvBlockLayout::Order> KvBlockLayout::order() const noexcept {
  if (kind_ == Kind::Unknown || kind_ == Kind::Strided) { return std::nullopt; }
  return order_;
}

std::optional<BlockStrides> KvBlockLayout::explicit_strides() const noexcept {
  return kind_ == Kind::Strided ? std::optional(strides_) : std::nullopt;
}

bool KvBlockLayout::is_operational() const noexcept {
  auto const known = order();
  return known && (*known == kOrderHnd || *known == kOrderNhd);
}

bool KvBlockLayout::is_universal() const noexcept {
  auto const known = order();
  return known && (*known == kOrderTp || *known == kOrderPp);
}

bool operator==(KvBlockLayout const& a, KvBlockLayout const& b) noexcept {
  auto const order_a = a.order();
  auto const order_b = b.order();
  if (order_a || order_b) { return order_a == order_b; }
  return a.kind_ == b.kind_ && a.strides_ == b.strides_;
}

bool KvBlockLayout::requires_transform(KvBlockLayout const& other) const {
  if (is_unknown() && other.is_unknown()) {
    log::write(log::Level::Warning,
               "two layouts of Unknown format are taken to have the same order of dimensions");
    return false;
  }
  return !(*this == other);
}

bool KvBlockLayout::requires_transform(KvBlockLayout const& other,
                                       LayoutConfig const& config) const {
  if (!requires_transform(other)) { return false; }
  if (is_unknown() || other.is_unknown() || !config.num_heads()) { return true; }
  auto const extents = detail::block_extents(config, *this);
  auto const strides_of = [&](KvBlockLayout const& format) {
    return format.kind_ == Kind::Strided
               ? format.strides_
               : packed(format.order_, extents, config.dtype_width_bytes());
  };
  auto const mine = strides_of(*this);
  auto const others = strides_of(other);
  for (std::size_t i = 0; i < kNumBlockDims; ++i) {
    if (extents[i] > 1 && mine.bytes[i] != others.bytes[i]) { return true; }
  }
  return false;
}

BlockStrides KvBlockLayout::strides(LayoutConfig const& config) const {
  auto const extents = detail::block_extents(config, *this);
  if (kind_ == Kind::Strided) {
    detail::check_strided(strides_, extents, config.dtype_width_bytes(), BlockDim::Layer);
    return strides_;
  }
  return packed(order_, extents, config.dtype_width_bytes());
}

std::string KvBlockLayout::to_string() const {
  switch (kind_) {
    case Kind::UniversalTP: return "UniversalTP";
    case Kind::UniversalPP: return "UniversalPP";
    case Kind::OperationalHND: return "OperationalHND";
    case Kind::OperationalNHD: return "OperationalNHD";
    case Kind::Unknown: return "Unknown";
    case Kind::Custom: {
      std::vector<std::string_view> names;
      for (auto const dim : order_) {
        names.emplace_back(layout::to_string(dim));
      }
      return fmt::format("Custom[{}]", fmt::join(names, ","));
    }
    case Kind::Strided: break;
  }
  return fmt::format("Strided[nl={},no={},nt={},nh={},hd={},footprint={}]", strides_.bytes[0],
                     strides_.bytes[1], strides_.bytes[2], strides_.bytes[3], strides_.bytes[4],
                     strides_.footprint);
}

KvBlockLayout KvBlockLayout::parse(std::string const& text) {
  for (auto const& format : {UniversalTP, UniversalPP, OperationalHND, OperationalNHD, Unknown}) {
    if (format.to_string() == text) { return format; }
  }
  if (auto const body = bracketed(text, "Custom[")) { return parse_custom(text, *body); }
  if (auto const body = bracketed(text, "Strided[")) { return parse_strided(text, *body); }
  refuse_text(text, "unknown name");
}

}  // namespace kvbm::layout
