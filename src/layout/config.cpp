// SPDX-License-Identifier: Apache-2.0
#include "kvbm/layout/config.hpp"

#include "kvbm/core/checked.hpp"
#include "kvbm/core/error.hpp"

#include <fmt/format.h>

#include <limits>

namespace kvbm::layout {
namespace {

void expect_at_least_one(std::uint64_t value, char const* field) {
  KVBM_EXPECTS(value >= 1, InvalidArgument,
               fmt::format("{} must be at least 1, got {}", field, value));
}

void expect_power_of_two(std::uint64_t value, char const* field) {
  KVBM_EXPECTS(is_power_of_two(value), InvalidArgument,
               fmt::format("{} must be a power of two, got {}", field, value));
}

/// Whether the product of `factors` stays within kMaxBytes.
template <typename... Factors>
bool product_fits(Factors... factors) {
  std::uint64_t product = 1;
  bool fits = true;
  ((fits = fits && factors <= kMaxBytes / product, product = fits ? product * factors : 1), ...);
  return fits;
}

}  // namespace

LayoutConfig::Builder LayoutConfig::builder() { return Builder{}; }

std::uint64_t LayoutConfig::head_dim() const {
  KVBM_EXPECTS(
      num_heads_.has_value(), InvalidArgument,
      fmt::format("head_dim needs num_heads, which this config (inner_dim {}) does not set",
                  inner_dim_));
  return inner_dim_ / *num_heads_;
}

std::uint64_t LayoutConfig::chunk_bytes() const noexcept {
  return page_size_ * inner_dim_ * dtype_width_bytes_;
}

std::uint64_t LayoutConfig::block_bytes() const noexcept {
  return num_layers_ * outer_dim_ * chunk_bytes();
}

LayoutConfig LayoutConfig::with_num_blocks(std::uint64_t num_blocks) const {
  Builder copy;
  copy.config_ = *this;
  return copy.num_blocks(num_blocks).build();
}

LayoutConfig LayoutConfig::with_alignment(std::uint64_t alignment) const {
  Builder copy;
  copy.config_ = *this;
  return copy.alignment(alignment).build();
}

LayoutConfig::Builder& LayoutConfig::Builder::num_blocks(std::uint64_t value) {
  config_.num_blocks_ = value;
  return *this;
}

LayoutConfig::Builder& LayoutConfig::Builder::num_layers(std::uint64_t value) {
  config_.num_layers_ = value;
  return *this;
}

LayoutConfig::Builder& LayoutConfig::Builder::outer_dim(std::uint64_t value) {
  config_.outer_dim_ = value;
  return *this;
}

LayoutConfig::Builder& LayoutConfig::Builder::page_size(std::uint64_t value) {
  config_.page_size_ = value;
  return *this;
}

LayoutConfig::Builder& LayoutConfig::Builder::inner_dim(std::uint64_t value) {
  config_.inner_dim_ = value;
  return *this;
}

LayoutConfig::Builder& LayoutConfig::Builder::alignment(std::uint64_t value) {
  config_.alignment_ = value;
  return *this;
}

LayoutConfig::Builder& LayoutConfig::Builder::dtype_width_bytes(std::uint64_t value) {
  config_.dtype_width_bytes_ = value;
  return *this;
}

LayoutConfig::Builder& LayoutConfig::Builder::num_heads(std::optional<std::uint64_t> value) {
  config_.num_heads_ = value;
  return *this;
}

LayoutConfig LayoutConfig::Builder::build() const {
  LayoutConfig const& c = config_;
  expect_at_least_one(c.num_blocks_, "num_blocks");
  constexpr std::uint64_t kMaxBlocks = std::numeric_limits<std::uint32_t>::max();
  KVBM_EXPECTS(c.num_blocks_ <= kMaxBlocks, InvalidArgument,
               fmt::format("num_blocks must be at most {}, got {}", kMaxBlocks, c.num_blocks_));
  expect_at_least_one(c.num_layers_, "num_layers");
  KVBM_EXPECTS(c.outer_dim_ == 1 || c.outer_dim_ == 2, InvalidArgument,
               fmt::format("outer_dim must be 1 or 2, got {}", c.outer_dim_));
  expect_power_of_two(c.page_size_, "page_size");
  expect_at_least_one(c.inner_dim_, "inner_dim");
  expect_power_of_two(c.alignment_, "alignment");
  auto const width = c.dtype_width_bytes_;
  KVBM_EXPECTS(width == 1 || width == 2 || width == 4 || width == 8, InvalidArgument,
               fmt::format("dtype_width_bytes must be 1, 2, 4 or 8, got {}", width));
  if (c.num_heads_) {
    expect_at_least_one(*c.num_heads_, "num_heads");
    KVBM_EXPECTS(
        c.inner_dim_ % *c.num_heads_ == 0, InvalidArgument,
        fmt::format("inner_dim {} is not divisible by num_heads {}", c.inner_dim_, *c.num_heads_));
  }
  KVBM_EXPECTS(
      product_fits(c.num_blocks_, c.num_layers_, c.outer_dim_, c.page_size_, c.inner_dim_, width),
      Overflow,
      fmt::format("num_blocks {} * num_layers {} * outer_dim {} * page_size {} * "
                  "inner_dim {} * dtype_width_bytes {} exceeds {} bytes",
                  c.num_blocks_, c.num_layers_, c.outer_dim_, c.page_size_, c.inner_dim_, width,
                  kMaxBytes));
  return c;
}

}  // namespace kvbm::layout
