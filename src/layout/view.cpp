// SPDX-License-Identifier: Apache-2.0
#include "kvbm/layout/view.hpp"

#include "kvbm/core/checked.hpp"
#include "kvbm/core/error.hpp"
#include "layout/strides.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>

namespace kvbm::layout {
namespace {

void expect_valid(ViewAxis const& axis) {
  auto const* name = to_string(axis.dim);
  KVBM_EXPECTS(static_cast<std::size_t>(axis.dim) < kNumDims, InvalidArgument,
               fmt::format("{} is not a dimension", static_cast<unsigned>(axis.dim)));
  KVBM_EXPECTS(axis.extent >= 1, InvalidArgument, fmt::format("axis {} has extent 0", name));
  KVBM_EXPECTS(axis.begin <= axis.full && axis.extent <= axis.full - axis.begin, InvalidArgument,
               fmt::format("axis {}: {} elements from {} on are not a part of {}", name,
                           axis.extent, axis.begin, axis.full));
}

}  // namespace

View::View(std::uint64_t element_bytes, std::vector<ViewAxis> axes, std::uint64_t offset,
           std::optional<Dim> region_dim, std::uint64_t first_region)
    : element_bytes_(element_bytes),
      axes_(std::move(axes)),
      offset_(offset),
      region_dim_(region_dim),
      first_region_(first_region) {
  KVBM_EXPECTS(element_bytes == 1 || element_bytes == 2 || element_bytes == 4 || element_bytes == 8,
               InvalidArgument,
               fmt::format("element_bytes must be 1, 2, 4 or 8, got {}", element_bytes));
  std::array<bool, kNumDims> seen{};
  std::vector<detail::StridedDim> strided;
  for (auto& axis : axes_) {
    if (axis.full == 0) { axis.full = axis.extent; }
    expect_valid(axis);
    auto& known = seen[static_cast<std::size_t>(axis.dim)];
    KVBM_EXPECTS(!known, InvalidArgument,
                 fmt::format("axis {} is given twice", to_string(axis.dim)));
    known = true;
    numel_ = detail::bounded_mul(numel_, axis.extent, "elements of a view");
    if (axis.dim == region_dim_) {
      checked_add(first_region_, axis.extent);
      axis.stride_bytes = 0;
    } else {
      strided.push_back({to_string(axis.dim), axis.extent, axis.stride_bytes});
    }
  }
  KVBM_EXPECTS(
      !region_dim_ || has(*region_dim_), InvalidArgument,
      fmt::format("the region axis {} is not an axis of the view", to_string(*region_dim_)));
  reach_ = detail::reach_bytes(strided, element_bytes_);
  KVBM_EXPECTS(offset_ <= kMaxBytes - reach_, Overflow,
               fmt::format("offset {} and {} bytes exceed {}", offset_, reach_, kMaxBytes));
}

bool View::has(Dim dim) const noexcept {
  return std::any_of(axes_.begin(), axes_.end(),
                     [dim](ViewAxis const& axis) { return axis.dim == dim; });
}

std::size_t View::find(Dim dim) const {
  auto const it = std::find_if(axes_.begin(), axes_.end(),
                               [dim](ViewAxis const& axis) { return axis.dim == dim; });
  KVBM_EXPECTS(it != axes_.end(), InvalidArgument,
               fmt::format("the view has no axis {}", to_string(dim)));
  return static_cast<std::size_t>(it - axes_.begin());
}

ViewAxis const& View::axis(Dim dim) const { return axes_[find(dim)]; }

bool View::is_contiguous() const noexcept {
  std::uint64_t next = element_bytes_;
  for (auto it = axes_.rbegin(); it != axes_.rend(); ++it) {
    if (it->extent == 1) { continue; }
    if (it->dim == region_dim_ || it->stride_bytes != next) { return false; }
    // Within reach_, whose computation was checked.
    next *= it->extent;
  }
  return true;
}

std::uint64_t View::contiguous_stride(Dim dim) const {
  std::uint64_t stride = element_bytes_;
  for (auto i = find(dim) + 1; i < axes_.size(); ++i) {
    stride = checked_mul(stride, axes_[i].extent);
  }
  return stride;
}

View View::narrowed(std::size_t index, IndexRange range) const {
  View result = *this;
  auto& axis = result.axes_[index];
  axis.begin += range.begin;
  axis.extent = range.size();
  if (axis.dim == region_dim_) {
    result.first_region_ += range.begin;
  } else {
    result.offset_ += range.begin * axis.stride_bytes;
  }
  return View(element_bytes_, std::move(result.axes_), result.offset_, region_dim_,
              result.first_region_);
}

View View::slice(Dim dim, IndexRange range) const {
  auto const index = find(dim);
  KVBM_EXPECTS(
      !axes_[index].sliced, InvalidArgument,
      fmt::format(
          "axis {} was sliced before (elements {} of {}); slice the whole view", to_string(dim),
          to_string(IndexRange{axes_[index].begin, axes_[index].begin + axes_[index].extent}),
          axes_[index].full));
  check_range(range, axes_[index].extent, fmt::format("slice of axis {}", to_string(dim)).c_str());
  auto result = narrowed(index, range);
  result.axes_[index].sliced = true;
  return result;
}

View View::shard(Dim dim, std::uint64_t rank, std::uint64_t count) const {
  auto const extent = axis(dim).extent;
  KVBM_EXPECTS(count >= 1 && extent % count == 0, InvalidArgument,
               fmt::format("axis {} of extent {} cannot be cut into {} equal shards",
                           to_string(dim), extent, count));
  KVBM_EXPECTS(rank < count, OutOfRange, fmt::format("shard {} of {}", rank, count));
  auto const part = extent / count;
  return slice(dim, {rank * part, (rank + 1) * part});
}

View View::select(Dim dim, std::uint64_t index) const {
  auto const position = find(dim);
  KVBM_EXPECTS(index < axes_[position].extent, OutOfRange,
               fmt::format("index {} of axis {} with extent {}", index, to_string(dim),
                           axes_[position].extent));
  auto result = narrowed(position, {index, index + 1});
  result.axes_.erase(result.axes_.begin() + static_cast<std::ptrdiff_t>(position));
  auto const region_dim = region_dim_ == dim ? std::nullopt : region_dim_;
  return View(element_bytes_, std::move(result.axes_), result.offset_, region_dim,
              result.first_region_);
}

View View::placed(Dim dim, std::uint64_t begin, std::uint64_t full) const {
  auto const index = find(dim);
  KVBM_EXPECTS(!axes_[index].sliced, InvalidArgument,
               fmt::format("axis {} was sliced and cannot be placed", to_string(dim)));
  KVBM_EXPECTS(begin <= full && axes_[index].extent <= full - begin, OutOfRange,
               fmt::format("axis {}: {} elements from {} on are outside of {}", to_string(dim),
                           axes_[index].extent, begin, full));
  View result = *this;
  result.axes_[index].begin = begin;
  result.axes_[index].full = full;
  return result;
}

ViewLocation View::at(std::span<std::uint64_t const> indices) const {
  KVBM_EXPECTS(indices.size() == axes_.size(), InvalidArgument,
               fmt::format("{} indices for a view of {} axes", indices.size(), axes_.size()));
  ViewLocation location{first_region_, offset_};
  for (std::size_t i = 0; i < indices.size(); ++i) {
    KVBM_EXPECTS(indices[i] < axes_[i].extent, OutOfRange,
                 fmt::format("index {} of axis {} with extent {}", indices[i],
                             to_string(axes_[i].dim), axes_[i].extent));
    (axes_[i].dim == region_dim_ ? location.region : location.offset) +=
        indices[i] * (axes_[i].dim == region_dim_ ? 1 : axes_[i].stride_bytes);
  }
  return location;
}

ViewLocation View::at(std::initializer_list<std::uint64_t> indices) const {
  return at(std::span(indices.begin(), indices.size()));
}

Checksum View::signature() const {
  auto text = fmt::format("kvbm-view-1;{}", element_bytes_);
  for (auto const& axis : axes_) {
    text += axis.dim == region_dim_
                ? fmt::format(";{}={}*region", to_string(axis.dim), axis.extent)
                : fmt::format(";{}={}*{}", to_string(axis.dim), axis.extent, axis.stride_bytes);
  }
  return checksum_bytes(text.data(), text.size());
}

std::optional<ViewIntersection> intersect(View const& first, View const& second) {
  KVBM_EXPECTS(first.element_bytes() == second.element_bytes(), InvalidArgument,
               fmt::format("elements of {} and of {} bytes cannot be the same",
                           first.element_bytes(), second.element_bytes()));
  for (auto const& axis : second.axes()) {
    KVBM_EXPECTS(first.has(axis.dim), InvalidArgument,
                 fmt::format("axis {} is in the second view only", to_string(axis.dim)));
  }
  View narrow_first = first;
  View narrow_second = second;
  std::vector<AxisOverlap> narrowed;
  for (auto const& a : first.axes()) {
    KVBM_EXPECTS(second.has(a.dim), InvalidArgument,
                 fmt::format("axis {} is in the first view only", to_string(a.dim)));
    auto const& b = second.axis(a.dim);
    KVBM_EXPECTS(
        a.full == b.full, InvalidArgument,
        fmt::format("axis {} has {} elements in the first view's whole, {} in the second's",
                    to_string(a.dim), a.full, b.full));
  }
  for (auto const& a : first.axes()) {
    auto const& b = second.axis(a.dim);
    auto const begin = std::max(a.begin, b.begin);
    auto const end = std::min(a.begin + a.extent, b.begin + b.extent);
    if (begin >= end) { return std::nullopt; }
    AxisOverlap const overlap{
        a.dim, {begin - a.begin, end - a.begin}, {begin - b.begin, end - b.begin}};
    if (overlap.first.size() != a.extent || overlap.second.size() != b.extent) {
      narrowed.push_back(overlap);
      narrow_first = narrow_first.narrowed(narrow_first.find(a.dim), overlap.first);
      narrow_second = narrow_second.narrowed(narrow_second.find(a.dim), overlap.second);
    }
  }
  return ViewIntersection{std::move(narrowed), std::move(narrow_first), std::move(narrow_second)};
}

}  // namespace kvbm::layout
