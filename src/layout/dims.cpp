// SPDX-License-Identifier: Apache-2.0
#include "kvbm/layout/dims.hpp"

#include "kvbm/core/checked.hpp"
#include "kvbm/core/error.hpp"
#include "layout/strides.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <iterator>

namespace kvbm::layout {
namespace {

/// Fills in strides that were left to us: densely packed, inside out.
void fill_strides(std::vector<TensorDim>& dims, std::uint64_t element_bytes) {
  std::uint64_t next = element_bytes;
  for (auto it = dims.rbegin(); it != dims.rend(); ++it) {
    if (it->stride_bytes == 0) { it->stride_bytes = next; }
    KVBM_EXPECTS(it->stride_bytes <= kMaxBytes, Overflow,
                 fmt::format("stride {} of tensor dimension {} exceeds {} bytes", it->stride_bytes,
                             to_string(it->dim), kMaxBytes));
    next = detail::bounded_mul(it->stride_bytes, it->extent, "tensor");
  }
}

void expect_valid_names(std::vector<TensorDim> const& dims) {
  std::array<bool, kNumDims> seen{};
  for (auto const& dim : dims) {
    auto const index = static_cast<std::size_t>(dim.dim);
    KVBM_EXPECTS(index < kNumDims, InvalidArgument,
                 fmt::format("{} is not a tensor dimension", index));
    KVBM_EXPECTS(dim.dim != Dim::Layer, InvalidArgument,
                 "a tensor of one layer has no dimension nl: give one tensor a layer");
    KVBM_EXPECTS(!seen[index], InvalidArgument,
                 fmt::format("tensor dimension {} is given twice", to_string(dim.dim)));
    KVBM_EXPECTS(dim.extent >= 1, InvalidArgument,
                 fmt::format("tensor dimension {} has extent 0", to_string(dim.dim)));
    seen[index] = true;
  }
  KVBM_EXPECTS(seen[static_cast<std::size_t>(Dim::Block)], InvalidArgument,
               "the tensor has no dimension nb (Block)");
  KVBM_EXPECTS(seen[static_cast<std::size_t>(Dim::Payload)], InvalidArgument,
               "the tensor has no dimension hd (Payload)");
  KVBM_EXPECTS(dims.back().dim == Dim::Payload, InvalidArgument,
               fmt::format("the tensor's last dimension must be hd (Payload), it is {}",
                           to_string(dims.back().dim)));
}

void expect_equal(char const* dim, std::uint64_t tensor, char const* field, std::uint64_t config) {
  KVBM_EXPECTS(tensor == config, InvalidArgument,
               fmt::format("tensor dimension {} has extent {}, the config's {} is {}", dim, tensor,
                           field, config));
}

}  // namespace

char const* to_string(Dim dim) noexcept {
  constexpr char const* kNames[kNumDims] = {"nb", "nl", "no", "nt", "nh", "hd"};
  auto const index = static_cast<std::size_t>(dim);
  return index < kNumDims ? kNames[index] : "?";
}

KvDimLayout::KvDimLayout(std::vector<TensorDim> dims, std::uint64_t element_bytes)
    : dims_(std::move(dims)), element_bytes_(element_bytes) {
  KVBM_EXPECTS(element_bytes == 1 || element_bytes == 2 || element_bytes == 4 || element_bytes == 8,
               InvalidArgument,
               fmt::format("element_bytes must be 1, 2, 4 or 8, got {}", element_bytes));
  expect_valid_names(dims_);
  fill_strides(dims_, element_bytes_);

  KVBM_EXPECTS(dims_.back().extent == 1 || dims_.back().stride_bytes == element_bytes_,
               InvalidArgument,
               fmt::format("the tensor's payload is not contiguous: stride {}, element {} bytes",
                           dims_.back().stride_bytes, element_bytes_));
  KVBM_EXPECTS(extent(Dim::Outer) <= 2, InvalidArgument,
               fmt::format("tensor dimension no has extent {}, at most 2 are possible (K and V)",
                           extent(Dim::Outer)));
  std::vector<detail::StridedDim> strided;
  std::transform(dims_.begin(), dims_.end(), std::back_inserter(strided), [&](TensorDim const& d) {
    KVBM_EXPECTS(d.extent == 1 || d.stride_bytes % element_bytes_ == 0, InvalidArgument,
                 fmt::format("stride {} of tensor dimension {} is not a multiple of the element's "
                             "{} bytes",
                             d.stride_bytes, layout::to_string(d.dim), element_bytes_));
    return detail::StridedDim{layout::to_string(d.dim), d.extent, d.stride_bytes};
  });
  detail::expect_disjoint(strided, element_bytes_, "tensor");
  bytes_ = detail::reach_bytes(strided, element_bytes_);
}

TensorDim const* KvDimLayout::find(Dim dim) const noexcept {
  auto const it = std::find_if(dims_.begin(), dims_.end(),
                               [dim](TensorDim const& candidate) { return candidate.dim == dim; });
  return it == dims_.end() ? nullptr : &*it;
}

std::uint64_t KvDimLayout::extent(Dim dim) const noexcept {
  auto const* found = find(dim);
  return found == nullptr ? 1 : found->extent;
}

std::uint64_t KvDimLayout::stride(Dim dim) const noexcept {
  auto const* found = find(dim);
  return found == nullptr ? 0 : found->stride_bytes;
}

bool KvDimLayout::has(Dim dim) const noexcept { return find(dim) != nullptr; }

LayoutConfig KvDimLayout::config(std::uint64_t num_layers) const {
  auto builder = LayoutConfig::builder();
  builder.num_blocks(extent(Dim::Block))
      .num_layers(num_layers)
      .outer_dim(extent(Dim::Outer))
      .page_size(extent(Dim::Token))
      .inner_dim(detail::bounded_mul(extent(Dim::Head), extent(Dim::Payload), "inner_dim"))
      .dtype_width_bytes(element_bytes_);
  if (has(Dim::Head)) { builder.num_heads(extent(Dim::Head)); }
  return builder.build();
}

void KvDimLayout::check_config(LayoutConfig const& config) const {
  expect_equal("nb", extent(Dim::Block), "num_blocks", config.num_blocks());
  expect_equal("no", extent(Dim::Outer), "outer_dim", config.outer_dim());
  expect_equal("nt", extent(Dim::Token), "page_size", config.page_size());
  expect_equal("element", element_bytes_, "dtype_width_bytes", config.dtype_width_bytes());
  if (!has(Dim::Head)) {
    expect_equal("hd", extent(Dim::Payload), "inner_dim", config.inner_dim());
    return;
  }
  KVBM_EXPECTS(
      config.num_heads().has_value(), InvalidArgument,
      fmt::format("the tensor has {} heads, the config does not set num_heads", extent(Dim::Head)));
  expect_equal("nh", extent(Dim::Head), "num_heads", *config.num_heads());
  expect_equal("hd", extent(Dim::Payload), "head_dim", config.head_dim());
}

std::string KvDimLayout::to_string() const {
  std::string text = "[";
  for (auto const& dim : dims_) {
    text +=
        fmt::format("{}{}={}", text.size() > 1 ? "," : "", layout::to_string(dim.dim), dim.extent);
  }
  return text + fmt::format("] x {} B", element_bytes_);
}

}  // namespace kvbm::layout
